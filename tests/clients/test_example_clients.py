"""The clients of examples/ in Go and for Node, which generate their stubs from the contract."""

import asyncio
import re
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.clients.conftest import ROOT, Run, installed
from tests.gateway.support import require_go
from tests.support.database import Database, job_lock_held
from tests.support.jobs import wait_for_counts
from tests.support.processes import running_process
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

# Compiling Go takes minutes where nothing is cached.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
async def agent(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device in Go, which vet accepts."""
    target = tmp_path_factory.mktemp("go") / "device-agent"
    await run(installed("buf"), "generate", cwd=EXAMPLES / "go")
    await run(require_go(), "vet", "./...", cwd=EXAMPLES / "go")
    await run(require_go(), "build", "-o", target, ".", cwd=EXAMPLES / "go")
    return target


@asynccontextmanager
async def running(
    *command: str | Path, cwd: Path = EXAMPLES
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command with its output in one pipe; at the end, kill it."""
    running = running_process(*command, cwd=cwd, stdout=PIPE, stderr=STDOUT)
    async with running as process, asyncio.timeout(TIMEOUT):
        yield process


async def next_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    return (await process.stdout.readline()).decode().rstrip()


async def rest_of(process: asyncio.subprocess.Process) -> list[str]:
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode().splitlines()


async def test_go_device_polls_and_carries_out_executions(
    database: Database, tenant: str, agent: Path
) -> None:
    await database.add_devices(tenant, ["pump"])
    async with running_server(database.request_dsn, JOBS_POLL_AFTER="0.1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="first", target_all=True)
        async with running(agent, server.address, tenant, "pump") as process:
            await wait_for_counts(operator, "first", succeeded=1)
            # The device found nothing pending, and polls again.
            await operator.create(job_id="second", document_type="unknown", target_all=True)
            job = await wait_for_counts(operator, "second", rejected=1)
            lines = [await next_line(process), await next_line(process)]

    assert lines == ["first: reboot", "second: unknown"]
    assert job.executions[0].failure_code == "UNKNOWN_DOCUMENT_TYPE"


async def test_go_device_polls_again_after_the_delay_that_the_server_asks_for(
    database: Database, tenant: str, agent: Path
) -> None:
    await database.add_devices(tenant, ["pump", "valve"])
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="busy", target_device_id="valve")
        await operator.create(job_id="j", target_device_id="pump")
        async with AsyncExitStack() as stack:
            async with job_lock_held(database, tenant, "busy"):
                cancel = asyncio.create_task(operator.cancel("busy"))
                await database.wait_for_blocked_sessions(1)
                device = running(agent, server.address, tenant, "pump")
                process = await stack.enter_async_context(device)
                assert "JOBS_MAX_TENANT_CALLS" in await next_line(process)
            await cancel
            # Without that delay, it waits for a minute.
            assert await next_line(process) == "j: reboot"


async def test_go_device_ends_with_an_error_that_a_retry_does_not_solve(
    server: Server, run: Run, agent: Path
) -> None:
    output = await run(agent, server.address, "a,b", "pump", expect=1)

    assert "code = Unauthenticated desc = x-tenant-id must be" in output


@pytest.fixture(scope="module")
async def node(run: Run) -> Path:
    """The folder of the operator for Node, with its stubs."""
    await run(installed("buf"), "generate", cwd=EXAMPLES / "node")
    return EXAMPLES / "node"


async def test_node_operator_creates_a_job_and_follows_it(world: World, node: Path) -> None:
    await world.add_devices(["pump", "valve"], group="north")
    url = f"http://{world.server.address}"
    async with running("node", "run_job.mjs", url, world.tenant, "north", cwd=node) as process:
        match = re.fullmatch(r"created (\S+) for 2 devices", await next_line(process))
        assert match
        assert await next_line(process) == "IN_PROGRESS 0/2"
        for name in ("pump", "valve"):
            await world.device(name).update(match[1], "SUCCEEDED")
        lines = await rest_of(process)

    assert lines[-1] == "COMPLETED 2/2"
    assert (await world.operator.get(match[1])).created_by == "example"


async def test_node_operator_watches_again_after_the_server_has_refused_the_stream(
    database: Database, tenant: str, node: Path
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_STREAMS="1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="watched", target_all=True)
        stub: Any = jobs_pb2_grpc.JobServiceStub(server.channel)
        metadata = (("x-tenant-id", tenant),)
        watch = stub.WatchJob(pb.WatchJobRequest(job_id="watched"), metadata=metadata)
        await watch.read()
        url = f"http://{server.address}"
        async with running("node", "run_job.mjs", url, tenant, "north", cwd=node) as process:
            created = (await next_line(process)).split()
            assert "JOBS_MAX_TENANT_STREAMS" in await next_line(process)
            watch.cancel()
            assert await next_line(process) == "IN_PROGRESS 0/1"
            await operator.cancel(created[1])
            assert await rest_of(process) == ["CANCELED 0/1"]


async def test_node_operator_prints_an_error_in_one_line(
    server: Server, tenant: str, run: Run, node: Path
) -> None:
    url = f"http://{server.address}"
    output = await run("node", "run_job.mjs", url, tenant, "nobody", cwd=node, expect=1)

    assert re.fullmatch(r"\[failed_precondition\] .*\n", output)
