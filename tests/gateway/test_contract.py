"""Schemathesis tests the gateway against its OpenAPI document; grpcurl calls every RPC."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.auth.support import JWT_SETTINGS
from tests.gateway.support import GATEWAY, Gateway, require_go, running_gateway
from tests.support.database import Database
from tests.support.identities import claims, jwks, new_key, token
from tests.support.scale import scaled
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

PACKAGE = "fleet.jobs.v1"


async def run(*command: str | Path, cwd: Path = GATEWAY) -> str:
    """Run a command, expect success, and return its output.

    It does not block the event loop, which also serves the gRPC server.
    """
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


# A request can be valid by its schema and still fail with 400: the state of a job does not allow
# the call (FAILED_PRECONDITION), a page token is made up, or two fields exclude each other.
# A list that is longer than its limit can also make the body or the URL too large (413, 431).
# Everything else is checked as schemathesis does by default.
SCHEMATHESIS_CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [
    "400", "401", "403", "404", "405", "406", "409", "410", "413", "415", "422", "428", "429",
    "431", "5xx"
]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "409", "410", "429", "431"]

# A selector of 4,096 characters can be longer than the 32 KiB that a URL may have, once it is
# escaped. Go's server answers that itself, with a text.
[[operations]]
include-path = "/customer/fleet/devices"
checks.content_type_conformance.enabled = false
"""
KEY = new_key()


@pytest.fixture(scope="module")
async def token_gateway(
    gateway_binary: Path, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """A gateway in front of a server that authenticates callers by tokens."""
    keys = tmp_path_factory.mktemp("keys") / "jwks.json"
    keys.write_text(jwks(KEY))
    settings = JWT_SETTINGS | {"JOBS_JWT_KEYS": str(keys)}
    async with (
        running_server(database.request_dsn, **settings) as server,
        running_gateway(gateway_binary, server.address) as gateway,
    ):
        yield gateway


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("paths", "role", "identity"),
    [("/customer/", "admin", {}), ("/device/", "device", {"device_id": "d00001"})],
    ids=["customer", "device"],
)
async def test_responses_match_the_openapi_document(
    token_gateway: Gateway,
    database: Database,
    tenant: str,
    tmp_path: Path,
    paths: str,
    role: str,
    identity: dict[str, str],
) -> None:
    """Send valid and invalid requests: no response is a 5xx or deviates from the document."""
    await database.add_devices(tenant, 3, group="north")
    admin = {"Authorization": f"Bearer {token(KEY, claims(tenant, 'admin'))}"}
    # By default, a token expires in a minute: all later responses would be 401.
    caller = claims(tenant, role, exp=int(time.time()) + 86_400, **identity)
    job = {"job_id": "a", "document_type": "reboot", "target_all": True}
    async with httpx.AsyncClient(
        base_url=token_gateway.url, headers=admin, timeout=TIMEOUT
    ) as http:
        assert (await http.post("/customer/jobs", json=job)).status_code == 201
    hooks = json.dumps(str(Path(__file__).with_name("schemathesis_hooks.py")))
    (tmp_path / "schemathesis.toml").write_text(f"hooks = {hooks}\n{SCHEMATHESIS_CONFIG}")

    output = await run(
        Path(sys.executable).with_name("schemathesis"),
        "--config-file", tmp_path / "schemathesis.toml",
        "run", GATEWAY / "gen" / "openapi.json",
        "--url", token_gateway.url,
        "--header", f"Authorization: Bearer {token(KEY, caller)}",
        "--include-path-regex", f"^{paths}",
        "--exclude-path-regex", ":watch$",  # does not end while the job is in progress
        "--phases", "examples,coverage,fuzzing,stateful",
        "--mode", "all",
        "--max-examples", str(scaled(25, factor=2)),
        "--seed", "1",
        "--generation-database", "none",
        "--suppress-health-check", "all",
        "--no-color",
        cwd=tmp_path,  # schemathesis writes a cache to its working directory
    )  # fmt: skip

    print(output)
    document = json.loads((GATEWAY / "gen" / "openapi.json").read_text(encoding="utf-8"))
    operations = [path for path, item in document["paths"].items() for _ in item]
    selected = [p for p in operations if p.startswith(paths) and not p.endswith(":watch")]
    assert f"{len(selected)} selected / {len(operations)} total" in output


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """Build the grpcurl that gateway/go.mod pins, if it is not cached, and return its path."""
    command = [require_go(), "tool", "-n", "grpcurl"]
    result = subprocess.run(command, cwd=GATEWAY, check=True, capture_output=True)  # noqa: S603
    return Path(result.stdout.decode().strip())


