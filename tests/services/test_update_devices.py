"""UpdateDevices: labels, time zones, groups, and registration; alone and concurrent."""

import json
from collections.abc import AsyncIterator, Mapping

import pytest
from fleet.jobs.v1.fleet_pb2 import Device

from jobs_grpc.db.store import Store
from tests.support.callers import Fleet, Operator
from tests.support.database import Database, request_session, rows_locked
from tests.support.failures import expect_error, invalid_fields

ALL = ("labels", "time_zone", "group_ids")


@pytest.fixture
async def platform(database: Database) -> AsyncIterator[None]:
    """The device tables belong to the platform during the test."""
    await database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    yield
    await database.owner.execute("UPDATE jobs.device_tables SET is_own = true")


async def test_new_devices_are_registered_with_labels_zone_and_groups(fleet: Fleet) -> None:
    pump = Device(
        device_id="pump",
        labels={"model": "x200", "site": 'München 1, "Süd"'},
        time_zone="Europe/Berlin",
        group_ids=["south", "pumps"],
    )

    response = await fleet.update(pump, Device(device_id="valve"), mask=ALL, allow_missing=True)

    assert (response.registered_count, response.updated_count) == (2, 0)
    stored = (await fleet.get("pump")).device
    assert stored.labels == pump.labels
    assert stored.time_zone == "Europe/Berlin"
    assert stored.group_ids == ["pumps", "south"]
    assert not stored.HasField("last_seen_at")
    assert (await fleet.get("valve")).device == Device(device_id="valve")
    # A repeated call has the same effect.
    response = await fleet.update(pump, mask=ALL, allow_missing=True)
    assert (response.registered_count, response.updated_count) == (0, 1)
    assert (await fleet.get("pump")).device == stored


async def test_labels_are_merged_and_removed(fleet: Fleet) -> None:
    labels = {"model": "x200", "ring": "1", "old": "a"}
    await fleet.update(Device(device_id="d", labels=labels), mask=["labels"], allow_missing=True)

    change = Device(device_id="d", labels={"ring": "2", "new": ""})
    response = await fleet.update(change, mask=["labels"], remove_labels=["old", "unknown"])

    assert (response.registered_count, response.updated_count) == (0, 1)
    expected = {"model": "x200", "ring": "2", "new": ""}
    assert (await fleet.get("d")).device.labels == expected
    await fleet.update(Device(device_id="d"), remove_labels=["new"])
    del expected["new"]
    assert (await fleet.get("d")).device.labels == expected


async def test_empty_fields_of_the_mask_are_cleared_and_others_stay(fleet: Fleet) -> None:
    """Labels are merged, so an empty map changes nothing."""
    before = Device(device_id="d", labels={"a": "b"}, time_zone="UTC", group_ids=["g"])
    await fleet.update(before, mask=ALL, allow_missing=True)

    for mask, kept in (
        (["labels", "time_zone"], {"group_ids": ["g"]}),
        (["labels", "group_ids"], {"time_zone": "UTC"}),
        (["time_zone", "group_ids"], {}),
    ):
        await fleet.update(Device(device_id="d"), mask=mask)
        assert (await fleet.get("d")).device == Device(device_id="d", labels={"a": "b"}, **kept)
        await fleet.update(before, mask=ALL)


async def test_update_names_20_unknown_devices(database: Database, fleet: Fleet) -> None:
    await database.add_devices(fleet.tenant, ["known"])
    unknown = [f"unknown, {n:02}" for n in range(25)]
    devices = [Device(device_id=name, labels={"a": "b"}) for name in ["known", *unknown]]

    failure = await expect_error("DEVICE_NOT_FOUND", fleet.update(*devices, mask=["labels"]))

    assert json.loads(failure.metadata["deviceIds"]) == unknown[:20]
    assert failure.message == f"Devices not found: {', '.join(unknown[:20])}, and 5 more"
    assert not (await fleet.get("known")).device.labels


