"""WatchPendingExecutions: the current pending executions, then each change."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.services import execution_watch
from jobs_grpc.services.execution_watch import ExecutionWatch
from tests.support.callers import Device
from tests.support.database import Database, request_session, shared_store
from tests.support.failures import expect_error
from tests.support.http2 import connection
from tests.support.proxy import running_proxy
from tests.support.server import Server, running_server
from tests.support.staged_jobs import rollout
from tests.support.waiting import TIMEOUT
from tests.support.watch_hubs import polling_server
from tests.support.windows import set_time, set_windows
from tests.support.world import World

WATCH_PENDING = "/fleet.jobs.v1.DeviceJobService/WatchPendingExecutions"


def job_ids(response: device_pb.WatchPendingExecutionsResponse) -> list[str]:
    return [execution.job_id for execution in response.executions]


@pytest.fixture(scope="module")
async def server(database: Database) -> AsyncIterator[Server]:
    async with polling_server(database, execution_watch) as running:
        yield running


@pytest.fixture
async def device(world: World) -> Device:
    await world.add_devices(["other", "pump"])
    return world.device("pump")


async def create_with_one_place(world: World) -> Device:
    """Create the job "j", of which one execution may be IN_PROGRESS; return the other device."""
    await world.create(rollout=rollout({"remainder": True}, max_in_progress=1))
    return world.device("other")


async def read_fingerprint(device: Device, database: Database) -> int:
    async with request_session(database) as (_, store):
        ((_, fingerprint),) = await store.changed_pending_fingerprints(
            [device.tenant], device_ids=[device.name], limits=[11], fingerprints=[None]
        )
    return fingerprint


async def test_watch_leaves_out_a_paused_job(world: World, device: Device) -> None:
    await world.create()
    responses = device.watch()
    assert job_ids(await anext(responses)) == ["j"]

    await world.operator.pause("j")
    assert job_ids(await anext(responses)) == []
    await world.operator.resume("j")
    assert job_ids(await anext(responses)) == ["j"]


async def test_watch_sends_an_execution_at_its_release(world: World, device: Device) -> None:
    stages = rollout({"remainder": True, "releases_per_minute": 60})
    await world.create(target_device_id="pump", rollout=stages)
    responses = device.watch()

    assert job_ids(await anext(responses)) == []
    assert job_ids(await anext(responses)) == ["j"]


async def test_watch_sends_the_list_after_a_change(world: World, device: Device) -> None:
    responses = device.watch()

    assert job_ids(await anext(responses)) == []
    await world.create("first", document_params={"n": 1})
    first = await anext(responses)
    assert job_ids(first) == ["first"]
    assert first.executions[0].document_params == {"n": 1}
    await world.create("foreign", target_device_id="other")
    await world.create("second")
    assert job_ids(await anext(responses)) == ["first", "second"]
    limited = await anext(device.watch(limit=1))
    assert (job_ids(limited), limited.has_more) == (["first"], True)
    await world.operator.cancel("first")
    assert job_ids(await anext(responses)) == ["second"]
    await device.start("second")
    (execution,) = (await anext(responses)).executions
    assert execution.status == pb.JobExecution.IN_PROGRESS


async def test_watch_sends_the_new_expiry_after_a_retry(world: World, device: Device) -> None:
    await world.create(expires_in_hours=1)
    await world.operator.cancel_execution("j", "other")
    responses = device.watch()
    (first,) = (await anext(responses)).executions

    await world.operator.retry("j", "REJECTED", expires_in_hours=700)

    (second,) = (await anext(responses)).executions
    assert second.expires_at.ToSeconds() > first.expires_at.ToSeconds()


async def test_fingerprint_differs_if_a_job_is_created_again(world: World, device: Device) -> None:
    """No poll may have seen that the first one was gone, and the version starts again."""
    values = set()
    for number in range(2):
        await world.create(document_params={"n": number})
        values.add(await read_fingerprint(device, world.database))
        await world.operator.cancel("j")
        await world.operator.delete("j")
        await world.owner_value("SELECT jobs.purge_job($1, 'j', '', 10, 0)")

    assert len(values) == 2


@pytest.mark.slow
async def test_watches_retry_when_the_server_is_overloaded(world: World) -> None:
    """With one connection and a very short pool timeout, many of their queries are rejected."""
    names = [f"d{n}" for n in range(30)]
    await world.add_devices(names)
    async with world.on_another_server(
        JOBS_POOL_MAX_SIZE="1", JOBS_POOL_TIMEOUT="0.01"
    ) as overloaded:
        watches = [overloaded.device(name).watch() for name in names]
        await asyncio.gather(*(anext(responses) for responses in watches))
        await world.create()

        received = await asyncio.gather(*(anext(responses) for responses in watches))

    assert [job_ids(response) for response in received] == [["j"]] * 30


async def test_watch_sends_the_list_when_a_full_job_has_room(world: World, device: Device) -> None:
    other = await create_with_one_place(world)
    await other.start("j")
    responses = device.watch()
    assert job_ids(await anext(responses)) == ["j"]
    assert await device.start_next() is None

    await other.update("j", "SUCCEEDED")

    assert job_ids(await anext(responses)) == ["j"]
    assert await device.start_next() is not None


async def test_fingerprint_differs_after_a_full_job_has_room(world: World, device: Device) -> None:
    """No poll sees that the job was full, but the device was told so."""
    other = await create_with_one_place(world)

    free = await read_fingerprint(device, world.database)
    await other.start("j")
    full = await read_fingerprint(device, world.database)
    assert await device.start_next() is None
    await other.update("j", "SUCCEEDED")

    assert len({free, full, await read_fingerprint(device, world.database)}) == 3


async def test_change_between_fingerprint_and_list_is_sent(world: World, device: Device) -> None:
    """The fingerprint is of the state before the change, the list of the state after it."""
    async with shared_store(world.database) as store:
        changed = asyncio.Event()
        read = store.list_watched_executions

        async def change_and_read(*args: Any, **options: Any) -> Any:
            if not changed.is_set():
                changed.set()
                await world.create()
            return await read(*args, **options)

        store.list_watched_executions = change_and_read
        responses: asyncio.Queue[device_pb.WatchPendingExecutionsResponse] = asyncio.Queue()

        async def write(response: bytes) -> None:
            await responses.put(device_pb.WatchPendingExecutionsResponse.FromString(response))

        async def pause(_: str) -> None:
            await asyncio.sleep(0)

        memory = MemoryLimit(1 << 20, 1 << 20)
        watch = ExecutionWatch(store, memory, asyncio.Event(), pause, 0.01)
        watching = asyncio.create_task(watch.run(world.tenant, device.name, 10, write))
        async with asyncio.timeout(TIMEOUT):
            assert job_ids(await responses.get()) == ["j"]
            await world.operator.cancel("j")
            while job_ids(await responses.get()):  # The list that already had the job comes again.
                pass
        watching.cancel()
        await asyncio.wait([watching])


@pytest.mark.slow
async def test_watch_without_the_database_gets_the_list_later(world: World, device: Device) -> None:
    await world.create()
    async with (
        running_proxy(world.database.request_dsn) as proxy,
        running_server(proxy.dsn, JOBS_QUERY_TIMEOUT="0.2") as server,
    ):
        proxy.freeze()
        responses = server.device(world.tenant, device.name).watch()
        first = asyncio.ensure_future(anext(responses))
        await expect_error("DATABASE_UNAVAILABLE", server.operator(world.tenant).list())
        assert not first.done()
        proxy.thaw()

        assert job_ids(await first) == ["j"]


@pytest.mark.slow
async def test_watches_get_a_change_while_others_do_not_read(world: World, device: Device) -> None:
    """The responses of the slow streams are larger than what gRPC sends without a window."""
    names = [f"d{n}" for n in range(40)]
    await world.add_devices(names)
    await world.create("first", document_params={"a": "x" * 30_000})
    async with connection(world.server.address, window=0) as slow:
        for number, name in enumerate(names):
            metadata = {"x-tenant-id": world.tenant, "x-device-id": name}
            request = device_pb.WatchPendingExecutionsRequest()
            slow.call(2 * number + 1, WATCH_PENDING, metadata, request)
        responses = device.watch()
        await anext(responses)

        await world.create("second")

        assert job_ids(await anext(responses)) == ["first", "second"]


async def test_watch_sends_an_execution_when_its_window_opens(world: World, device: Device) -> None:
    opening = datetime(2027, 6, 7, 2, tzinfo=UTC)
    delay = await world.database.owner.fetchval("SELECT jobs.opening_delay($1)", device.name)
    due_at = opening + timedelta(seconds=delay)
    await set_time(world.database, opening - timedelta(hours=1))
    await world.create(never_expires=True)
    await set_windows(world.database, world.tenant, "j", [127, 120, 60])
    try:
        responses = device.watch()
        assert job_ids(await anext(responses)) == []

        await set_time(world.database, due_at - timedelta(seconds=0.3))
        assert job_ids(await anext(responses)) == ["j"]
        assert await world.database.owner.fetchval("SELECT jobs.clock_time()") >= due_at
        await set_time(world.database, opening + timedelta(minutes=60))
        assert job_ids(await anext(responses)) == []
    finally:
        await world.database.set_time_offset(0)


async def test_watch_sends_an_execution_when_its_backoff_ends(world: World, device: Device) -> None:
    await world.create()
    now: datetime = await world.database.owner.fetchval("SELECT jobs.clock_time()")
    not_before = now + timedelta(seconds=3)  # The watch opens before.
    await world.owner_value(
        "UPDATE jobs.job_executions SET not_before = $2 WHERE tenant_id = $1", not_before
    )
    responses = device.watch()

    assert job_ids(await anext(responses)) == []
    assert job_ids(await anext(responses)) == ["j"]
    assert await world.database.owner.fetchval("SELECT jobs.clock_time()") >= not_before
