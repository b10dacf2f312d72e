"""Devices that change join continuous jobs; full scans find the others."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from fleet.jobs.v1.fleet_pb2 import Device

from jobs_grpc.db.device_import import DeviceRow, import_devices
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import LockTimeout, Overloaded
from jobs_grpc.maintenance import joins
from jobs_grpc.maintenance.joins import Joins
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.maintenance.task import JobKey
from tests.support.callers import Fleet as FleetCaller
from tests.support.database import edited_function, request_session
from tests.support.postgres import connected
from tests.support.waiting import wait_until_equal
from tests.support.world import World

SETTLE = 60.0


@dataclass
class Fleet:
    """A tenant with the continuous job "j" for devices with track=x that are not on 2.1."""

    world: World
    store: Store
    sweeper: Sweeper

    @property
    def joins(self) -> Joins:
        assert self.sweeper.joins
        return self.sweeper.joins

    async def notes(self) -> list[str]:
        """The devices that notes name."""
        rows = await self.world.rows(
            "SELECT unnest(device_ids) AS device_id FROM jobs.device_changes WHERE tenant_id = $1"
            " ORDER BY 1"
        )
        return [row["device_id"] for row in rows]

    async def joined(self, job_id: str = "j") -> list[str]:
        """The devices with an execution."""
        rows = await self.world.rows(
            "SELECT device_id FROM jobs.job_executions"
            " WHERE tenant_id = $1 AND job_id = $2 ORDER BY 1",
            job_id,
        )
        return [row["device_id"] for row in rows]

    async def scan(self) -> None:
        await self.joins.scans.run(0)

    async def settle(self) -> None:
        """End the scans after the creation, and forget the notes."""
        await self.scan()
        await self.world.pass_time(SETTLE)
        await self.scan()
        await self.joins.changes.run()


async def _update(caller: FleetCaller, device_ids: Iterable[str], **fields: Any) -> None:
    """Register devices, or set these fields of them."""
    devices = [Device(device_id=device_id, **fields) for device_id in device_ids]
    await caller.update(*devices, mask=list(fields), allow_missing=True)


@pytest.fixture
async def fleet(world: World) -> AsyncIterator[Fleet]:
    await _update(world.fleet, ["a"], labels={"track": "x"})
    await world.create(target_selector="track=x,fact.version!=2.1", continuous=True)
    async with request_session(world.database) as (_, store):
        make = partial(Joins, store=store, max_targets=1000, interval=900, settle=SETTLE)
        async with Sweeper(world.database.owner_dsn, make_joins=make) as sweeper:
            yield Fleet(world, store, sweeper)


async def test_device_that_is_registered_through_the_service_gets_its_execution(
    fleet: Fleet,
) -> None:
    async with fleet.world.with_background_work():
        await _update(fleet.world.fleet, ["b"], labels={"track": "x"})
        await wait_until_equal(fleet.joined, ["a", "b"])
        await wait_until_equal(fleet.notes, [])


async def test_only_changes_that_can_let_a_device_join_are_noted(fleet: Fleet) -> None:
    world = fleet.world
    await _update(world.fleet, ["b", "c"])
    assert await fleet.notes() == ["b", "c"]
    await fleet.joins.changes.run()

    await world.device("b").facts({"battery": "low"})
    await _update(world.fleet, ["a"], labels={"track": "x"})
    assert await fleet.notes() == []
    await _update(world.fleet, ["a", "b"], labels={"track": "x"})
    await world.device("c").facts({"version": "2.0", "battery": "low"})
    assert await fleet.notes() == ["b", "c"]
    await world.device("c").facts({"battery": "low"}, replace=True)
    await world.fleet.update(Device(device_id="a"), remove_labels=["track"])
    await _update(world.fleet, ["c"], group_ids=["g"])
    await _update(world.fleet, ["c"], group_ids=["g"])
    assert await fleet.notes() == ["a", "b", "c", "c", "c"]

    await fleet.joins.changes.run()
    assert (await fleet.joined(), await fleet.notes()) == (["a", "b"], [])


async def test_tenant_without_continuous_job_notes_nothing(fleet: Fleet) -> None:
    await fleet.joins.changes.run()
    await fleet.world.operator.update("j", "continuous", continuous=False)
    await _update(fleet.world.fleet, ["b"], labels={"track": "x"})
    await fleet.world.device("b").facts({"version": "2.0"})
    rows = [DeviceRow("c")]
    await import_devices(fleet.world.database.owner_dsn, fleet.world.tenant, rows)
    count = "SELECT count(*) FROM jobs.device_changes WHERE tenant_id = $1"
    assert await fleet.world.owner_value(count) == 0


async def test_report_that_overtakes_another_is_noted(fleet: Fleet) -> None:
    """The second report has read the facts before the first one changes them."""
    world = fleet.world
    await world.device("a").facts({"version": "2.0", "battery": "ok"})
    await fleet.joins.changes.run()
    pause = "IF p_facts[1] LIKE '%low%' THEN PERFORM pg_advisory_xact_lock(1); END IF;"
    async with (
        edited_function(
            world.database, "update_facts", "    v_keys := ARRAY", f"{pause}    v_keys := ARRAY"
        ),
        connected(world.database.owner_dsn) as holder,
    ):
        await holder.execute("SELECT pg_advisory_lock(1)")
        second = await world.blocked(world.device("a").facts({"version": "2.0", "battery": "low"}))
        await world.device("a").facts({"version": "2.1"})
        await fleet.joins.changes.run()
        await holder.execute("SELECT pg_advisory_unlock(1)")
        await second
    assert await fleet.notes() == ["a"]


async def test_change_during_the_look_keeps_its_note(fleet: Fleet) -> None:
    """A crash or a change between any two steps loses no device: each step is repeated."""
    world = fleet.world
    await _update(world.fleet, ["b", "c"], labels={"track": "y"})
    first = await fleet.store.read_device_changes(world.tenant, limit=10, max_changes=100)
    again = await fleet.store.read_device_changes(world.tenant, limit=10, max_changes=100)
    assert first["change_ids"] == again["change_ids"]  # the reader died
    assert first["job_ids"] == ["j"]
    await fleet.joins.join((world.tenant, "j"), first["device_ids"], wait_ms=0)
    await _update(world.fleet, ["b"], labels={"track": "x"})
    for notes in (first, again):  # another server deletes them as well
        await fleet.store.delete_device_changes(
            world.tenant,
            noted_at=notes["noted_at"],
            change_ids=notes["change_ids"],
            failed_job_ids=[],
        )
    assert await fleet.notes() == ["b"]
    await fleet.joins.changes.run()
    assert await fleet.joined() == ["a", "b"]


async def test_busy_job_gets_a_full_scan_and_does_not_delay_the_others(fleet: Fleet) -> None:
    world = fleet.world
    await world.create("k", target_all=True, continuous=True)
    await fleet.settle()
    await _update(world.fleet, ["b"], labels={"track": "x"})
    async with world.lock_held("j"):
        await fleet.joins.changes.run()
        assert (await fleet.joined(), await fleet.joined("k")) == (["a"], ["a", "b"])
    assert (await fleet.notes(), await _behind(fleet)) == ([], ["j"])
    await fleet.scan()
    assert (await fleet.joined(), await _behind(fleet)) == (["a", "b"], [])


async def test_busy_jobs_of_a_tenant_share_the_wait_for_locks(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.world.create("k", "l", target_all=True, continuous=True)
    await _update(fleet.world.fleet, ["b"], labels={"track": "x"})
    now, waits = 0.0, []

    async def join(job: JobKey, device_ids: Sequence[str], *, wait_ms: int) -> Row:
        nonlocal now
        if job[0] == fleet.world.tenant:
            waits.append(wait_ms)
            now += wait_ms / 1000
        raise LockTimeout

    monkeypatch.setattr(joins, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(fleet.joins.changes, "_join", join)
    await fleet.joins.changes.run()
    assert (waits, await _behind(fleet)) == ([1000, 100, 100], ["j", "k", "l"])


async def _behind(fleet: Fleet) -> list[str]:
    rows = await fleet.world.rows(
        "SELECT job_id FROM jobs.continuous_jobs WHERE tenant_id = $1 AND is_behind"
    )
    return [row["job_id"] for row in rows]


@pytest.mark.parametrize("cause", ["too many notes", "import"])
async def test_full_scan_replaces_notes(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    await fleet.settle()
    if cause == "too many notes":
        monkeypatch.setattr(joins, "NOTES_PER_BATCH", 2)
        monkeypatch.setattr(joins, "MAX_NOTED_DEVICES", 2)
        await _update(fleet.world.fleet, ["b", "c", "d"], labels={"track": "x"})
    else:
        rows = [DeviceRow(device, labels={"track": "x"}) for device in "bcd"]
        await import_devices(fleet.world.database.owner_dsn, fleet.world.tenant, rows)
    before = await fleet.store.next_scan_range(fleet.world.tenant, job_id="j", limit=10)
    assert before["due_at"] is None

    await fleet.joins.changes.run()
    assert (await fleet.notes(), await _behind(fleet)) == ([], ["j"])
    assert len(await fleet.joined()) < 4
    await fleet.scan()
    assert await fleet.joined() == ["a", "b", "c", "d"]
    assert await _behind(fleet) == []


async def test_another_pass_follows_when_notes_are_dropped_during_a_pass(fleet: Fleet) -> None:
    await fleet.settle()
    await _update(fleet.world.fleet, ["b", "c"])
    await fleet.joins.changes.run()
    tenant = fleet.world.tenant
    await fleet.world.execute("SELECT jobs.rescan_jobs($1, NULL)")

    found = await fleet.store.next_scan_range(tenant, job_id="j", limit=2)
    assert (found["after"], found["last"]) == ("", "b")
    await fleet.joins.join((tenant, "j"), None, "", "b", wait_ms=0)
    await _finish(fleet, found, last="b")
    # The device is in the range that the scan has read.
    await fleet.world.database.add_labels(tenant, {"b": {"track": "x"}})
    await fleet.world.execute("SELECT jobs.rescan_jobs($1, NULL)")
    # Another server read the same range, and is late.
    await _finish(fleet, found, last="b")
    found = await fleet.store.next_scan_range(tenant, job_id="j", limit=2)
    assert (found["after"], found["last"]) == ("b", None)
    await fleet.joins.join((tenant, "j"), None, "b", None, wait_ms=0)
    await _finish(fleet, found, last=None)
    assert (await fleet.joined(), await _behind(fleet)) == (["a"], ["j"])

    await fleet.scan()
    assert (await fleet.joined(), await _behind(fleet)) == (["a", "b"], [])


async def _finish(fleet: Fleet, found: Row, last: str | None, wait_ms: int = 0) -> int:
    return await fleet.store.finish_scan_range(
        fleet.world.tenant,
        job_id="j",
        due_at=found["due_at"],
        read_at=found["read_at"],
        after=found["after"],
        last=last,
        interval_seconds=900.0,
        settle_seconds=SETTLE,
        wait_ms=wait_ms,
    )


async def test_pass_is_repeated_until_transactions_from_before_the_job_have_ended(
    fleet: Fleet,
) -> None:
    await fleet.scan()
    await fleet.world.database.add_labels(fleet.world.tenant, {"b": {"track": "x"}})
    await fleet.world.add_devices(["b"])
    await fleet.scan()
    assert await fleet.joined() == ["a"]
    await fleet.world.pass_time(SETTLE)
    await fleet.scan()
    assert await fleet.joined() == ["a", "b"]
    # The next one is a regular scan.
    await fleet.world.database.add_labels(fleet.world.tenant, {"c": {"track": "x"}})
    await fleet.world.add_devices(["c"])
    await fleet.world.pass_time(800)
    await fleet.scan()
    assert await fleet.joined() == ["a", "b"]
    await fleet.world.pass_time(100)
    await fleet.scan()
    assert await fleet.joined() == ["a", "b", "c"]


async def test_pass_ends_executions_of_devices_that_are_gone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform has removed them, and one is back later: it gets its execution again."""
    monkeypatch.setattr(joins, "DEVICES_PER_RANGE", 2)
    world = fleet.world
    await _update(world.fleet, ["b", "c"], labels={"track": "x"})
    await fleet.settle()
    await world.database.remove_devices(world.tenant, ["a", "c"])
    await world.pass_time(900)
    await fleet.scan()
    job = await world.operator.get("j")
    assert (job.execution_counts.queued, job.execution_counts.rejected) == (1, 2)

    await _update(world.fleet, ["a"], labels={"track": "x"})
    await fleet.joins.changes.run()
    job = await world.operator.get("j")
    assert (job.execution_counts.queued, job.execution_counts.rejected) == (2, 1)