@pytest.mark.slow
async def test_grpcurl_calls_every_rpc_by_reflection(
    grpcurl: Path, server: Server, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    metadata = {
        "JobService": ("-H", f"x-tenant-id: {tenant}", "-H", "x-user-id: olivia"),
        "FleetService": ("-H", f"x-tenant-id: {tenant}"),
        "EventService": ("-H", f"x-tenant-id: {tenant}"),
        "DeviceJobService": ("-H", f"x-tenant-id: {tenant}", "-H", "x-device-id: d00001"),
    }

    async def call(service: str, rpc: str, request: Any) -> Any:
        output = await run(
            grpcurl, "-plaintext", *metadata[service], *("-max-time", "20"),
            "-d", json.dumps(request), server.address, f"{PACKAGE}.{service}/{rpc}",
        )  # fmt: skip
        # A stream prints several objects: return the first.
        return json.JSONDecoder().raw_decode(output)[0]

    job = {"job_id": "a"}
    execution = job | {"device_id": "d00001"}
    failed = job | {"status": "FAILED"}
    gate = {"require_approval": True, "allow_self_approval": True}
    staged = {"rollout": {"stages": [{"device_count": 1, "gate": gate}, {"remainder": True}]}}
    update = {
        "update_mask": {"paths": ["in_progress_timeout_minutes"]},
        "in_progress_timeout_minutes": 5,
    }
    new_device = {
        "devices": [{"device_id": "new", "labels": {"model": "x"}, "group_ids": ["g"]}],
        "update_mask": {"paths": ["labels", "group_ids"]},
        "allow_missing": True,
    }
    calls = [
        ("JobService", "CreateJob", job | {"document_type": "reboot", "target_all": True}),
        ("JobService", "GetJob", job),
        ("JobService", "ListJobs", {}),
        ("JobService", "GetCaller", {}),
        ("JobService", "ListJobExecutions", job),
        ("FleetService", "ListDevices", {"selector": "!model"}),
        ("FleetService", "UpdateDevices", new_device),
        ("FleetService", "GetDevice", {"device_id": "new"}),
        ("FleetService", "ListGroups", {}),
        ("FleetService", "DeleteDevices", {"device_ids": ["new"]}),
        ("DeviceJobService", "ListPendingExecutions", {}),
        ("DeviceJobService", "StartNextExecution", {}),
        ("DeviceJobService", "StartExecution", job),
        ("DeviceJobService", "GetExecution", job),
        ("DeviceJobService", "UpdateExecution", failed),
        ("JobService", "RetryExecutions", job | {"statuses": ["FAILED"]}),
        ("JobService", "ListExecutionAttempts", execution),
        ("JobService", "ExplainExecution", execution),
        ("JobService", "PauseJob", job),
        ("JobService", "ResumeJob", job),
        ("DeviceJobService", "ReportExecutions", {"report_id": "r", "report": failed}),
        ("JobService", "GetFailureSummary", job),
        ("JobService", "WatchJob", job),  # the job is finished, so the stream ends
        ("JobService", "RetryExecutions", job | {"statuses": ["FAILED"]}),
        ("JobService", "CancelExecution", execution),
        (
            "JobService",
            "CreateJob",
            {"job_id": "b", "document_type": "x", "target_all": True} | staged,
        ),
        ("JobService", "ApproveStage", {"job_id": "b", "stage": 0}),
        ("JobService", "AdvanceJob", {"job_id": "b", "stage": 1}),
        ("JobService", "UpdateJob", {"job_id": "b"} | update),
        ("JobService", "CancelJob", {"job_id": "b"}),
        ("JobService", "DeleteJob", {"job_id": "b"}),
    ]
    responses = {rpc: await call(service, rpc, request) for service, rpc, request in calls}

    for service in metadata:
        output = await run(grpcurl, "-plaintext", server.address, "list", f"{PACKAGE}.{service}")
        names = {line.rpartition(".")[2] for line in output.split()}
        called = {rpc for name, rpc, _ in calls if name == service}
        assert called <= names
        # For example WatchPendingExecutions, which never ends by itself; the next test covers it.
        for rpc in names - called:
            symbol = f"{PACKAGE}.{service}.{rpc}"
            assert f"rpc {rpc} " in await run(
                grpcurl, "-plaintext", server.address, "describe", symbol
            )
    assert responses["GetJob"]["job"]["status"] == "IN_PROGRESS"
    assert responses["ListJobs"]["jobs"][0]["job_id"] == "a"
    assert responses["GetCaller"]["user_id"] == "olivia"
    assert responses["ListJobExecutions"]["executions"][0]["device_id"] == "d00001"
    assert responses["ListDevices"]["devices"][0]["device_id"] == "d00001"
    assert responses["UpdateDevices"]["registered_count"] == 1
    assert responses["GetDevice"]["device"]["labels"] == {"model": "x"}
    assert responses["ListGroups"]["groups"] == [{"group_id": "g", "device_count": 1}]
    assert responses["DeleteDevices"]["deleted_count"] == 1
    assert responses["StartNextExecution"]["execution"]["status"] == "IN_PROGRESS"
    assert responses["UpdateExecution"]["execution"]["status"] == "FAILED"
    assert responses["RetryExecutions"]["retried_count"] == 1
    assert len(responses["ListExecutionAttempts"]["attempts"]) == 2
    assert responses["ExplainExecution"]["blockers"][0]["kind"] == "WAITING_FOR_DEVICE"
    assert responses["ReportExecutions"]["execution"]["execution_number"] == 2
    assert responses["WatchJob"]["job"]["status"] == "COMPLETED"
    assert responses["PauseJob"]["job"]["status"] == "PAUSED"
    assert responses["ResumeJob"]["job"]["status"] == "IN_PROGRESS"
    assert responses["GetFailureSummary"]["failures"][0]["execution_count"] == 1
    assert responses["CancelExecution"]["execution"]["status"] == "REJECTED"
    assert responses["ApproveStage"]["job"]["stages"][0]["approval"]["approved_by"] == "olivia"
    assert responses["AdvanceJob"]["job"]["stages"][0]["state"] == "PASSED"
    assert responses["UpdateJob"]["job"]["in_progress_timeout_minutes"] == 5
    assert responses["CancelJob"] == {"job_id": "b", "status": "CANCELED"}
    assert responses["DeleteJob"] == {}


async def test_grpcurl_receives_the_first_message_of_an_endless_watch(
    grpcurl: Path, server: Server, database: Database, tenant: str
) -> None:
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
