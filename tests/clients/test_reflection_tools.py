"""Tools that know the server by its reflection only: grpcurl, grpcui, evans, ghz and buf curl."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import httpx
import pytest

from jobs_grpc.contract.methods import SERVICES
from tests.clients.conftest import Run, installed
from tests.support.processes import running_process
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

pytestmark = pytest.mark.slow

LIST_JOBS = "fleet.jobs.v1.JobService.ListJobs"
COMMENT = "Lists the jobs of the tenant without their executions"


async def test_grpcurl_describes_all_services_and_methods(server: Server, run: Run) -> None:
    grpcurl = installed("grpcurl"), "-plaintext"

    for service in (await run(*grpcurl, server.address, "list")).split():
        assert f"{service} is a service" in await run(*grpcurl, server.address, "describe", service)
    described = await run(*grpcurl, server.address, "describe", LIST_JOBS)

    assert f"{LIST_JOBS} is a method" in described
    assert f"// {COMMENT}" in described


async def test_grpcurl_decodes_the_details_of_errors(server: Server, tenant: str, run: Run) -> None:
    output = await run(
        *(installed("grpcurl"), "-plaintext", "-H", f"x-tenant-id: {tenant}"),
        *("-d", '{"job_id": "none"}', server.address, "fleet.jobs.v1.JobService/GetJob"),
        expect=64 + 5,  # NOT_FOUND
    )

    assert '"reason": "JOB_NOT_FOUND"' in output


async def test_buf_curl_lists_all_methods_and_calls_one(
    server: Server, tenant: str, run: Run
) -> None:
    buf = installed("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge"
    url = f"http://{server.address}"

    methods = (await run(*buf, "--list-methods", url)).split()
    assert {method for method in methods if method.startswith("fleet.")} == {
        f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods
    }
    for version in ("grpc-v1", "grpc-v1alpha"):
        listed = await run(*buf, "--reflect-protocol", version, "--list-services", url)
        assert SERVICES[0].full_name in listed
    header = "-H", f"x-tenant-id: {tenant}"
    assert await run(*buf, *header, f"{url}/fleet.jobs.v1.JobService/ListJobs") == "{}\n"


async def test_ghz_calls_a_method_by_its_full_name(server: Server, tenant: str, run: Run) -> None:
    metadata = json.dumps({"x-tenant-id": tenant})

    report = await run(
        *(installed("ghz"), "--insecure", "--call", LIST_JOBS, "--metadata", metadata),
        *("--total", "20", "--concurrency", "2", "--format", "json", server.address),
    )

    assert json.loads(report)["statusCodeDistribution"] == {"OK": 20}


async def test_evans_lists_describes_and_calls(server: Server, tenant: str, run: Run) -> None:
    host, _, port = server.address.rpartition(":")
    evans = installed("evans"), "--host", host, "--port", port, "--reflection"

    methods = (await run(*evans, "cli", "list", SERVICES[0].full_name)).split()
    described = await run(*evans, "cli", "desc", "fleet.jobs.v1.Job")
    called = await run(
        *(*evans, "--header", f"x-tenant-id={tenant}", "cli", "call", LIST_JOBS), stdin="{}"
    )

    assert set(methods) == {method.full_name for method in SERVICES[0].methods}
    assert "message Job {" in described
    assert json.loads(called) == {}


@pytest.fixture
async def grpcui(server: Server) -> AsyncIterator[str]:
    command = (installed("grpcui"), "-plaintext", "-bind", "127.0.0.1", "-port", "0")
    async with running_process(*command, server.address, stdout=PIPE) as process:
        assert process.stdout
        async with asyncio.timeout(TIMEOUT):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found, line
        yield found[0]


async def test_grpcui_shows_all_methods_and_calls_one(grpcui: str, tenant: str) -> None:
    async with httpx.AsyncClient(base_url=grpcui, timeout=TIMEOUT) as http:
        page = (await http.get("/")).text
        # grpcui requires its cookie in a header as well.
        token = http.cookies["_grpcui_csrf_token"]
        response = await http.post(
            f"/invoke/{LIST_JOBS}",
            headers={"x-grpcui-csrf-token": token},
            json={"metadata": [{"name": "x-tenant-id", "value": tenant}], "data": [{}]},
        )

    for service in SERVICES:
        assert f">{service.full_name}<" in page
    called = response.json()
    assert called["error"] is None, called
    assert called["responses"][0]["message"] == {"jobs": [], "next_page_token": ""}