async def test_pass_keeps_executions_of_devices_that_come_back(fleet: Fleet) -> None:
    world = fleet.world
    await world.add_devices(["b"])
    await world.database.remove_devices(world.tenant, ["a"])
    found = await fleet.store.next_scan_range(world.tenant, job_id="j", limit=10)
    async with world.lock_held():
        ending = await world.blocked(_finish(fleet, found, last=None, wait_ms=10_000))
        await world.add_devices(["a"])
    assert await ending == 0


async def test_device_that_comes_back_does_not_hide_others_that_are_gone(fleet: Fleet) -> None:
    world = fleet.world
    await _update(world.fleet, ["b", "c", "d"], labels={"track": "x"})
    await fleet.settle()
    await world.database.remove_devices(world.tenant, ["a", "b", "c"])
    await world.execute("SELECT jobs.rescan_jobs($1, NULL)")
    found = await fleet.store.next_scan_range(world.tenant, job_id="j", limit=10)
    limit = ("finish_scan_range", "c_max_ended CONSTANT integer := 1000")
    async with edited_function(world.database, *limit, limit[1].replace("1000", "2")):
        async with world.lock_held():
            ending = await world.blocked(_finish(fleet, found, last=None, wait_ms=10_000))
            await world.add_devices(["a"])
        await ending
        await fleet.scan()
    assert (await world.operator.get("j")).execution_counts.rejected == 2


