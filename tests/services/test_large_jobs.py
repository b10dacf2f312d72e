"""Jobs with many devices, read with the default message limit of gRPC clients."""

from collections.abc import AsyncIterator

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Operator, all_executions
from tests.support.scale import SCALE
from tests.support.server import Server
from tests.support.world import World

pytestmark = pytest.mark.slow

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@pytest.fixture
async def operator(server: Server, tenant: str) -> AsyncIterator[Operator]:
    """An operator on a channel without options."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)


async def read(operator: Operator) -> tuple[pb.Job, list[pb.JobExecution]]:
    """Read the job "j" with as many executions as possible, and all executions."""
    job = await operator.get("j", executions_limit=5000)
    token = job.next_executions_page_token
    rest = await all_executions(operator, "j", limit=5000, page_token=token)
    assert job.ByteSize() <= MAX_MESSAGE_BYTES
    return job, [*job.executions, *rest]


async def test_job_with_many_devices_is_read_completely(world: World) -> None:
    devices = 20_000 * SCALE
    await world.add_devices(devices)

    assert (await world.create()).execution_count == devices

    (listed,) = (await world.operator.list()).jobs
    assert listed.execution_counts == pb.ExecutionCounts(queued=devices)
    job, executions = await read(world.operator)
    assert (job.total_executions, len(job.executions)) == (devices, 5000)
    names = sorted(f"d{number:05}" for number in range(1, devices + 1))
    assert [e.device_id for e in executions] == names


async def test_pages_have_fewer_executions_when_details_are_long(world: World) -> None:
    await world.add_devices(5100)
    await world.create()
    await world.operator.cancel("j", reason="é" * 1000)

    job, executions = await read(world.operator)

    assert 1000 < len(job.executions) < 5000
    assert [e.device_id for e in executions] == [f"d{number:05}" for number in range(1, 5101)]
    assert all(e.status_details == {"reason": "é" * 1000} for e in executions)


async def test_pages_have_fewer_executions_when_device_ids_are_long(world: World) -> None:
    names = [f"{number:05}" + "🚀" * 251 for number in range(5000)]
    await world.add_devices(names)
    await world.create()

    job, executions = await read(world.operator)

    assert job.ByteSize() > MAX_MESSAGE_BYTES * 0.9
    assert [e.device_id for e in executions] == names


async def test_job_has_fewer_executions_when_its_document_is_large(world: World) -> None:
    await world.add_devices(2000)
    await world.create(document_params={"numbers": [1.0] * 16_000})
    await world.operator.cancel("j", reason="🚀" * 1000)

    job = await world.operator.get("j", executions_limit=2000)

    assert job.ByteSize() <= MAX_MESSAGE_BYTES
    listed = await world.operator.executions("j", limit=2000)
    assert 0 < len(job.executions) < len(listed.executions) < 2000
