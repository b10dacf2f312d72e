"""Jobs of many devices, with the message limits that every gRPC client has."""

from collections.abc import AsyncIterator

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.support.callers import Operator, all_executions
from tests.support.database import Database
from tests.support.scale import SCALE
from tests.support.server import Server

MAX_MESSAGE = 4 * 1024 * 1024


@pytest.fixture
async def plain(server: Server, tenant: str) -> AsyncIterator[Operator]:
    """An operator on a channel without any options."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield Operator(jobs_pb2_grpc.JobServiceStub(channel), tenant)


async def test_job_with_many_devices_is_read_completely(
    database: Database, plain: Operator
) -> None:
    devices = 20_000 * SCALE
    await database.add_devices(plain.tenant, devices)
    names = sorted(f"d{number:05}" for number in range(1, devices + 1))

    assert (await plain.create(job_id="j", target_all=True)).execution_count == devices

    (listed,) = (await plain.list()).jobs
    assert listed.execution_counts == pb.ExecutionCounts(queued=devices)
    job = await plain.get("j", executions_limit=5000)
    assert job.total_executions == devices
    assert [e.device_id for e in job.executions] == names[:5000]
    rest = await all_executions(plain, "j", limit=5000, page_token=job.next_executions_page_token)
    assert [e.device_id for e in rest] == names[5000:]


async def test_long_details_make_pages_shorter_and_lose_nothing(
    database: Database, plain: Operator
) -> None:
    await database.add_devices(plain.tenant, 5100)
    names = [f"d{number:05}" for number in range(1, 5101)]
    await plain.create(job_id="j", target_all=True)
    await plain.cancel("j", reason="é" * 1000)

    job = await plain.get("j", executions_limit=5000)
    seen = list(job.executions)
    assert 1000 < len(seen) < 5000
    assert job.ByteSize() <= MAX_MESSAGE
    token = job.next_executions_page_token
    while token:
        page = await plain.executions("j", limit=5000, page_token=token)
        assert page.ByteSize() <= MAX_MESSAGE
        seen += page.executions
        token = page.next_page_token

    assert [e.device_id for e in seen] == names
    assert all(e.status_details == {"reason": "é" * 1000} for e in seen)


async def test_long_names_make_pages_shorter_and_lose_nothing(
    database: Database, plain: Operator
) -> None:
    names = [f"{number:05}" + "🚀" * 251 for number in range(5000)]
    await database.add_devices(plain.tenant, names)
    await plain.create(job_id="j", target_all=True)

    job = await plain.get("j", executions_limit=5000)
    rest = await all_executions(plain, "j", limit=5000, page_token=job.next_executions_page_token)

    assert MAX_MESSAGE * 0.9 < job.ByteSize() <= MAX_MESSAGE
    assert [e.device_id for e in [*job.executions, *rest]] == names


async def test_a_large_document_leaves_less_room_for_executions(
    database: Database, plain: Operator
) -> None:
    await database.add_devices(plain.tenant, 2000)
    await plain.create(job_id="j", target_all=True, document_params={"numbers": [1.0] * 16_000})
    await plain.cancel("j", reason="🚀" * 1000)

    job = await plain.get("j", executions_limit=2000)

    assert job.ByteSize() <= MAX_MESSAGE
    listed = await plain.executions("j", limit=2000)
    assert 0 < len(job.executions) < len(listed.executions) < 2000
