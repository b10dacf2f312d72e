"""The clients of examples/ in Go and for Node, which generate their stubs from the contract."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from tests.clients.conftest import ROOT, Run, installed
from tests.gateway.support import require_go
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.jobs import wait_for_counts
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"


async def test_go_device_polls_and_carries_out_executions(
    database: Database, tenant: str, run: Run
) -> None:
    go = require_go()
    await run(installed("buf"), "generate", cwd=EXAMPLES / "go")
    await run(go, "vet", "./...", cwd=EXAMPLES / "go")
    agent = EXAMPLES / "go" / "gen" / "device-agent"
    await run(go, "build", "-o", agent, ".", cwd=EXAMPLES / "go")
    await database.add_devices(tenant, ["pump"])
    async with running_server(database.request_dsn, JOBS_POLL_AFTER="0.1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="first", target_all=True)
        process = await asyncio.create_subprocess_exec(
            agent, server.address, tenant, "pump", stdout=asyncio.subprocess.PIPE
        )
        try:
            await wait_for_counts(operator, "first", succeeded=1)
            # The device found nothing pending, and polls again.
            await operator.create(job_id="second", document_type="unknown", target_all=True)
            job = await wait_for_counts(operator, "second", rejected=1)
        finally:
            process.terminate()
            output, _ = await process.communicate()

    assert output.decode().splitlines() == ["first: reboot", "second: unknown"]
    assert job.executions[0].failure_code == "UNKNOWN_DOCUMENT_TYPE"


async def test_go_device_polls_again_after_the_delay_that_the_server_asks_for(
    database: Database, tenant: str, run: Run, tmp_path: Path
) -> None:
    await run(installed("buf"), "generate", cwd=EXAMPLES / "go")
    agent = tmp_path / "device-agent"
    await run(require_go(), "build", "-o", agent, ".", cwd=EXAMPLES / "go")
    await database.add_devices(tenant, ["pump", "valve"])
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="busy", target_device_id="valve")
        await operator.create(job_id="j", target_device_id="pump")
        async with job_lock_held(database, tenant, "busy"):
            cancel = asyncio.create_task(operator.cancel("busy"))
            await database.wait_for_blocked_sessions(1)
            process = await asyncio.create_subprocess_exec(
                *(agent, server.address, tenant, "pump"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stdout
            assert process.stderr
            assert b"JOBS_MAX_TENANT_CALLS" in await process.stderr.readline()
        await cancel
        try:
            async with asyncio.timeout(TIMEOUT):  # without that delay, it waits for a minute
                assert await process.stdout.readline() == b"j: reboot\n"
        finally:
            process.terminate()
            await process.communicate()


async def test_go_device_ends_with_an_error_that_a_retry_does_not_solve(
    server: Server, tenant: str, run: Run
) -> None:
    await run(installed("buf"), "generate", cwd=EXAMPLES / "go")
    output = await run(
        *(require_go(), "run", ".", server.address, "a,b", "pump"), cwd=EXAMPLES / "go", expect=1
    )

    assert "code = Unauthenticated desc = x-tenant-id must be" in output


async def test_node_operator_creates_a_job_and_follows_it(
    server: Server, database: Database, operator: Operator, run: Run
) -> None:
    await database.add_devices(operator.tenant, ["pump", "valve"], group="north")
    await run(installed("buf"), "generate", cwd=EXAMPLES / "node")
    process = await asyncio.create_subprocess_exec(
        *("node", "run_job.mjs", f"http://{server.address}", operator.tenant, "north"),
        cwd=EXAMPLES / "node",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout
    async with asyncio.timeout(TIMEOUT):
        created = (await process.stdout.readline()).decode()
        match = re.fullmatch(r"created (\S+) for 2 devices\n", created)
        assert match, created
        assert await process.stdout.readline() == b"IN_PROGRESS 0/2\n"
        for name in ("pump", "valve"):
            device = server.device(operator.tenant, name)
            await device.update(match[1], status=pb.JobExecution.SUCCEEDED)
        rest = (await process.stdout.read()).decode()

    assert await process.wait() == 0
    assert rest.splitlines()[-1] == "COMPLETED 2/2"
    assert (await operator.get(match[1])).created_by == "example"


async def test_node_operator_watches_again_after_the_delay_that_the_server_asks_for(
    database: Database, tenant: str, run: Run
) -> None:
    await database.add_devices(tenant, ["pump"], group="north")
    await run(installed("buf"), "generate", cwd=EXAMPLES / "node")
    async with running_server(database.request_dsn, JOBS_MAX_TENANT_STREAMS="1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="watched", target_all=True)
        stub: Any = jobs_pb2_grpc.JobServiceStub(server.channel)
        metadata = (("x-tenant-id", tenant),)
        watch = stub.WatchJob(pb.WatchJobRequest(job_id="watched"), metadata=metadata)
        await watch.read()
        process = await asyncio.create_subprocess_exec(
            *("node", "run_job.mjs", f"http://{server.address}", tenant, "north"),
            cwd=EXAMPLES / "node",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout
        async with asyncio.timeout(TIMEOUT):
            created = (await process.stdout.readline()).decode().split()
            assert b"JOBS_MAX_TENANT_STREAMS" in await process.stdout.readline()
            refused = time.monotonic()
            watch.cancel()
            assert await process.stdout.readline() == b"IN_PROGRESS 0/1\n"
            assert time.monotonic() - refused > 0.9
            await operator.cancel(created[1])
            rest = (await process.stdout.read()).decode()

    assert await process.wait() == 0
    assert rest == "CANCELED 0/1\n"


async def test_node_operator_prints_an_error_in_one_line(
    server: Server, tenant: str, run: Run
) -> None:
    await run(installed("buf"), "generate", cwd=EXAMPLES / "node")
    output = await run(
        *("node", "run_job.mjs", f"http://{server.address}", tenant, "nobody"),
        cwd=EXAMPLES / "node",
        expect=1,
    )

    assert re.fullmatch(r"\[failed_precondition\] .*\n", output)