async def test_job_that_ended_is_not_scanned_again(fleet: Fleet) -> None:
    await fleet.world.expire()
    await fleet.scan()
    assert (
        await fleet.world.owner_value(
            "SELECT count(*) FROM jobs.continuous_jobs WHERE tenant_id = $1"
        )
        == 0
    )


async def test_job_that_is_purged_before_its_next_pass_can_be_created_again(fleet: Fleet) -> None:
    await fleet.settle()
    await fleet.world.expire()
    await fleet.world.operator.delete("j")
    await fleet.sweeper.run_cleanup()
    rows = "SELECT count(*) FROM jobs.continuous_jobs WHERE tenant_id = $1"
    assert await fleet.world.owner_value(rows) == 0
    await fleet.world.create(target_all=True, continuous=True)


async def test_tenant_whose_calls_take_all_connections_does_not_stop_the_others(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, read = fleet.world, fleet.store.read_device_changes
    await _update(world.fleet, ["b"], labels={"track": "x"})

    async def fetch(_: str, __: int, after: str) -> Sequence[Any]:
        tenant_ids = () if after else ("!busy", world.tenant)
        rows = "SELECT u.tenant_id, now() AS due_at FROM unnest($2::text[]) AS u (tenant_id)"
        return await world.rows(f"{rows} WHERE $1 <> ''", tenant_ids)

    async def read_unless_busy(tenant_id: str, **fields: int) -> Row:
        if tenant_id == "!busy":
            raise Overloaded
        return await read(tenant_id, **fields)

    monkeypatch.setattr(fleet.joins.changes, "_fetch", fetch)
    monkeypatch.setattr(fleet.store, "read_device_changes", read_unless_busy)
    await fleet.joins.changes.run()
    assert await fleet.joined() == ["a", "b"]


async def test_tenant_that_fails_is_logged_once_and_skipped(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    world = fleet.world
    await _update(world.fleet, ["b"], labels={"track": "x"})
    async with edited_function(world.database, "join_devices", "BEGIN", "BEGIN PERFORM 1 / 0;"):
        await fleet.joins.changes.run()
        await _update(world.fleet, ["c"], labels={"track": "x"})
        await fleet.joins.changes.run()
    # The database can have notes of other tests.
    failures = [r.__dict__.get("tenant") for r in caplog.records]
    assert failures.count(world.tenant) == 1
    await fleet.scan()
    assert await fleet.joined() == ["a", "b", "c"]
