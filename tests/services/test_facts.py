"""UpdateFacts: what devices say about themselves, and selectors of it; alone and in races."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from fleet.jobs.v1.fleet_pb2 import Device

from tests.support.database import rows_locked, uncommitted
from tests.support.failures import expect_error, invalid_fields
from tests.support.server import Server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

_MAX_FACTS = {f"k{n}": "v" for n in range(32)}


@pytest.fixture
async def platform(world: World) -> AsyncIterator[None]:
    """The device tables belong to the platform during the test."""
    await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    yield
    await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = true")


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    await world.add_devices(["pump", "valve"])


async def _facts(world: World, device: str = "pump") -> dict[str, str]:
    return dict((await world.fleet.get(device)).device.facts)


async def _as_bridge(
    world: World, *devices: pb.DeviceFacts, **fields: Any
) -> pb.UpdateFactsResponse:
    metadata = (("x-tenant-id", world.tenant), ("x-roles", "bridge"))
    request = pb.UpdateFactsRequest(devices=devices, **fields)
    stub: Any = world.pump.stub
    response: pb.UpdateFactsResponse = await stub.UpdateFacts(
        request, metadata=metadata, timeout=TIMEOUT
    )
    return response


def _errors(response: pb.UpdateFactsResponse) -> list[str | None]:
    """The reason and the message of each error; None: the facts are stored."""
    return [
        f"{ErrorReason.Name(result.error.reason)} {result.error.message}"
        if result.HasField("error")
        else None
        for result in response.results
    ]


async def test_facts_are_merged_or_replaced(world: World) -> None:
    await world.pump.facts({"version": "2.0", "battery": "low"})
    await world.pump.facts({"version": "2.1", "place": 'München 1, "Süd"'})

    device = (await world.fleet.get("pump")).device
    assert device.facts == {"version": "2.1", "battery": "low", "place": 'München 1, "Süd"'}
    assert device.HasField("facts_updated_at")
    assert not device.labels
    assert [each.facts for each in (await world.fleet.list()).devices] == [device.facts, {}]
    await world.pump.facts({"version": "2.2"}, replace=True)
    assert await _facts(world) == {"version": "2.2"}
    await world.pump.facts({}, replace=True)
    assert await _facts(world) == {}


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("own", [True, False])
async def test_repeated_report_writes_nothing(world: World, own: bool) -> None:
    await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = $1", own)
    query = (
        "SELECT (f.ctid, f.xmin, f.xmax, f.facts_updated_at, d.xmax)::text FROM jobs.device_facts f"
        " JOIN public.device_state d USING (tenant_id, device_id) WHERE tenant_id = $1"
    )
    await world.pump.facts({"a": "1", "b": "2"})
    before = await world.database.owner.fetchval(query, world.tenant)

    await world.pump.facts({"a": "1"})
    await world.pump.facts({"a": "1", "b": "2"}, replace=True)
    await _as_bridge(world, pb.DeviceFacts(device_id="pump", facts={"b": "2"}))

    assert await world.database.owner.fetchval(query, world.tenant) == before


async def test_bridge_reports_for_several_devices_with_a_result_for_each(world: World) -> None:
    await world.pump.facts(_MAX_FACTS)

    response = await _as_bridge(
        world,
        pb.DeviceFacts(device_id="valve", facts={"version": "2.1"}),
        pb.DeviceFacts(device_id="pump", facts={"one": "more"}),
        pb.DeviceFacts(device_id="unknown", facts={"version": "2.1"}),
        pb.DeviceFacts(facts={"k" * 59: "v"}),
    )

    assert _errors(response) == [
        None,
        "INVALID_FIELD facts must have at most 32 keys, including the stored ones",
        "DEVICE_NOT_FOUND Device not found",
        "INVALID_FIELD device_id must be 1–256 characters without control characters;"
        " facts has the key 'kkkkkkkkkkkkkkkkkkkk'; a key must be 1–58 characters of"
        " A-Z a-z 0-9 . _ / -, the first a letter or digit",
    ]
    assert await _facts(world, "valve") == {"version": "2.1"}
    assert await _facts(world) == _MAX_FACTS
    await _as_bridge(world, pb.DeviceFacts(device_id="pump", facts={"one": "more"}), replace=True)
    assert await _facts(world) == {"one": "more"}


async def test_update_facts_is_rejected_when_devices_are_repeated_or_too_many(world: World) -> None:
    pump = pb.DeviceFacts(device_id="pump")
    for fields, problem in (
        ({"devices": [pump, pump]}, "devices must contain each device once, but repeats pump"),
        ({"devices": [pump], "facts": {"a": "b"}}, "devices must be empty if facts is set"),
        ({"devices": [pump] * 101}, "devices must have at most 100 elements"),
    ):
        with pytest.raises(Exception, match=problem):
            await world.pump.call(pb.UpdateFactsRequest(**fields), pb.UpdateFactsResponse)
    await expect_error("DEVICE_REQUIRED", _as_bridge(world, facts={"a": "b"}))


async def test_device_reports_only_its_own_facts(world: World, server: Server) -> None:
    facts = pb.DeviceFacts(device_id="valve", facts={"a": "b"})

    response = await world.pump.call(pb.UpdateFactsRequest(devices=[facts]), pb.UpdateFactsResponse)

    assert _errors(response) == ["INVALID_FIELD device_id must be the ID of the calling device"]
    await expect_error("DEVICE_NOT_FOUND", world.device("unknown").facts({"a": "b"}))
    as_admin = (("x-tenant-id", world.tenant), ("x-device-id", "pump"), ("x-roles", "admin"))
    stub: Any = world.pump.stub
    await expect_error(
        "ROLE_REQUIRED", stub.UpdateFacts(pb.UpdateFactsRequest(), metadata=as_admin)
    )
    other_tenant = server.device("another-tenant", "pump")
    await expect_error("DEVICE_NOT_FOUND", other_tenant.facts({"a": "b"}))


async def test_keys_and_values_are_limited(world: World) -> None:
    await world.pump.facts({"k" * 58: "v" * 63} | dict(list(_MAX_FACTS.items())[1:]))
    for facts in (
        {"group!": ""},
        {"k" * 59: ""},
        {"k": "v" * 64},
        {"k": "\n"},
        _MAX_FACTS | {"x": ""},
    ):
        assert await invalid_fields(world.pump.facts(facts))


async def test_targets_and_lists_select_by_facts_apart_from_labels(world: World) -> None:
    await world.add_devices(["new"])
    await world.fleet.update(Device(device_id="pump", labels={"version": "9"}), mask=["labels"])
    await world.pump.facts({"version": "2.0"})
    await world.device("valve").facts({"version": "2.1"})

    for selector, expected in (
        ("fact.version=2.0", ["pump"]),
        ("fact.version!=2.1", ["new", "pump"]),
        ("fact.version,fact.version!=2.1", ["pump"]),
        ("!fact.version", ["new"]),
        ("fact.version in (2.0,2.1),device_id in (pump,new)", ["pump"]),
        ("version=9", ["pump"]),
    ):
        listed = [each.device_id for each in (await world.fleet.list(selector=selector)).devices]
        assert listed == expected, selector
        assert (await world.fleet.preview(target_selector=selector)).device_ids == expected
        await world.create(f"j{len(selector)}", target_selector=selector)
        job = await world.operator.get(f"j{len(selector)}")
        assert [each.device_id for each in job.executions] == expected
    assert await invalid_fields(world.fleet.list(selector="fact.!=2.1")) == ["selector"]


async def test_device_label_is_rejected_when_its_key_starts_with_fact(world: World) -> None:
    """Labels of jobs can."""
    device = Device(device_id="pump", labels={"fact.version": "2"})
    assert await invalid_fields(world.fleet.update(device, mask=["labels"])) == [
        "devices[0].labels"
    ]
    await world.create(labels={"fact.version": "2", "fact.": "x"})
    for selector in ("fact.version=2", "fact."):
        assert len((await world.operator.list(selector=selector)).jobs) == 1


async def test_facts_are_deleted_with_the_device(world: World) -> None:
    await world.pump.facts({"a": "b"})

    await world.fleet.delete("pump")

    await world.fleet.update(Device(device_id="pump"), mask=["labels"], allow_missing=True)
    assert (await world.fleet.get("pump")).device == Device(device_id="pump")


_DELETE = """
    WITH devices AS (DELETE FROM public.device_state WHERE tenant_id = $1 AND device_id = 'pump')
    DELETE FROM jobs.device_facts WHERE tenant_id = $1 AND device_id = 'pump'