@pytest.mark.parametrize("device_id", ["..", "a/./b", "..\\..\\job"])
async def test_dot_segments_are_rejected(database: Database, fleet: Fleet, device_id: str) -> None:
    devices = [Device(device_id=name, labels={"a": "b"}) for name in ("a..", device_id)]

    assert await invalid_fields(fleet.update(*devices, mask=["labels"], allow_missing=True)) == [
        "devices[1].device_id"
    ]
    await expect_error("DEVICE_NOT_FOUND", fleet.get("a.."))
    # One that exists stays reachable.
    await database.add_devices(fleet.tenant, [device_id])
    response = await fleet.update(*devices, mask=["labels"], allow_missing=True)
    assert (response.registered_count, response.updated_count) == (1, 1)
    assert (await fleet.get(device_id)).device.labels == {"a": "b"}


async def test_device_has_at_most_32_labels_after_the_merge(fleet: Fleet) -> None:
    many = {f"key-{n}": "" for n in range(32)}
    await fleet.update(Device(device_id="full", labels=many), mask=["labels"], allow_missing=True)
    devices = Device(device_id="new"), Device(device_id="full", labels={"one-more": ""})

    assert await invalid_fields(fleet.update(*devices, mask=["labels"], allow_missing=True)) == [
        "devices[1].labels"
    ]
    await expect_error("DEVICE_NOT_FOUND", fleet.get("new"))
    # One is removed, so there is room.
    await fleet.update(*devices, mask=["labels"], remove_labels=["key-0"], allow_missing=True)
    assert len((await fleet.get("full")).device.labels) == 32


@pytest.mark.parametrize(
    ("device", "fields", "field"),
    [
        (Device(), {}, "devices[0].device_id"),
        (Device(device_id="a\n"), {}, "devices[0].device_id"),
        (Device(device_id="d", labels={"group": "x"}), {}, "devices[0].labels"),
        (Device(device_id="d", labels={"a b": "x"}), {}, "devices[0].labels"),
        (Device(device_id="d", labels={"a": "x" * 64}), {}, "devices[0].labels"),
        (Device(device_id="d", labels={str(n): "" for n in range(33)}), {}, "devices[0].labels"),
        (Device(device_id="d", labels={"a": ""}), {"remove_labels": ["a"]}, "devices[0].labels"),
        (Device(device_id="d", time_zone="Europe/Nowhere"), {}, "devices[0].time_zone"),
        (Device(device_id="d", time_zone="UTC+1"), {}, "devices[0].time_zone"),
        (Device(device_id="d", group_ids=[""]), {}, "devices[0].group_ids[0]"),
        (Device(device_id="d"), {"remove_labels": [""]}, "remove_labels[0]"),
        (Device(device_id="d"), {"mask": ["device_id"]}, "update_mask"),
        (Device(device_id="d"), {"mask": []}, "update_mask"),
    ],
)
async def test_invalid_field_is_named(
    fleet: Fleet, device: Device, fields: dict[str, list[str]], field: str
) -> None:
    failure = await expect_error("INVALID_FIELD", fleet.update(device, **{"mask": ALL} | fields))

    (violated,) = failure.violations
    assert violated.startswith(field)


async def test_each_device_occurs_once(fleet: Fleet) -> None:
    device = Device(device_id="twice")

    failure = await expect_error(
        "INVALID_FIELD", fleet.update(device, device, mask=["labels"], allow_missing=True)
    )

    assert failure.message == "devices must contain each device once, but repeats twice"
    assert failure.violations == {"devices": failure.message}


