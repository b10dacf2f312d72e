"""GetDevice and ListGroups."""

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device, ListGroupsResponse

from tests.support.callers import Fleet
from tests.support.database import Database, request_session
from tests.support.failures import expect_error
from tests.support.world import World


async def test_device_has_its_queue_in_order(world: World) -> None:
    await world.add_devices(["pump", "valve"])
    for job in ("first", "second", "third", "paused"):
        await world.create(job)
    pump = world.device("pump")
    await pump.start("third")
    await pump.update("first", "SUCCEEDED")
    await world.operator.pause("paused")

    response = await world.fleet.get("pump")

    assert response.device == Device(device_id="pump")
    assert [(e.job_id, e.status) for e in response.executions] == [
        ("third", pb.JobExecution.IN_PROGRESS),
        ("second", pb.JobExecution.QUEUED),
    ]
    assert {e.device_id for e in response.executions} == {"pump"}


async def test_held_executions_are_not_in_the_queue(world: World) -> None:
    await world.add_devices(["a", "b"])
    await world.create_staged({"device_count": 1}, {"remainder": True})

    queues = [(await world.fleet.get(name)).executions for name in "ab"]

    assert sorted(map(len, queues)) == [0, 1]
    (execution,) = queues[0] or queues[1]
    assert (execution.job_id, execution.HasField("stage"), execution.stage) == ("j", True, 0)


async def test_unknown_device_is_not_found(fleet: Fleet) -> None:
    failure = await expect_error("DEVICE_NOT_FOUND", fleet.get("unknown"))

    assert failure.metadata["deviceId"] == "unknown"


async def test_groups_are_in_byte_order_with_their_numbers_of_devices(world: World) -> None:
    for group, count in (("b", 3), ("B", 1), ("é", 2), ('a,"b"', 1), ("a", 2)):
        await world.add_devices([f"d{n}" for n in range(count)], group=group)

    response = await world.fleet.groups()

    groups = [(group.group_id, group.device_count) for group in response.groups]
    assert groups == [("B", 1), ("a", 2), ('a,"b"', 1), ("b", 3), ("é", 2)]
    assert not response.next_page_token


async def test_pages_have_each_group_once_while_groups_come_and_go(world: World) -> None:
    names = [f"g{n:02}" for n in range(10)]
    for name in names:
        await world.add_devices(["d"], group=name)
    seen: list[str] = []
    response = ListGroupsResponse()
    while not seen or response.next_page_token:
        response = await world.fleet.groups(limit=3, page_token=response.next_page_token)
        seen += [group.group_id for group in response.groups]
        # Before and after the position, and the position itself.
        last = response.groups[-1].group_id
        await world.add_devices(["d"], group=f"{last} new")
        await world.execute(
            "DELETE FROM device_group_members WHERE tenant_id = $1 AND group_id IN ('g00', $2)",
            last,
        )

    assert [name for name in seen if not name.endswith("new")] == names
    assert len(seen) == len(set(seen))


async def test_prefix_selects_groups(database: Database, fleet: Fleet) -> None:
    for name in ("north", "north%", "north-1", "nortH", "south", "no"):
        await database.add_devices(fleet.tenant, ["d"], group=name)

    response = await fleet.groups(group_id_prefix="north", limit=2)

    assert [group.group_id for group in response.groups] == ["north", "north%"]
    token = response.next_page_token
    rest = await fleet.groups(group_id_prefix="north", page_token=token)
    assert ([group.group_id for group in rest.groups], rest.next_page_token) == (["north-1"], "")
    await expect_error("INVALID_PAGE_TOKEN", fleet.groups(group_id_prefix="nort", page_token=token))


@pytest.mark.slow
async def test_large_group_is_counted_up_to_10001(database: Database, fleet: Fleet) -> None:
    await database.add_devices(fleet.tenant, 10_002, group="large")
    await database.add_devices(fleet.tenant, ["d"], group="small")

    response = await fleet.groups()

    assert [group.device_count for group in response.groups] == [10_001, 1]


async def test_page_ends_after_enough_counted_devices(database: Database, fleet: Fleet) -> None:
    for name in "abc":
        await database.add_devices(fleet.tenant, ["d", "e"], group=name)
    async with request_session(database) as (_, store):
        rows = await store.list_groups(fleet.tenant, prefix="", after="", limit=10, max_counted=3)

    assert [tuple(row) for row in rows] == [("a", 2), ("b", 2), ("c", None)]
