"""Generated callers: the OpenAPI document against the gateway, and reflection by grpcurl."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.support import GATEWAY, TIMEOUT, Gateway, Rest, require_go
from tests.support.database import Database
from tests.support.server import Server

PACKAGE = "fleet.jobs.v1"

# A path that ends in a verb is that of a job called so, too, to the other methods: a GET of
# it is no 405 but a job that is not there.
ANY_METHOD = """
[[operations]]
include-path-regex = "[}]:[a-z]+$"
checks.unsupported_method.enabled = false
"""


async def run(*command: str | Path, cwd: Path = GATEWAY) -> str:
    """Run a command beside the server, which lives in this process; returns its output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize(
    ("paths", "caller", "selected"),
    [("^/customer/", [], "10 selected"), ("^/device/", ["X-Device-Id: d00001"], "5 selected")],
    ids=["customer", "device"],
)
async def test_answers_are_as_the_openapi_document_says(
    gateway: Gateway,
    database: Database,
    rest: Rest,
    tmp_path: Path,
    paths: str,
    caller: list[str],
    selected: str,
) -> None:
    """Requests that fit it and requests that don't: no 5xx, and nothing that it does not say."""
    await database.add_devices(rest.tenant, 3, group="north")
    await rest.create(job_id="a", target_all=True)
    (tmp_path / "schemathesis.toml").write_text(ANY_METHOD)

    output = await run(
        Path(sys.executable).with_name("schemathesis"),
        "--config-file", tmp_path / "schemathesis.toml",
        "run", GATEWAY / "gen" / "openapi.json",
        "--url", gateway.url,
        "--header", f"X-Tenant-Id: {rest.tenant}",
        *(argument for header in caller for argument in ("--header", header)),
        "--include-path-regex", paths,
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance,response_headers_conformance,unsupported_method",
        "--phases", "examples,coverage,fuzzing,stateful",
        "--mode", "all",
        "--max-examples", "25",
        "--seed", "1",
        "--generation-database", "none",
        "--suppress-health-check", "all",
        "--no-color",
        cwd=tmp_path,  # it keeps a cache where it runs
    )  # fmt: skip

    print(output)
    assert f"{selected} / 15 total" in output


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The version that gateway/go.mod pins, built if need be."""
    command = [require_go(), "tool", "-n", "grpcurl"]
    found = subprocess.run(command, cwd=GATEWAY, check=True, capture_output=True)  # noqa: S603
    return Path(found.stdout.decode().strip())


async def test_grpcurl_calls_every_rpc_by_reflection(
    grpcurl: Path, server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    callers = {
        "JobService": ("-H", f"x-tenant-id: {tenant}"),
        "DeviceJobService": ("-H", f"x-tenant-id: {tenant}", "-H", "x-device-id: d00001"),
    }

    async def call(service: str, rpc: str, request: Any) -> Any:
        output = await run(
            grpcurl, "-plaintext", *callers[service], *("-max-time", "20"),
            "-d", json.dumps(request), server.address, f"{PACKAGE}.{service}/{rpc}",
        )  # fmt: skip
        # A stream answers one object after another: the first will do.
        return json.JSONDecoder().raw_decode(output)[0]

    job = {"job_id": "a"}
    execution = job | {"device_id": "d00001"}
    failed = job | {"status": "FAILED"}
    calls = [
        ("JobService", "CreateJob", job | {"document_type": "reboot", "target_all": True}),
        ("JobService", "GetJob", job),
        ("JobService", "ListJobs", {}),
        ("JobService", "ListJobExecutions", job),
        ("DeviceJobService", "ListPendingExecutions", {}),
        ("DeviceJobService", "StartNextExecution", {}),
        ("DeviceJobService", "StartExecution", job),
        ("DeviceJobService", "GetExecution", job),
        ("DeviceJobService", "UpdateExecution", failed),
        ("JobService", "RetryExecutions", job | {"statuses": ["FAILED"]}),
        ("JobService", "ListExecutionAttempts", execution),
        ("DeviceJobService", "ReportExecutions", {"report_id": "r", "report": failed}),
        ("JobService", "WatchJob", job),  # it is over, so the stream ends
        ("JobService", "RetryExecutions", job | {"statuses": ["FAILED"]}),
        ("JobService", "CancelExecution", execution),
        ("JobService", "CreateJob", {"job_id": "b", "document_type": "x", "target_all": True}),
        ("JobService", "CancelJob", {"job_id": "b"}),
        ("JobService", "DeleteJob", {"job_id": "b"}),
    ]
    answers = {rpc: await call(service, rpc, request) for service, rpc, request in calls}

    for service in ("JobService", "DeviceJobService"):
        listed = await run(grpcurl, "-plaintext", server.address, "list", f"{PACKAGE}.{service}")
        names = {line.rpartition(".")[2] for line in listed.split()}
        called = {rpc for name, rpc, _ in calls if name == service}
        # It has no end but the caller's: grpcurl would wait for it.
        assert names - {"WatchPendingExecutions"} == called
    assert answers["GetJob"]["job"]["status"] == "IN_PROGRESS"
    assert answers["ListJobs"]["jobs"][0]["job_id"] == "a"
    assert answers["ListJobExecutions"]["executions"][0]["device_id"] == "d00001"
    assert answers["StartNextExecution"]["execution"]["status"] == "IN_PROGRESS"
    assert answers["UpdateExecution"]["execution"]["status"] == "FAILED"
    assert answers["RetryExecutions"]["retried_count"] == 1
    assert len(answers["ListExecutionAttempts"]["attempts"]) == 2
    assert answers["ReportExecutions"]["execution"]["execution_number"] == 2
    assert answers["WatchJob"]["job"]["status"] == "COMPLETED"
    assert answers["CancelExecution"]["execution"]["status"] == "REJECTED"
    assert answers["CancelJob"] == {"job_id": "b", "status": "CANCELED"}
    assert answers["DeleteJob"] == {}


async def test_grpcurl_watches_by_reflection(
    grpcurl: Path, server: Server, database: Database, tenant: str
) -> None:
    """A stream without end: the first answer, then the caller goes away."""
    await database.add_devices(tenant, 1)
    await server.operator(tenant).create(job_id="a", target_all=True)
    process = await asyncio.create_subprocess_exec(
        grpcurl, "-plaintext", "-H", f"x-tenant-id: {tenant}", "-H", "x-device-id: d00001",
        server.address, f"{PACKAGE}.DeviceJobService/WatchPendingExecutions",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            output = await process.stdout.readuntil(b"\n}\n")
    finally:
        process.kill()
        await process.wait()

    (execution,) = json.loads(output)["executions"]
    assert (execution["job_id"], execution["status"]) == ("a", "QUEUED")
