"""JobsClient: each call through the real server."""

import asyncio
import re

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import Connection, DeviceClient, JobsClient, RetryPolicy, errors
from tests.client.relay import running_relay
from tests.support.database import Database
from tests.support.server import Server, reserved_address, running_server
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def fleet(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 3, group="north")


async def test_create_rejects_what_is_no_target(jobs: JobsClient) -> None:
    with pytest.raises(TypeError, match="limit"):
        await jobs.create("reboot", target_all=True, limit=5)  # type: ignore[call-arg]


async def test_create_rejects_two_targets(jobs: JobsClient) -> None:
    with pytest.raises(ValueError, match="only one target"):
        await jobs.create("reboot", target_group_id="north", target_all=True)


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"serial": 2**53 + 1}, ".serial"),
        ({"a": [1, ({"b": -(2**63)},)]}, ".a[1][0].b"),
        ({"a": 10**400}, ".a"),
    ],
)
async def test_create_refuses_an_integer_that_would_lose_digits(
    jobs: JobsClient, params: dict[str, object], path: str
) -> None:
    problem = (
        f"document_params{path} is an integer beyond ±2^53 and would lose digits; send it as a"
    )

    with pytest.raises(ValueError, match=re.escape(problem)):
        await jobs.create("reboot", params, target_all=True)


async def test_executions_read_all_pages_of_a_job_and_of_a_device(
    jobs: JobsClient, fleet: None
) -> None:
    await jobs.create("reboot", target_all=True, job_id="first")
    await jobs.create("reboot", target_all=True, job_id="second")

    of_job = [e.device_id async for e in jobs.executions("first", page_size=1)]
    of_device = [e.job_id async for e in jobs.executions(device_id="d00002", page_size=1)]

    assert of_job == ["d00001", "d00002", "d00003"]
    assert of_device == ["second", "first"]


async def test_list_continues_after_its_limit_with_its_next_page_token(
    jobs: JobsClient, fleet: None
) -> None:
    for number in range(5):
        await jobs.create("reboot", target_all=True, job_id=f"j{number}")

    first = jobs.list(limit=3, page_size=2)
    shown = [job.job_id async for job in first]
    rest = jobs.list(page_token=first.next_page_token)
    pages = [[job.job_id for job in page] async for page in rest.pages()]

    assert (shown, pages) == (["j4", "j3", "j2"], [["j1", "j0"]])
    assert (first.next_page_token != "", rest.next_page_token) == (True, "")


async def test_wait_returns_the_finished_job(jobs: JobsClient, fleet: None) -> None:
    await jobs.create("reboot", target_all=True, job_id="j")
    waiting = asyncio.create_task(jobs.wait("j"))

    await jobs.cancel("j", reason="enough")

    assert (await waiting).cancel_reason == "enough"


async def test_watch_raises_when_the_job_does_not_exist(jobs: JobsClient) -> None:
    with pytest.raises(errors.JobNotFound):
        await anext(jobs.watch("missing"))


@pytest.mark.slow
async def test_watch_continues_after_the_server_restarts(
    database: Database, tenant: str, quick: RetryPolicy
) -> None:
    await database.add_devices(tenant, 3)
    with reserved_address() as address:
        async with JobsClient(address, tenant=tenant, retry=quick) as jobs:
            async with running_server(database.request_dsn, JOBS_LISTEN=address):
                await jobs.create("reboot", target_all=True, job_id="j")
                states = jobs.watch("j")
                first = await anext(states)
            async with running_server(database.request_dsn, JOBS_LISTEN=address):
                await jobs.cancel_execution("j", "d00001")
                async with asyncio.timeout(TIMEOUT):
                    second = await anext(states)
                    await jobs.cancel("j")
                    rest = [state.status async for state in states]

    # The state before the restart is not repeated.
    assert first.execution_counts == pb.ExecutionCounts(queued=3)
    assert second.execution_counts == pb.ExecutionCounts(queued=2, rejected=1)
    assert rest == [pb.Job.CANCELED]


async def test_connection_spreads_calls_over_its_channels(
    server: Server, tenant: str, fleet: None
) -> None:
    async with (
        running_relay(server.address) as relay,
        Connection(relay.address, channels=3) as connection,
        JobsClient(connection, tenant=tenant) as jobs,
        DeviceClient(connection, tenant=tenant, device_id="d00001") as device,
    ):
        for _ in range(6):
            assert [job async for job in jobs.list()] == []
            assert [execution async for execution in device.pending()] == []

    assert relay.connection_count == 3


def test_client_refuses_to_send_a_token_without_tls() -> None:
    with pytest.raises(ValueError, match="TLS"):
        JobsClient("jobs.example.com:443", token=lambda: "secret")
