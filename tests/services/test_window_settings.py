"""Start windows in CreateJob, UpdateJob and GetJob, and updates that race with starts."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.services import time_zones
from tests.support import callers
from tests.support.callers import Operator
from tests.support.database import uncommitted
from tests.support.failures import expect_error
from tests.support.waiting import wait_until
from tests.support.windows import set_time
from tests.support.world import World

# A Monday in summer time.
NOW = datetime(2027, 6, 7, 12, tzinfo=UTC)
ZONES = {"berlin": "Europe/Berlin", "tokyo": "Asia/Tokyo", "nowhere": ""}


def window(start_time: str, hours: int = 1, *days: Any) -> pb.StartWindow:
    return pb.StartWindow(days=days, start_time=start_time, duration=Duration(seconds=hours * 3600))


@pytest.fixture(autouse=True)
async def devices(world: World) -> None:
    """Three devices: in two time zones, and without one."""
    await set_time(world.database, NOW)
    await world.add_devices(ZONES, group="all")
    await world.add_devices(["berlin", "tokyo"], group="pair")
    devices = [Device(device_id=device, time_zone=zone) for device, zone in ZONES.items()]
    await world.fleet.update(*devices, mask=["time_zone"])


async def create(world: World, *windows: pb.StartWindow, **fields: Any) -> None:
    """Create the job "j" for all devices, unless the fields name another target."""
    await world.create(never_expires=True, start_windows=windows, **fields)


def openings(job: pb.Job) -> list[str]:
    """The next openings, without the year and the seconds."""
    return [at.ToJsonString()[5:16] for at in job.next_openings]


def windows_and_zone(job: pb.Job) -> tuple[list[str], str]:
    return sorted(w.start_time for w in job.start_windows), job.window_time_zone


async def zones(operator: Operator) -> dict[str, str]:
    return {e.device_id: e.time_zone for e in (await operator.executions("j")).executions}


@pytest.mark.parametrize("hour", [12, 14])
async def test_job_shows_windows_openings_and_whether_one_is_open(world: World, hour: int) -> None:
    windows = [window("14:00", 2), window("09:30", 24, pb.StartWindow.SATURDAY)]
    await create(world, *windows, window_time_zone="Europe/Berlin")
    await set_time(world.database, NOW.replace(hour=hour))

    job = await world.operator.get("j")
    assert windows_and_zone(job) == (["09:30", "14:00"], "Europe/Berlin")
    # It is 14:00 or 16:00 in Berlin.
    assert (job.HasField("window_open"), job.window_open) == (True, hour == 12)
    assert openings(job) == [
        *("06-08T12:00", "06-09T12:00", "06-10T12:00", "06-11T12:00"),
        *("06-12T07:30", "06-12T12:00", "06-13T12:00"),
    ]
    (listed,) = (await world.operator.list()).jobs
    assert not listed.HasField("window_open")
    assert not listed.next_openings


@pytest.mark.parametrize("has_windows", [False, True])
async def test_job_without_a_zone_shows_no_openings(world: World, *, has_windows: bool) -> None:
    fields = {"start_windows": [window("14:00")], "window_time_zone": "DEVICE"}
    await world.create(never_expires=True, **(fields if has_windows else {}))

    job = await world.operator.get("j")
    assert not job.HasField("window_open")
    assert not job.next_openings


@pytest.mark.parametrize(
    "fields",
    [
        {"target_all": True},
        {"target_group_id": "all"},
        {"target_selector": "device_id in (berlin, tokyo, nowhere)"},
        {"target_device_ids": pb.DeviceIds(device_ids=list(ZONES))},
        {"rollout": pb.Rollout(stages=[pb.Stage(device_count=1), pb.Stage(remainder=True)])},
        {"rollout": pb.Rollout(stages=[pb.Stage(group_id="pair"), pb.Stage(remainder=True)])},
    ],
    ids=["all", "group", "selector", "device ids", "stages", "stage of a group"],
)
async def test_executions_keep_the_zones_of_devices(world: World, fields: dict[str, Any]) -> None:
    await create(world, window("14:00"), window_time_zone="DEVICE", **fields)
    await world.database.owner.execute("UPDATE jobs.devices SET time_zone = 'America/Lima'")

    expected = {"berlin": "Europe/Berlin", "tokyo": "Asia/Tokyo", "nowhere": "UTC"}
    assert await zones(world.operator) == expected
    job = await world.operator.get("j", executions_limit=10)
    assert {e.device_id: e.time_zone for e in job.executions} == expected


async def test_execution_of_one_device_has_the_zone_of_the_device(world: World) -> None:
    zone = "Asia/Tokyo"
    await create(world, window("18:00"), window_time_zone="DEVICE", target_device_id="tokyo")

    assert await zones(world.operator) == {"tokyo": zone}
    assert [e.time_zone for e in await world.operator.attempts("j", "tokyo")] == [zone]
    (waiting,) = (await world.fleet.get("tokyo")).executions
    assert (waiting.status, waiting.time_zone) == (pb.JobExecution.QUEUED, zone)
    assert await world.operator.counts() == {"queued": 1}


async def test_zone_that_is_an_abbreviation_counts_as_utc(world: World) -> None:
    await world.owner_value("UPDATE jobs.devices SET time_zone = 'CET' WHERE tenant_id = $1")
    await create(world, window("14:00"), window_time_zone="DEVICE")

    assert {*(await zones(world.operator)).values()} == {"UTC"}


async def test_devices_start_in_the_windows_of_their_zones(world: World) -> None:
    await create(world, window("14:00"), window_time_zone="DEVICE")

    for at, device in [
        (NOW, "berlin"),
        (NOW + timedelta(hours=2), "nowhere"),
        (NOW + timedelta(hours=17), "tokyo"),
    ]:
        await set_time(world.database, at)
        assert await started(world) == [device]


async def started(world: World) -> list[str]:
    """Start the execution of each device whose window is open, and return these devices."""
    devices = []
    for name in ZONES:
        device = world.device(name)
        if (job_id := await device.start_next_job()) is not None:
            devices.append(name)
            await device.update(job_id, "SUCCEEDED")
    return devices


async def test_update_changes_windows_and_zone(world: World) -> None:
    await create(world, window("14:00"), window_time_zone="Europe/Berlin")

    job = await world.operator.update("j", "start_windows", start_windows=[window("18:00", 3)])
    assert windows_and_zone(job) == (["18:00"], "Europe/Berlin")
    job = await world.operator.update("j", "window_time_zone", window_time_zone="Asia/Tokyo")
    assert windows_and_zone(job) == (["18:00"], "Asia/Tokyo")
    job = await world.operator.update("j", "window_time_zone")
    assert windows_and_zone(job) == (["18:00"], "UTC")
    assert openings(await world.operator.get("j"))[0] == "06-07T18:00"


async def test_update_adds_and_removes_windows_so_that_devices_start(world: World) -> None:
    await create(world, window("18:00"), target_device_id="berlin")
    assert await started(world) == []

    update = partial(world.operator.update, "j", "start_windows")
    assert windows_and_zone(await update()) == ([], "")
    assert windows_and_zone(await update(start_windows=[window("18:00")])) == (["18:00"], "UTC")
    await update()
    assert await started(world) == ["berlin"]


async def test_update_returns_to_zones_of_devices_that_the_job_had(world: World) -> None:
    await create(world, window("14:00"), window_time_zone="DEVICE")

    job = await world.operator.update("j", "start_windows", start_windows=[window("15:00")])
    assert job.window_time_zone == "DEVICE"
    await world.operator.update("j", "window_time_zone", window_time_zone="UTC")
    job = await world.operator.update("j", "window_time_zone", window_time_zone="DEVICE")
    assert job.window_time_zone == "DEVICE"
    assert {*(await zones(world.operator)).values()} == {"Europe/Berlin", "Asia/Tokyo", "UTC"}


@pytest.mark.parametrize(
    ("windows", "zone", "problem"),
    [
        ([window("14:00")], "DEVICE", "can be DEVICE only if the job was created with it"),
        ([], "Asia/Tokyo", "is allowed only with start_windows"),
    ],
)
async def test_update_to_a_zone_that_the_job_cannot_have_is_rejected(
    world: World, windows: list[pb.StartWindow], zone: str, problem: str
) -> None:
    await create(world, *windows)

    update = world.operator.update("j", "window_time_zone", window_time_zone=zone)
    failure = await expect_error("INVALID_FIELD", update)
    assert failure.violations == {"window_time_zone": f"window_time_zone {problem}"}


async def test_zone_must_be_in_the_database(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(time_zones, "time_zones", lambda: {"Mars/Base"})
    await create(world, window("14:00"))
    zone = {"window_time_zone": "Mars/Base"}
    problem = "window_time_zone is not known to the database"

    for call in (
        world.operator.create(target_all=True, start_windows=[window("14:00")], **zone),
        world.operator.update("j", "window_time_zone", **zone),
    ):
        failure = await expect_error("INVALID_FIELD", call)
        assert failure.violations == {"window_time_zone": problem}


@pytest.mark.single_node("a call inside a transaction is not delegated on Citus")
@pytest.mark.parametrize("call", ["start", "start next"])
async def test_start_that_waits_for_an_update_follows_new_windows(world: World, call: str) -> None:
    await create(world, window("12:00"))
    device = world.device("berlin")
    update = (
        "SELECT jobs.update_job($1, 'j', '', '{start_windows}', NULL, '{}', '[]',"
        " p_start_windows => '{127,1080,60}')"
    )
    async with uncommitted(world.database, update, world.tenant):
        start = await world.blocked(_start(device, call))

    assert not await start
    assert (await device.get("j")).status == pb.JobExecution.QUEUED


async def _start(device: callers.Device, call: str) -> bool:
    if call == "start next":
        return await device.start_next() is not None
    await expect_error("EXECUTION_NOT_DUE", device.start("j"))
    return False


@pytest.mark.slow
async def test_start_that_waits_for_the_lock_until_its_window_closes_fails(world: World) -> None:
    await create(world, window("12:00"))
    device = world.device("berlin")
    closing = NOW + timedelta(hours=1)

    is_closed = "SELECT jobs.clock_time() >= $1"

    async with world.lock_held():
        await set_time(world.database, closing - timedelta(seconds=1))
        start = await world.blocked(_start(device, "start"))
        await wait_until(lambda: world.database.owner.fetchval(is_closed, closing))

    assert not await start
