"""FleetClient: each call through the real server."""

from collections.abc import AsyncIterator

import pytest
from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1.jobs_pb2 import JobExecution

from jobs_grpc.client import FleetClient, JobsClient, RetryPolicy, errors
from jobs_grpc.services import fleet as fleet_service
from tests.support.database import Database
from tests.support.server import Server


@pytest.fixture
async def fleet(server: Server, tenant: str, quick: RetryPolicy) -> AsyncIterator[FleetClient]:
    async with FleetClient(server.address, tenant=tenant, retry=quick) as client:
        yield client


async def test_devices_are_registered_changed_and_read(fleet: FleetClient) -> None:
    new = [pb.Device(device_id=name, labels={"model": "x200"}, group_ids=["g"]) for name in "ab"]

    registered = await fleet.update(new, ["labels", "group_ids"], allow_missing=True)
    changed = await fleet.update(
        [pb.Device(device_id="a", time_zone="UTC")], ["time_zone"], remove_labels=["model"]
    )

    assert (registered.registered_count, changed.updated_count) == (2, 1)
    response = await fleet.get("a")
    assert response.device == pb.Device(device_id="a", time_zone="UTC", group_ids=["g"])
    with pytest.raises(errors.DeviceNotFound, match="Devices not found: x, y"):
        await fleet.update([pb.Device(device_id=name) for name in "xy"], ["labels"])


async def test_devices_are_read_page_by_page(
    database: Database, fleet: FleetClient, tenant: str
) -> None:
    await database.add_devices(tenant, 5, group="north")
    await database.add_devices(tenant, ["x"])
    names = [f"d{n:05}" for n in range(1, 6)]

    assert [d.device_id async for d in fleet.devices("group=north", page_size=2)] == names
    assert [d.device_id async for d in fleet.devices(limit=3, page_size=2)] == names[:3]
    assert [d.device_id async for d in fleet.devices(device_id_prefix="x")] == ["x"]


async def test_delete_repeats_until_no_execution_remains(
    database: Database,
    jobs: JobsClient,
    fleet: FleetClient,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fleet_service, "_MAX_ENDED", 2)
    await database.add_devices(tenant, ["a", "b"])
    for _ in range(3):
        await jobs.create("reboot", target_device_id="a")

    response = await fleet.delete(["a", "unknown"])

    assert (response.deleted_count, response.ended_execution_count) == (1, 3)
    assert not response.has_more


async def test_delete_takes_more_devices_than_a_call_and_tells_its_progress(
    database: Database, fleet: FleetClient, tenant: str
) -> None:
    await database.add_devices(tenant, 101)
    names = [f"d{number:05}" for number in range(1, 102)]
    progress: list[int] = []

    response = await fleet.delete(
        [*names, *names], on_progress=lambda sums: progress.append(sums.deleted_count)
    )

    assert response.deleted_count == 101
    assert progress == [100, 101]
    with pytest.raises(errors.InvalidField):
        await fleet.delete([])


async def test_delete_rejects_the_id_of_one_device_that_is_not_in_a_list() -> None:
    """A str is an Iterable[str], of its characters."""
    fleet, jobs = FleetClient("127.0.0.1:1"), JobsClient("127.0.0.1:1")
    with pytest.raises(TypeError, match="expected several ids, not the str 'pump-1'"):
        await fleet.delete("pump-1")
    with pytest.raises(TypeError, match="expected several ids"):
        await jobs.create("reboot", target_device_ids="pump-1")
    with pytest.raises(TypeError, match="expected several ids"):
        await jobs.retry("j", [JobExecution.FAILED], device_ids="pump-1")
