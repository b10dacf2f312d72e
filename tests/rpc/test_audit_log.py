"""The audit trail: who did what to which job, and what came of it."""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc import logs
from jobs_grpc.auth.policy import POLICY
from jobs_grpc.auth.principal import Role
from jobs_grpc.rpc.audit_log import AUDITED
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.identities import AUDIENCE, ISSUER, claims, jwks, new_key, token
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

SECRET = "hunter2"


@pytest.fixture
def trail(caplog: pytest.LogCaptureFixture) -> Any:
    """What is in the trail so far, as the JSON log would have it."""
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    as_json = logs._JsonFormatter()

    def read() -> list[dict[str, Any]]:
        records = [r for r in caplog.records if r.name == "jobs_grpc.audit"]
        return [json.loads(as_json.format(record)) for record in records]

    return read


def test_whatever_changes_jobs_is_audited() -> None:
    changing = {
        method
        for method, roles in POLICY.items()
        if method.startswith("/fleet.jobs.v1.JobService/") and Role.VIEWER not in (roles or ())
    }

    assert changing == AUDITED


async def test_each_action_is_a_line(database: Database, operator: Operator, trail: Any) -> None:
    await database.add_devices(operator.tenant, ["d", "e"])
    made = (await operator.create(target_all=True, document_params={"password": SECRET})).job_id
    await operator.cancel_execution(made, "d", reason=SECRET)
    await operator.retry(made, pb.JobExecution.REJECTED)
    await operator.cancel(made, reason=SECRET)
    await operator.delete(made)
    await operator.list()

    lines = trail()
    assert [(line["message"], line["code"]) for line in lines] == [
        ("audit CreateJob", "OK"),
        ("audit CancelExecution", "OK"),
        ("audit RetryExecutions", "OK"),
        ("audit CancelJob", "OK"),
        ("audit DeleteJob", "OK"),
    ]
    for line in lines:
        assert line["logger"] == "jobs_grpc.audit"
        assert (line["tenant"], line["subject"]) == (operator.tenant, "olivia")
        assert (line["roles"], line["job_id"]) == ("admin,bridge", made)
        assert line["ms"] > 0
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert "reason" not in line
    assert lines[1]["device_id"] == "d"
    assert SECRET not in json.dumps(lines)


async def test_a_refusal_is_a_line_too(server: Server, tenant: str, trail: Any) -> None:
    viewer = server.caller(("x-tenant-id", tenant), ("x-user-id", "vic"), ("x-roles", "viewer"))
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await viewer.delete("j")
    with expect_failure(StatusCode.UNAUTHENTICATED, "TENANT_REQUIRED"):
        await server.caller().cancel("j")
    with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
        await server.operator(tenant).cancel("j")

    refused, nobody, absent = trail()
    assert (refused["message"], refused["code"]) == ("audit DeleteJob", "PERMISSION_DENIED")
    assert (refused["reason"], refused["job_id"]) == ("ROLE_REQUIRED", "j")
    assert (refused["subject"], refused["roles"]) == ("vic", "viewer")
    assert (nobody["code"], nobody["reason"]) == ("UNAUTHENTICATED", "TENANT_REQUIRED")
    assert not {"tenant", "subject", "roles"} & set(nobody)
    assert (absent["code"], absent["reason"]) == ("NOT_FOUND", "JOB_NOT_FOUND")


async def test_a_token_is_not_in_it(
    database: Database, tenant: str, tmp_path: Path, trail: Any
) -> None:
    key = new_key()
    (tmp_path / "jwks.json").write_text(jwks(key))
    variables = {
        "JOBS_AUTH": "jwt",
        "JOBS_JWT_KEYS": str(tmp_path / "jwks.json"),
        "JOBS_JWT_ISSUER": ISSUER,
        "JOBS_JWT_AUDIENCE": AUDIENCE,
    }
    async with running_server(database.request_dsn, **variables) as server:
        good = token(key, claims(tenant, "admin"))
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            await server.bearer(good).delete("j")
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN"):
            await server.bearer(good[:-4]).delete("j")

    known, unknown = trail()
    assert (known["subject"], known["roles"]) == ("olivia", "admin")
    assert unknown["reason"] == "INVALID_TOKEN"
    assert not [part for part in good.split(".") if part[:40] in json.dumps(trail())]


async def test_the_request_id_is_in_it(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    with configured("ERROR", "json"):
        metadata = (*operator.metadata, ("x-request-id", "order-66"))
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            request = pb.DeleteJobRequest(job_id="j")
            await operator.stub.DeleteJob(request, metadata=metadata, timeout=TIMEOUT)

    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["request_id"] == "order-66"


async def test_what_a_request_names_can_not_forge_a_line(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    forged = "j tenant=other\n2026-01-01 INFO DeleteJob OK \x1b[2J" + "x" * 1000
    with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        await operator.delete(forged)

    [record] = [r for r in caplog.records if r.name == "jobs_grpc.audit"]
    line = logs._TextFormatter().format(record)
    assert line.isprintable()
    assert 'job_id="j tenant=other\\n2026' in line
    assert len(line) < 600


@contextmanager
def configured(level: str, log_format: str) -> Iterator[None]:
    """With the log as `serve` sets it up."""
    root = logging.getLogger()
    before, before_level = root.handlers[:], root.level
    root.handlers = []
    try:
        logs.configure_logging(level, log_format)
        yield
    finally:
        root.handlers = before
        root.setLevel(before_level)


def test_the_trail_is_there_whatever_the_level(capsys: pytest.CaptureFixture[str]) -> None:
    with configured("ERROR", "text"):
        logging.getLogger("jobs_grpc.calls").info("a call")
        logging.getLogger("jobs_grpc.audit").info("an action")

    assert "an action" in (err := capsys.readouterr().err)
    assert "a call" not in err


async def test_what_a_limit_refuses_is_a_line_too(
    database: Database, tenant: str, trail: Any
) -> None:
    await database.add_devices(tenant, ["d"])
    async with running_server(database.request_dsn, JOBS_MAX_CALLS="1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="j", target_all=True)
        async with job_lock_held(database, tenant, "j"):
            waiting = asyncio.create_task(operator.cancel("j"))
            await database.wait_for_blocked_sessions(1)
            with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
                await operator.delete("j")
        await waiting

    refused = [line for line in trail() if line["code"] == "RESOURCE_EXHAUSTED"]
    assert [line["message"] for line in refused] == ["audit DeleteJob"]
