"""Jobs with many devices, read with the default message limit of gRPC clients."""

from collections.abc import AsyncIterator

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.scale import SCALE
from tests.support.server import Server

pytestmark = pytest.mark.slow

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@pytest.fixture
async def operator(server: Server, tenant: str) -> AsyncIterator[Operator]:
    """An operator on a channel without options."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)


async def test_job_with_many_devices_is_read_completely(
    database: Database, operator: Operator
) -> None:
    devices = 20_000 * SCALE
    await database.add_devices(operator.tenant, devices)
    names = sorted(f"d{number:05}" for number in range(1, devices + 1))

    assert (await operator.create(job_id="j", target_all=True)).execution_count == devices

    (listed,) = (await operator.list()).jobs
    assert listed.execution_counts == pb.ExecutionCounts(queued=devices)
    job = await operator.get("j", executions_limit=5000)
    assert job.total_executions == devices
    assert [e.device_id for e in job.executions] == names[:5000]
    rest = await all_executions(
        operator, "j", limit=5000, page_token=job.next_executions_page_token
    )
    assert [e.device_id for e in rest] == names[5000:]


async def test_pages_have_fewer_executions_when_details_are_long(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 5100)
    names = [f"d{number:05}" for number in range(1, 5101)]
    await operator.create(job_id="j", target_all=True)
    await operator.cancel("j", reason="é" * 1000)

    job = await operator.get("j", executions_limit=5000)
    rest = await all_executions(
        operator, "j", limit=5000, page_token=job.next_executions_page_token
    )

    assert 1000 < len(job.executions) < 5000
    assert job.ByteSize() <= MAX_MESSAGE_BYTES
    assert [e.device_id for e in [*job.executions, *rest]] == names
    assert all(e.status_details == {"reason": "é" * 1000} for e in rest)


async def test_pages_have_fewer_executions_when_device_ids_are_long(
    database: Database, operator: Operator
) -> None:
    names = [f"{number:05}" + "🚀" * 251 for number in range(5000)]
    await database.add_devices(operator.tenant, names)
    await operator.create(job_id="j", target_all=True)

    job = await operator.get("j", executions_limit=5000)
    rest = await all_executions(
        operator, "j", limit=5000, page_token=job.next_executions_page_token
    )

    assert MAX_MESSAGE_BYTES * 0.9 < job.ByteSize() <= MAX_MESSAGE_BYTES
    assert [e.device_id for e in [*job.executions, *rest]] == names


async def test_job_has_fewer_executions_when_its_document_is_large(
    database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 2000)
    await operator.create(job_id="j", target_all=True, document_params={"numbers": [1.0] * 16_000})
    await operator.cancel("j", reason="🚀" * 1000)

    job = await operator.get("j", executions_limit=2000)

    assert job.ByteSize() <= MAX_MESSAGE_BYTES
    listed = await operator.executions("j", limit=2000)
    assert 0 < len(job.executions) < len(listed.executions) < 2000
