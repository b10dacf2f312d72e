"""The audit log: who changed which job, and the outcome."""

import asyncio
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import DeleteDevicesRequest, Device
from grpc import StatusCode

from jobs_grpc.auth.policy import POLICY
from jobs_grpc.auth.roles import Role
from jobs_grpc.contract.methods import METHODS
from jobs_grpc.observability import logs
from tests.auth.support import KEY, jwt_settings
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_error, expect_failure
from tests.support.identities import claims, token
from tests.support.logging_setup import configured_logging
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT
from tests.support.world import World

OPERATORS_SERVICES = (
    *("/fleet.jobs.v1.JobService/", "/fleet.jobs.v1.FleetService/"),
    "/fleet.jobs.v1.EventService/",
)
# A viewer may not make them.
READS_OF_ADMINS = {
    *("/fleet.jobs.v1.EventService/ListWebhooks", "/fleet.jobs.v1.EventService/GetWebhook")
}
SECRET = "hunter2"

# The events of each audited method. Other methods change no job.
EVENTS = {
    "CreateJob": "job.created",
    "UpdateJob": "job.updated",
    "PauseJob": "job.paused",
    "ResumeJob": "job.resumed",
    "ApproveStage": "job.stage_approved",
    "RejectStage": "job.stage_rejected",
    "ApproveStart": "job.start_approved",
    "RejectStart": "job.canceled",
    "AdvanceJob": "job.stage_opened",
    "CancelExecution": "executions.finished",
    "DeleteDevices": "executions.finished",
    "RetryExecutions": "job.retried",
    "CancelJob": "job.canceled",
    "DeleteJob": "job.deleted",
}
WITHOUT_EVENTS = {
    *("UpdateDevices", "CreateWebhook", "UpdateWebhook", "DeleteWebhook"),
    *("RotateWebhookSecret", "TestWebhook"),
}


def test_audited_methods_are_those_that_change_jobs() -> None:
    changing_methods = {
        method
        for method, roles in POLICY.items()
        if method.startswith(OPERATORS_SERVICES) and Role.VIEWER not in (roles or ())
    }

    assert changing_methods - READS_OF_ADMINS == {
        name for name, method in METHODS.items() if method.audited
    }


async def test_each_change_is_one_line(world: World, audit_log: Any) -> None:
    await world.add_devices(["d", "e"])
    created = await world.operator.create(target_all=True, document_params={"password": SECRET})
    job_id = created.job_id
    await world.operator.cancel_execution(job_id, "d", reason=SECRET)
    await world.operator.retry(job_id, pb.JobExecution.REJECTED)
    await world.operator.cancel(job_id, reason=SECRET)
    await world.operator.delete(job_id)
    await world.operator.list()

    lines = audit_log()
    assert [(line["message"], line["code"]) for line in lines] == [
        ("audit CreateJob", "OK"),
        ("audit CancelExecution", "OK"),
        ("audit RetryExecutions", "OK"),
        ("audit CancelJob", "OK"),
        ("audit DeleteJob", "OK"),
    ]
    common = {"logger": "jobs_grpc.audit", "tenant": world.tenant, "subject": "olivia"}
    common |= {"roles": "admin,bridge", "job_id": job_id}
    for line in lines:
        assert line.items() >= common.items()
        assert line["ms"] > 0
        assert line["peer"].startswith("ipv4:127.0.0.1:")
        assert "reason" not in line
    assert lines[1]["device_id"] == "d"
    assert SECRET not in json.dumps(lines)


async def test_line_of_a_create_names_the_replaced_job(world: World, audit_log: Any) -> None:
    await world.add_devices(["d"])
    await world.create("j")
    await world.create("n", replaces_job_id="j")

    before, line = audit_log()
    assert (line["job_id"], line["replaces_job_id"]) == ("n", "j")
    assert "replaces_job_id" not in before