async def test_platforms_devices_get_labels_and_zones_only(
    database: Database, fleet: Fleet, platform: None
) -> None:
    await database.add_devices(fleet.tenant, ["d"])
    changed = Device(device_id="d", labels={"a": "b"}, time_zone="UTC")

    await fleet.update(changed, mask=["labels", "time_zone"], allow_missing=True)

    assert (await fleet.get("d")).device == changed
    for device, mask in ((Device(device_id="new"), ["labels"]), (changed, ["group_ids"])):
        await expect_error("DEVICES_READ_ONLY", fleet.update(device, mask=mask, allow_missing=True))
    await expect_error("DEVICE_NOT_FOUND", fleet.update(Device(device_id="new"), mask=["labels"]))


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_concurrent_updates_wait_for_each_other(database: Database, fleet: Fleet) -> None:
    """In opposite orders, they would otherwise deadlock, and the last would lose labels."""
    await database.add_devices(fleet.tenant, ["a", "b"])
    async with request_session(database) as (connection, store):
        async with connection.transaction():
            await _update(store, fleet.tenant, "b", "a", labels={"first": "1"}, group="one")
            devices = [
                Device(device_id=name, labels={"second": "2"}, group_ids=["two"]) for name in "ab"
            ]
            second = await database.blocked(fleet.update(*devices, mask=["labels", "group_ids"]))
        await second

    for name in "ab":
        device = (await fleet.get(name)).device
        assert device.labels == {"first": "1", "second": "2"}
        assert device.group_ids == ["two"]


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
async def test_device_that_two_calls_register_is_deleted(database: Database, fleet: Fleet) -> None:
    """The second registration locks the row of the first, so the deletion waits for it."""
    async with (
        request_session(database) as (first_connection, first),
        request_session(database) as (second_connection, second),
        second_connection.transaction(),
    ):
        async with first_connection.transaction():
            await _update(first, fleet.tenant, "d", labels={"k": "v"}, group="g")
            registration = await database.blocked(
                _update(second, fleet.tenant, "d", labels={"k": "v"}, group="g")
            )
        await registration
        deletion = await database.blocked(fleet.delete("d"))

    assert (await deletion).deleted_count == 1
    for table in ("device_group_members", "jobs.devices"):
        rows = f"SELECT FROM {table} WHERE tenant_id = $1"
        assert await database.owner.fetch(rows, fleet.tenant) == []


async def test_device_registered_meanwhile_is_not_found(database: Database, fleet: Fleet) -> None:
    """Its row is not locked, so a deletion could leave the labels."""
    await database.add_devices(fleet.tenant, ["a"])
    async with rows_locked(database, "device_state", tenant_id=fleet.tenant, device_id="a"):
        devices = [Device(device_id=name, labels={"k": ""}) for name in "ab"]
        update = await database.blocked(fleet.update(*devices, mask=["labels"]))
        await database.add_devices(fleet.tenant, ["b"])

    await expect_error("DEVICE_NOT_FOUND", update)


async def _update(
    store: Store, tenant: str, *devices: str, labels: Mapping[str, str], group: str
) -> None:
    await store.update_devices(
        tenant,
        device_ids=devices,
        labels=[json.dumps(labels)] * len(devices),
        time_zones=None,
        group_ids=[json.dumps([group])] * len(devices),
        remove_labels=[],
        allow_missing=True,
    )


async def test_thousand_devices_change_in_one_call(fleet: Fleet) -> None:
    labels = {f"key-{n}": f"value {n}" for n in range(8)}
    devices = [Device(device_id=f"d{n}", labels=labels, group_ids=["all"]) for n in range(1000)]

    response = await fleet.update(*devices, mask=["labels", "group_ids"], allow_missing=True)

    assert response.registered_count == 1000
    (group,) = (await fleet.groups()).groups
    assert (group.group_id, group.device_count) == ("all", 1000)


async def test_changed_groups_change_no_job(fleet: Fleet, operator: Operator) -> None:
    await fleet.update(
        Device(device_id="d", group_ids=["g"]), mask=["group_ids"], allow_missing=True
    )
    await operator.create(job_id="j", target_group_id="g")

    await fleet.update(Device(device_id="d"), mask=["group_ids"])

    assert (await operator.get("j")).execution_counts.queued == 1