"""


@pytest.mark.parametrize("reported_before", [True, False])
async def test_device_that_is_being_deleted_gets_no_facts(
    world: World, reported_before: bool
) -> None:
    if reported_before:
        await world.pump.facts({"a": "1"})

    async with uncommitted(world.database, _DELETE, world.tenant):
        report = await world.database.blocked(world.pump.facts({"a": "2"}))

    await expect_error("DEVICE_NOT_FOUND", report)
    query = "SELECT count(*) FROM jobs.device_facts WHERE tenant_id = $1"
    assert await world.database.owner.fetchval(query, world.tenant) == 0


async def test_concurrent_reports_of_a_device_are_merged_up_to_the_limit(world: World) -> None:
    """Each has read the facts without those of the other."""
    await world.pump.facts(dict(list(_MAX_FACTS.items())[:30]))

    async with rows_locked(world.database, "jobs.device_facts", tenant_id=world.tenant):
        first = await world.database.blocked(world.pump.facts({"a": "1"}))
        second = await world.database.blocked(world.pump.facts({"b": "2", "c": "3"}), 2)

    results = [await _outcome(first), await _outcome(second)]
    assert sorted(results) == ["", "INVALID_FIELD"]
    assert len(await _facts(world)) in (31, 32)


async def _outcome(report: Any) -> str:
    try:
        await report
    except Exception as e:
        return "INVALID_FIELD" if "at most 32 keys" in str(e) else repr(e)
    return ""


async def test_new_device_gets_the_facts_of_both_concurrent_first_reports(world: World) -> None:
    insert = (
        "INSERT INTO jobs.device_facts VALUES ($1, 'pump', '{\"a\": \"1\"}', now()) RETURNING true"
    )
    async with uncommitted(world.database, insert, world.tenant):
        report = await world.database.blocked(world.pump.facts({"b": "2"}))

    await report
    assert await _facts(world) == {"a": "1", "b": "2"}


@pytest.mark.usefixtures("platform")
async def test_facts_of_the_platforms_devices_are_stored_and_removed_when_stale(
    world: World,
) -> None:
    await world.pump.facts({"a": "1"})
    await expect_error("DEVICE_NOT_FOUND", world.device("unknown").facts({"a": "1"}))
    assert await _facts(world) == {"a": "1"}

    await world.database.owner.execute(
        "DELETE FROM public.device_state WHERE tenant_id = $1 AND device_id = 'pump'", world.tenant
    )
    owner = world.database.owner
    await owner.execute("SELECT jobs.remove_stale_devices($1, '', 100)", world.tenant)

    query = "SELECT count(*) FROM jobs.device_facts WHERE tenant_id = $1"
    assert await owner.fetchval(query, world.tenant) == 0