async def test_successful_calls_agree_with_the_events(world: World, audit_log: Any) -> None:
    """Each of them has an event of its job with the same user, in the order of the lines."""
    await world.add_devices(["d", "e", "f", "g"])
    users = (f"user-{n}" for n in itertools.count())

    def operator() -> Operator:
        return world.server.operator(world.tenant, next(users))

    stages = [pb.Stage(device_count=n) for n in (1, 1)]
    stages[0].gate.require_approval = True
    rollout = pb.Rollout(stages=[*stages, pb.Stage(remainder=True)])
    fields = {"target_all": True, "rollout": rollout, "require_start_approval": True}
    await operator().create(job_id="j", execution_events=True, **fields)
    await operator().update("j", "description", description="x")
    await operator().pause("j")
    await expect_error("JOB_NOT_FOUND", operator().pause("k"))
    await operator().approve_start("j")
    await operator().reject("j", 0)
    await operator().resume("j")
    await operator().approve("j", 0)
    await operator().advance("j")
    await operator().cancel_execution("j", "d")
    await operator().retry("j", pb.JobExecution.REJECTED)
    await world.fleet.stub.DeleteDevices(
        DeleteDevicesRequest(device_ids=["e"]), metadata=operator().metadata
    )
    await operator().cancel("j")
    await expect_error("JOB_NOT_CANCELABLE", operator().cancel("j"))
    await operator().delete("j")
    await operator().create(job_id="k", **fields)
    await operator().reject_start("k")

    lines = [line for line in audit_log() if line["code"] == "OK"]
    found = [(e.type, e.user_id) for e in await world.events.list_all() if e.HasField("user_id")]
    assert found == [
        (EVENTS[line["message"].removeprefix("audit ")], line["subject"]) for line in lines
    ]
    assert {line["job_id"] for line in lines if "device_ids" not in line} == {"j", "k"}
    assert {line["message"].removeprefix("audit ") for line in lines} == EVENTS.keys()
    assert EVENTS.keys() | WITHOUT_EVENTS == {
        name.rpartition("/")[2] for name, method in METHODS.items() if method.audited
    }


async def test_line_says_validate_only_when_the_call_creates_no_job(
    database: Database, operator: Operator, audit_log: Any
) -> None:
    await database.add_devices(operator.tenant, ["d"])

    await operator.create(target_all=True, validate_only=True)
    await operator.create(target_all=True)

    assert [line.get("validate_only") for line in audit_log()] == [True, None]


async def test_rejected_calls_are_logged(server: Server, tenant: str, audit_log: Any) -> None:
    viewer = server.caller(("x-tenant-id", tenant), ("x-user-id", "vic"), ("x-roles", "viewer"))
    await expect_error("ROLE_REQUIRED", viewer.delete("j"))
    await expect_error("TENANT_REQUIRED", server.caller().cancel("j"))
    await expect_error("JOB_NOT_FOUND", server.operator(tenant).cancel("j"))

    names = ("message", "code", "reason", "job_id", "tenant", "subject", "roles")
    assert [tuple(line.get(name) for name in names) for line in audit_log()] == [
        ("audit DeleteJob", "PERMISSION_DENIED", "ROLE_REQUIRED", "j", tenant, "vic", "viewer"),
        ("audit CancelJob", "UNAUTHENTICATED", "TENANT_REQUIRED", None, None, None, None),
        ("audit CancelJob", "NOT_FOUND", "JOB_NOT_FOUND", "j", tenant, None, "admin,bridge"),
    ]


async def test_calls_of_unknown_callers_are_counted_after_the_first_line(
    database: Database, audit_log: Any
) -> None:
    async with running_server(database.request_dsn) as server:
        anonymous = server.caller()

        async def create() -> None:
            await expect_error("TENANT_REQUIRED", anonymous.create(target_all=True))

        for _ in range(4):
            await asyncio.gather(*(create() for _ in range(50)))

    # The server logs the last number when it stops.
    first, *others = audit_log()
    assert first["peer"].startswith("ipv4:127.0.0.1:")
    assert "others" not in first
    assert 1 + sum(line["others"] for line in others) == 200
    assert len(others) < 20
    for line in (first, *others):
        assert (line["message"], line["code"]) == ("audit CreateJob", "UNAUTHENTICATED")
        assert line["reason"] == "TENANT_REQUIRED"


