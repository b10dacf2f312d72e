"""Generated callers: the OpenAPI document against the gateway, and reflection by grpcurl."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.support import GATEWAY, Gateway, Rest, require_go
from tests.support import Database, Server

SERVICE = "fleet.jobs.v1.JobService"


async def run(*command: str | Path, cwd: Path = GATEWAY) -> str:
    """Run a command beside the server, which lives in this process; returns its output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_answers_are_as_the_openapi_document_says(
    gateway: Gateway, database: Database, rest: Rest, tmp_path: Path
) -> None:
    """Requests that fit it and requests that don't: no 5xx, and nothing that it does not say."""
    await database.add_devices(rest.tenant, 3, group="north")
    await rest.create(job_id="a", target_all=True)
    (tmp_path / "schemathesis.toml").write_text("")

    output = await run(
        Path(sys.executable).with_name("schemathesis"),
        "--config-file", tmp_path / "schemathesis.toml",
        "run", GATEWAY / "gen" / "openapi.json",
        "--url", gateway.url,
        "--header", f"X-Tenant-Id: {rest.tenant}",
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
    assert "5 selected / 5 total" in output


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

    async def call(rpc: str, request: Any) -> Any:
        output = await run(
            grpcurl, "-plaintext", "-H", f"x-tenant-id: {tenant}",
            "-d", json.dumps(request), server.address, f"{SERVICE}/{rpc}",
        )  # fmt: skip
        return json.loads(output)

    listed = await run(grpcurl, "-plaintext", server.address, "list", SERVICE)
    calls = {
        "CreateJob": {"job_id": "a", "document_type": "reboot", "target_all": True},
        "GetJob": {"job_id": "a"},
        "ListJobs": {},
        "ListJobExecutions": {"job_id": "a"},
        "CancelJob": {"job_id": "a"},
    }
    assert {line.rpartition(".")[2] for line in listed.split()} == set(calls)
    answers = {rpc: await call(rpc, request) for rpc, request in calls.items()}

    assert answers["CreateJob"]["execution_count"] == 1
    assert answers["GetJob"]["job"]["status"] == "IN_PROGRESS"
    assert answers["ListJobs"]["jobs"][0]["job_id"] == "a"
    assert answers["ListJobExecutions"]["executions"][0]["device_id"] == "d00001"
    assert answers["CancelJob"] == {"job_id": "a", "status": "CANCELED"}
