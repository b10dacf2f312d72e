"""GetFleetSummary and ListLabels."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.json_format import MessageToDict

from jobs_grpc.services.fleet import _LABEL_LIMITS
from tests.support.database import Database, request_session
from tests.support.world import World

DEVICES = [f"d{n:02}" for n in range(12)]
LIMITS = {"max_devices": 10, "max_pairs": 8, "max_labels": 5, "max_values": 5, "max_groups": 5}


async def see(world: World, device: str, ago: timedelta) -> None:
    """Store that a device was last seen so long ago."""
    await world.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, last_seen_at)"
        " VALUES ($1, $2, jobs.now() - $3::interval)",
        device,
        ago,
    )


def fields(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True)


async def test_devices_are_counted_by_last_seen(world: World) -> None:
    await world.add_devices(DEVICES)
    for name, ago in {
        "d00": timedelta(minutes=59),
        "d01": timedelta(hours=1, minutes=1),
        "d02": timedelta(hours=23),
        "d03": timedelta(hours=25),
        "d04": timedelta(days=8),
        "removed": timedelta(0),  # Its labels are removed later.
    }.items():
        await see(world, name, ago)
    await world.database.add_labels(world.tenant, {"d05": {"model": "a"}})

    summary = await world.fleet.summary()

    expected = {"within_hour": 1, "within_day": 2, "within_week": 1, "earlier": 1, "never": 7}
    assert fields(summary.last_seen) == expected
    assert summary.device_count == 12
    now = await world.time_in(0)
    assert now.seconds - 60 < summary.computed_at.seconds <= now.seconds


async def test_active_jobs_and_their_failures_are_counted(world: World) -> None:
    await world.add_devices(DEVICES)
    operator, later = world.operator, await world.time_in(3600)
    await world.create("a", "b", "canceled", "expired", "paused")
    await world.create("later", start_at=later)
    canary = {"device_count": 1, "gate": {"require_approval": True}}
    awaits = await world.create_staged(canary, {"remainder": True}, job_id="awaits")
    for job_id, device, status, code in (
        *(("a", f"d{n:02}", "FAILED", "E1") for n in range(3)),
        ("b", "d00", "FAILED", "E1"),
        ("b", "d01", "REJECTED", "E1"),
        ("b", "d02", "FAILED", ""),
        ("paused", "d03", "FAILED", "E2"),
        ("canceled", "d04", "FAILED", "E3"),
    ):
        await world.device(device).update(job_id, status, failure_code=code)
    await awaits.finish(0)
    await operator.pause("paused")
    await operator.cancel("canceled")
    await world.expire("expired")

    summary = await world.fleet.summary()

    assert fields(summary.jobs) == {
        "in_progress": 3,
        "paused": 1,
        "scheduled": 1,
        "awaiting_approval": 1,
    }
    assert [
        (JobExecution.Status.Name(f.status), f.failure_code, f.execution_count, [*f.job_ids])
        for f in summary.failures
    ] == [
        ("FAILED", "E1", 4, ["a", "b"]),
        ("FAILED", "", 1, ["b"]),
        ("FAILED", "E2", 1, ["paused"]),
        ("REJECTED", "E1", 1, ["b"]),
    ]
    assert summary.other_failure_count == 0


async def test_failures_beyond_the_most_frequent_ones_are_counted_together(world: World) -> None:
    await world.add_devices(DEVICES)
    await world.create("a", "b", "c", "d")
    for job_id in "abcd":
        await world.device("d00").update(job_id, "FAILED", failure_code="E1")
    for n in range(1, 11):
        await world.device(f"d{n:02}").update("a", "FAILED", failure_code=f"E{n:02}")
    # The failures of a job with more than 100 codes.
    await world.execute(
        "UPDATE jobs.job_failures SET failure_code = '*'"
        " WHERE tenant_id = $1 AND failure_code = 'E10'"
    )

    async with request_session(world.database) as (_, store):
        row = await store.get_fleet_summary(world.tenant, max_jobs=10, max_failures=3)
        of_one_job = await store.get_fleet_summary(world.tenant, max_jobs=1, max_failures=3)

    assert [f["failure_code"] for f in json.loads(row["failures"])] == ["E1", "E01", "E02"]
    assert json.loads(row["failures"])[0]["job_ids"] == ["a", "b", "c"]
    assert json.loads(row["failures"])[0]["job_count"] == 4
    assert (row["other_failure_count"], row["in_progress"]) == (8, 4)
    assert of_one_job["in_progress"] == 1


async def test_summary_of_a_fleet_is_kept_but_not_that_of_a_tenant_without_devices(
    world: World,
) -> None:
    assert (await world.fleet.summary()).device_count == 0
    assert not (await world.fleet.labels()).labels
    await world.add_devices(["a"], group="north")
    first, labels = await world.fleet.summary(), await world.fleet.labels()
    await world.add_devices(["b"], group="south")

    assert first.device_count == 1
    assert await world.fleet.summary() == first
    assert await world.fleet.labels() == labels
    other = world.server.fleet(f"{world.tenant}-other")
    assert (await other.summary()).device_count == 0
    assert await other.labels() == pb.ListLabelsResponse(complete=True)


async def test_labels_of_a_large_fleet_without_any_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_LABEL_LIMITS, "max_devices", 1)
    for device in "ab":
        await see(world, device, timedelta(0))
    assert await world.fleet.labels() == pb.ListLabelsResponse()

    await world.database.add_labels(world.tenant, {"a": {"model": "x"}})

    assert await world.fleet.labels() == pb.ListLabelsResponse()


async def test_calls_of_a_tenant_wait_for_one_computation(database: Database, world: World) -> None:
    await world.add_devices(["a"], group="north")
    async with database.owner.transaction():
        # Briefly: the server's check of the database waits for it, too.
        await database.owner.execute("LOCK TABLE jobs.devices")
        first = await database.blocked_in("get_fleet_summary", world.fleet.summary())
        second = asyncio.ensure_future(world.fleet.summary())
        await world.fleet.groups()  # The server has received the second call.
        assert not second.done()

    summary = await first
    assert summary.device_count == 1
    assert await second == summary


async def test_labels_and_groups_are_listed_with_their_devices(world: World) -> None:
    await world.add_devices(["a", "b", "c"], group="north")
    await world.add_devices(["a"], group="south")
    await world.database.add_labels(
        world.tenant,
        {"a": {"model": "x", "ring": "0"}, "b": {"model": "x"}, "c": {"model": "y"}, "d": {}},
    )

    response = await world.fleet.labels()

    x, y = {"value": "x", "device_count": 2}, {"value": "y", "device_count": 1}
    assert fields(response) == {
        "labels": [
            {"key": "model", "device_count": 3, "values": [x, y]},
            {"key": "ring", "device_count": 1, "values": [{"value": "0", "device_count": 1}]},
        ],
        "groups": [
            {"group_id": "north", "device_count": 3},
            {"group_id": "south", "device_count": 1},
        ],
        "complete": True,
    }


async def test_labels_are_current_after_a_change_of_devices(world: World) -> None:
    await world.add_devices(["a", "b"], group="north")
    assert not (await world.fleet.labels()).labels

    await world.fleet.update(pb.Device(device_id="a", labels={"model": "x"}), mask=["labels"])
    assert [label.key for label in (await world.fleet.labels()).labels] == ["model"]

    await world.fleet.delete("a", "b")
    assert not (await world.fleet.labels()).labels


async def test_labels_and_groups_are_limited(world: World) -> None:
    for n in range(4):
        await world.add_devices(["a", "b", "c"], group=f"g{n}")
    await world.database.add_labels(
        world.tenant, {f"d{n}": {"model": f"m{n}", f"key{n}": "v"} for n in range(4)}
    )

    async def labels(**limits: int) -> tuple[list[tuple[str, int]], int, bool]:
        async with request_session(world.database) as (_, store):
            row = await store.list_labels(world.tenant, **LIMITS | limits)
        listed = [(label["key"], len(label["values"])) for label in json.loads(row["labels"])]
        return listed, len(json.loads(row["groups"])), row["complete"]

    model = ("model", 4)
    keys = [(f"key{n}", 1) for n in range(4)]
    assert await labels() == ([model, *keys], 4, True)
    assert await labels(max_labels=4) == ([model, *keys[:3]], 4, False)
    assert await labels(max_values=3) == ([("model", 3), *keys], 4, True)
    assert await labels(max_groups=3) == ([model, *keys], 3, False)
    # One more pair is read: the first seven.
    assert await labels(max_pairs=6) == ([("model", 3), *keys], 4, False)
    # One more device is read, and members are counted until there are as many.
    assert await labels(max_devices=3) == ([model, *keys], 1, False)