async def test_tokens_are_not_logged(
    database: Database, tenant: str, tmp_path: Path, audit_log: Any
) -> None:
    async with running_server(database.request_dsn, **jwt_settings(tmp_path)) as server:
        valid_token = token(KEY, claims(tenant, "admin"))
        await expect_error("JOB_NOT_FOUND", server.bearer(valid_token).delete("j"))
        await expect_error("INVALID_TOKEN", server.bearer(valid_token[:-4]).delete("j"))

    authenticated, unauthenticated = audit_log()
    assert (authenticated["subject"], authenticated["roles"]) == ("olivia", "admin")
    assert unauthenticated["reason"] == "INVALID_TOKEN"
    assert not [part for part in valid_token.split(".") if part[:40] in json.dumps(audit_log())]


async def test_request_id_is_logged(operator: Operator) -> None:
    with configured_logging("json", "ERROR") as written:
        metadata = (*operator.metadata, ("x-request-id", "order-66"))
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND"):
            request = pb.DeleteJobRequest(job_id="j")
            await operator.stub.DeleteJob(request, metadata=metadata, timeout=TIMEOUT)

    [line] = written.getvalue().splitlines()
    assert json.loads(line)["request_id"] == "order-66"


async def test_ids_of_a_request_cannot_forge_log_lines(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    malicious_id = "j tenant=other\n2026-01-01 INFO DeleteJob OK \x1b[2J" + "x" * 1000
    await expect_error("INVALID_FIELD", operator.delete(malicious_id))

    [record] = [r for r in caplog.records if r.name == "jobs_grpc.audit"]
    line = logs.TextFormatter().format(record)
    assert line.isprintable()
    assert 'job_id="j tenant=other\\n2026' in line
    assert len(line) < 600


def test_audit_log_ignores_the_log_level() -> None:
    with configured_logging("text", "ERROR") as written:
        logging.getLogger("jobs_grpc.calls").info("a call")
        logging.getLogger("jobs_grpc.audit").info("an action")

    assert "an action" in written.getvalue()
    assert "a call" not in written.getvalue()


async def test_calls_rejected_by_a_limit_are_logged(
    database: Database, tenant: str, audit_log: Any
) -> None:
    await database.add_devices(tenant, ["d"])
    async with running_server(database.request_dsn, JOBS_MAX_CALLS="1") as server:
        operator = server.operator(tenant)
        await operator.create(job_id="j", target_all=True)
        async with job_lock_held(database, tenant, "j"):
            waiting = await database.blocked(operator.cancel("j"))
            await expect_error("LIMIT_EXCEEDED", operator.delete("j"))
        await waiting

    rejected = [line for line in audit_log() if line["code"] == "RESOURCE_EXHAUSTED"]
    assert [line["message"] for line in rejected] == ["audit DeleteJob"]


async def test_devices_are_named(server: Server, tenant: str, audit_log: Any) -> None:
    fleet = server.fleet(tenant)
    labeled = Device(device_id="pump", labels={"secret": SECRET})
    await fleet.update(labeled, Device(device_id="valve"), mask=["labels"], allow_missing=True)
    await fleet.delete("pump")

    update, deletion = audit_log()
    assert (update["message"], update["device_count"]) == ("audit UpdateDevices", 2)
    assert update["device_ids"] == ["pump", "valve"]
    assert (deletion["message"], deletion["device_ids"]) == ("audit DeleteDevices", ["pump"])
    assert SECRET not in json.dumps([update, deletion])
