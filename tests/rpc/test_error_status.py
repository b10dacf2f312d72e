"""Errors: each ErrorReason can occur, and internal details are not sent to callers."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.device_jobs_pb2 import ListPendingExecutionsRequest
from fleet.jobs.v1.error_reason_pb2 import ErrorReason
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from jobs_grpc.errors import BY_REASON, Internal
from jobs_grpc.rpc.error_status import to_jobs_error
from tests.auth.support import KEY, jwt_settings
from tests.support.callers import Device, Operator
from tests.support.database import Database, new_database
from tests.support.device_certificates import device_channel, device_settings
from tests.support.failures import expect_error, expect_failure
from tests.support.identities import Authority, channel_credentials, claims, mutual_tls, token
from tests.support.postgres import Postgres
from tests.support.server import (
    Server,
    running_server,
    running_tls_server,
    starting_server,
    wait_until_list_succeeds,
)
from tests.support.waiting import TIMEOUT, wait_until
from tests.support.webhooks import WebhookCaller
from tests.support.world import World as BaseWorld


@dataclass(frozen=True)
class World(BaseWorld):
    """Where a scenario runs. The tenant has the device "d" and the job "j"."""

    cluster: tuple[Postgres, str]

    def device(self, name: str = "d") -> Device:
        return super().device(name)

    def token(self) -> str:
        return token(KEY, claims(self.tenant, "viewer"))


@pytest.fixture
async def world(
    cluster: tuple[Postgres, str], database: Database, server: Server, operator: Operator
) -> World:
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    return World(database, server, operator, cluster)


@asynccontextmanager
async def server_without_get_job(cluster: tuple[Postgres, str]) -> AsyncIterator[Operator]:
    """An operator of a server whose database lacks the function get_job."""
    async with new_database(*cluster) as database:
        await database.owner.execute("DROP FUNCTION jobs.get_job")
        async with running_server(database.request_dsn) as server:
            yield server.operator("secret-tenant")


@asynccontextmanager
async def one_connection_server(world: World, **variables: str) -> AsyncIterator[Operator]:
    variables |= {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}
    async with running_server(world.database.request_dsn, **variables) as server:
        yield server.operator(world.tenant)


async def malformed_request(world: World) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = world.server.channel.unary_unary(
        "/fleet.jobs.v1.JobService/GetJob"
    )
    await call(b"\xff", metadata=world.operator.metadata, timeout=TIMEOUT)


async def list_with(world: World, metadata: tuple[tuple[str, str], ...]) -> None:
    await world.operator.stub.ListJobs(pb.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT)


async def expiry_too_early(world: World) -> None:
    await world.add_devices(60)
    rollout = pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=1)])
    await world.operator.create(target_all=True, rollout=rollout, expires_in_hours=1)


async def device_required(world: World) -> None:
    stub = world.device().stub
    request = ListPendingExecutionsRequest()
    await stub.ListPendingExecutions(request, metadata=world.operator.metadata, timeout=TIMEOUT)


async def list_while_cancel_waits(world: World, operator: Operator) -> None:
    waiting = await world.blocked(operator.cancel("j"))
    try:
        await operator.list()
    finally:
        waiting.cancel()


async def overloaded(world: World) -> None:
    async with (
        one_connection_server(world, JOBS_POOL_TIMEOUT="0.05") as operator,
        world.lock_held(),
    ):
        await list_while_cancel_waits(world, operator)


async def limit_exceeded(world: World) -> None:
    async with running_server(world.database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(world.tenant)
        async with world.lock_held():
            await list_while_cancel_waits(world, operator)


async def database_unavailable(world: World) -> None:
    async with starting_server("postgresql://nobody@127.0.0.1:1/none") as server:
        await server.operator(world.tenant).list()


async def query_timeout(world: World) -> None:
    async with (
        one_connection_server(world, JOBS_QUERY_TIMEOUT="0.2") as operator,
        world.lock_held(),
    ):
        await operator.cancel("j")


async def schema_not_current(world: World) -> None:
    async with (
        new_database(world.cluster[0]) as empty,
        starting_server(empty.request_dsn) as server,
    ):
        operator = server.operator(world.tenant)

        async def checked() -> bool:
            try:
                await operator.list()
            except grpc.aio.AioRpcError as e:
                return "schema" in (e.details() or "")
            return False

        await wait_until(checked)
        await operator.list()


async def server_stopping(world: World) -> None:
    async with running_server(world.database.request_dsn) as server:
        stub: Any = server.operator(world.tenant).stub
        watch = stub.WatchJob(pb.WatchJobRequest(job_id="j"), metadata=world.operator.metadata)
        await anext(aiter(watch))
        server.app.stopping.set()
        async for _ in watch:
            pass


@asynccontextmanager
async def jwt_server(world: World, **variables: str) -> AsyncIterator[Server]:
    """A server that verifies tokens by KEY."""
    with tempfile.TemporaryDirectory() as folder:
        settings = jwt_settings(Path(folder)) | variables
        async with starting_server(world.database.request_dsn, **settings) as server:
            yield server


async def list_with_token(
    world: World, text: str, *metadata: tuple[str, str], **variables: str
) -> None:
    async with jwt_server(world, **variables) as server:
        await server.bearer(text, *metadata).list()


async def token_required(world: World) -> None:
    async with jwt_server(world) as server:
        await server.operator(world.tenant).list()


async def peer_not_trusted(world: World) -> None:
    authority = Authority()
    known = channel_credentials(authority, authority.client("somebody"))
    with tempfile.TemporaryDirectory() as folder:
        settings = mutual_tls(authority, Path(folder))
        settings["JOBS_TRUSTED_PEERS"] = "spiffe://acme.example/gateway"
        async with running_tls_server(world.database.request_dsn, known, **settings) as server:
            await server.operator(world.tenant).list()


async def call_with_certificate(world: World, device: str, trust_domain: str) -> None:
    """Call the address for devices, of which "d" is registered."""
    authority = Authority()
    with tempfile.TemporaryDirectory() as folder:
        settings = device_settings(authority, Path(folder))
        async with running_server(world.database.request_dsn, **settings) as server:
            certificate = authority.device(world.tenant, device, trust_domain)
            async with device_channel(server, authority, certificate) as caller:
                await caller.pending()


async def internal(world: World) -> None:
    async with server_without_get_job(world.cluster) as operator:
        await operator.get("j")


async def create_staged_job(world: World, **gate: Any) -> None:
    """Create the job "staged": the device "d" is in its first stage, "e" is in its second."""
    await world.add_devices(["e"])
    await world.add_devices(["d"], group="first")
    stages = [pb.Stage(group_id="first", gate=pb.Gate(**gate)), pb.Stage(remainder=True)]
    rollout = pb.Rollout(stages=stages, max_in_progress=1)
    await world.operator.create(job_id="staged", target_all=True, rollout=rollout)


async def execution_not_due(world: World) -> None:
    in_two_days = (datetime.now(UTC).weekday() + 2) % 7 + 1
    window = pb.StartWindow(
        days=[pb.StartWindow.Day.values()[in_two_days]],
        start_time="12:00",
        duration=Duration(seconds=3600),
    )
    await world.operator.create(
        job_id="windowed", target_all=True, start_windows=[window], never_expires=True
    )
    await world.device().start("windowed")


async def devices_read_only(world: World) -> None:
    await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    try:
        await world.fleet.delete("d")
    finally:
        await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = true")


async def events_purged(world: World) -> None:
    events = world.server.events(world.tenant)
    await events.list()
    await world.database.owner.execute(
        "UPDATE jobs.event_heads SET purged_position = 2 WHERE tenant_id = $1", world.tenant
    )
    await events.list(after_position=1)


async def in_turn(*calls: Awaitable[object]) -> None:
    """Make calls one after the other. The last one must fail."""
    for call in calls:
        await call


async def staged(world: World, *calls: Awaitable[object], **gate: Any) -> None:
    await create_staged_job(world, **gate)
    await in_turn(*calls)


_EMPTY_STAGE = pb.Rollout(stages=[pb.Stage(group_id="missing"), pb.Stage(remainder=True)])
_OTHER_DIGEST = "2-0000000000000000-0000000000000000"

# What causes each reason.
SCENARIOS: dict[str, Callable[[World], Awaitable[object]]] = {
    "INVALID_FIELD": lambda w: w.operator.list(limit=0),
    "MALFORMED_REQUEST": malformed_request,
    "INVALID_PAGE_TOKEN": lambda w: w.operator.list(page_token="garbage"),
    "TENANT_REQUIRED": lambda w: list_with(w, ()),
    "DUPLICATE_METADATA": lambda w: list_with(w, w.operator.metadata * 2),
    "INVALID_METADATA": lambda w: w.server.operator("x" * 257).list(),
    "JOB_NOT_FOUND": lambda w: w.operator.get("missing"),
    "DEVICE_NOT_FOUND": lambda w: w.operator.create(target_device_id="missing"),
    "GROUP_EMPTY": lambda w: w.operator.create(target_group_id="missing"),
    "TENANT_EMPTY": lambda w: w.server.operator(f"{w.tenant}-2").create(target_all=True),
    "STAGE_EMPTY": lambda w: w.operator.create(target_all=True, rollout=_EMPTY_STAGE),
    "EXPIRY_TOO_EARLY": expiry_too_early,
    "JOB_NOT_CANCELABLE": lambda w: in_turn(w.operator.cancel("j"), w.operator.cancel("j")),
    "JOB_NOT_RETRYABLE": lambda w: in_turn(
        w.operator.cancel("j"), w.operator.retry("j", "REJECTED")
    ),
    "JOB_NOT_DELETABLE": lambda w: w.operator.delete("j"),
    "JOB_PAUSED": lambda w: in_turn(w.operator.pause("j"), w.device().start("j")),
    "JOB_NOT_PAUSABLE": lambda w: in_turn(w.operator.cancel("j"), w.operator.pause("j")),
    "JOB_NOT_RESUMABLE": lambda w: in_turn(w.operator.cancel("j"), w.operator.resume("j")),
    "JOB_CHANGED": lambda w: w.operator.pause("j", etag="0"),
    "JOB_ALREADY_EXISTS": lambda w: w.operator.create(
        job_id="j", document_type="update", target_all=True
    ),
    "DEVICE_REQUIRED": device_required,
    "EXECUTION_NOT_FOUND": lambda w: w.device("missing").get("j"),
    "EXECUTION_FINISHED": lambda w: in_turn(w.operator.cancel("j"), w.device().start("j")),
    "EXECUTION_IN_PROGRESS": lambda w: in_turn(
        w.device().start("j"), w.operator.cancel_execution("j", "d")
    ),
    "EXECUTION_CHANGED": lambda w: w.device().update("j", "SUCCEEDED", expected_version=7),
    "OVERLOADED": overloaded,
    "LIMIT_EXCEEDED": limit_exceeded,
    "DATABASE_UNAVAILABLE": database_unavailable,
    "QUERY_TIMEOUT": query_timeout,
    "SCHEMA_NOT_CURRENT": schema_not_current,
    "SERVER_STOPPING": server_stopping,
    "TOKEN_REQUIRED": token_required,
    "INVALID_TOKEN": lambda w: list_with_token(w, "garbage"),
    "METADATA_MISMATCH": lambda w: list_with_token(w, w.token(), ("x-tenant-id", "other")),
    # Nothing listens on port 1, so the server cannot load its keys.
    "KEYS_UNAVAILABLE": lambda w: list_with_token(
        w, w.token(), JOBS_JWT_KEYS="http://127.0.0.1:1/"
    ),
    "ROLE_REQUIRED": lambda w: w.server.caller(
        ("x-tenant-id", w.tenant), ("x-roles", "viewer")
    ).delete("j"),
    "PEER_NOT_TRUSTED": peer_not_trusted,
    "INVALID_CERTIFICATE": lambda w: call_with_certificate(w, "d", "other.example"),
    "DEVICE_NOT_REGISTERED": lambda w: call_with_certificate(w, "unknown", "acme.example"),
    "INTERNAL": internal,
    "EXECUTION_HELD": lambda w: staged(w, w.device("e").start("staged")),
    "EXECUTION_NOT_DUE": execution_not_due,
    "CANCEL_NOT_REQUESTED": lambda w: w.device().accept_cancel("j"),
    "JOB_FULL": lambda w: staged(
        w, w.operator.advance("staged"), w.device().start("staged"), w.device("e").start("staged")
    ),
    "GATE_NOT_MET": lambda w: staged(
        w,
        w.device().update("staged", "FAILED"),
        w.operator.resume("staged"),
        min_succeeded_percent=100,
    ),
    "APPROVAL_REQUIRED": lambda w: staged(w, w.operator.advance("staged"), require_approval=True),
    "SELF_APPROVAL": lambda w: staged(w, w.operator.approve("staged", 0), require_approval=True),
    "SUBJECT_REQUIRED": lambda w: staged(
        w, w.server.operator(w.tenant).approve("staged", 0), require_approval=True
    ),
    "STAGE_NOT_APPROVABLE": lambda w: w.operator.approve("j", 0),
    "START_NOT_APPROVED": lambda w: in_turn(
        w.operator.create(job_id="k", target_all=True, require_start_approval=True),
        w.operator.resume("k"),
    ),
    "START_NOT_APPROVABLE": lambda w: w.operator.approve_start("j"),
    "JOB_NOT_ADVANCEABLE": lambda w: w.operator.advance("j"),
    "JOB_NOT_UPDATABLE": lambda w: in_turn(
        w.operator.cancel("j"), w.operator.update("j", "in_progress_timeout_minutes")
    ),
    "TIME_GATES_UNAVAILABLE": lambda w: staged(w, bake_time=Duration(seconds=1)),
    "DEVICES_READ_ONLY": devices_read_only,
    "TARGET_EMPTY": lambda w: w.operator.create(target_selector="device_id=unknown"),
    "TARGET_CHANGED": lambda w: w.operator.create(
        target_all=True, expected_target_digest=_OTHER_DIGEST
    ),
    "WEBHOOK_NOT_FOUND": lambda w: WebhookCaller.on(w.server, w.tenant).get("wh_0"),
    "WEBHOOKS_UNAVAILABLE": lambda w: WebhookCaller.on(w.server, w.tenant).create(),
    "EVENTS_PURGED": events_purged,
    "POSITION_UNKNOWN": lambda w: w.server.events(w.tenant).list(after_position=2**53 - 1),
}


def test_every_reason_has_a_scenario() -> None:
    assert sorted(SCENARIOS) == sorted(ErrorReason.keys()[1:])


@pytest.mark.slow
@pytest.mark.parametrize("reason", SCENARIOS)
async def test_reason_is_sent_with_its_status(world: World, reason: str) -> None:
    code = BY_REASON[reason].code
    with expect_failure(code, reason) as failure:
        await SCENARIOS[reason](world)

    assert failure.message
    assert failure.request_id
    assert bool(failure.violations) == (reason == "INVALID_FIELD")
    transient = code in (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
    assert (failure.retry_after is not None) == transient


@pytest.mark.slow
async def test_internal_errors_are_logged_and_hidden_and_do_not_affect_later_calls(
    cluster: tuple[Postgres, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with server_without_get_job(cluster) as operator:
        for _ in range(20):
            failure = await expect_error("INTERNAL", operator.get("secret-job"))
            assert (failure.message, failure.metadata) == ("Internal error", {})

        assert not (await operator.list()).jobs
    assert "function jobs.get_job" in caplog.text
    assert "UndefinedFunctionError" in caplog.text


async def test_overloaded_server_recovers_when_a_connection_is_released(world: World) -> None:
    async with one_connection_server(world, JOBS_POOL_TIMEOUT="0.05") as operator:
        async with world.lock_held():
            waiting = await world.blocked(operator.cancel("j"))
            failure = await expect_error("OVERLOADED", operator.list())
        await waiting

        assert failure.message == (
            "The server is overloaded: no database connection became free within JOBS_POOL_TIMEOUT;"
            " retry later"
        )
        assert (await operator.get("j")).status == pb.Job.CANCELED


@pytest.mark.slow
async def test_query_timeout_names_the_setting_and_releases_the_connection(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        one_connection_server(world, JOBS_QUERY_TIMEOUT="0.5") as operator,
        world.lock_held(),
    ):
        failure = await expect_error("QUERY_TIMEOUT", operator.cancel("j"))

        assert "than JOBS_QUERY_TIMEOUT (0.5 s) allows" in failure.message
        assert failure.metadata == {"setting": "JOBS_QUERY_TIMEOUT", "value": "0.5"}
        assert (
            "a statement exceeded JOBS_QUERY_TIMEOUT (0.5 s): SELECT * FROM jobs.cancel_job("
            in caplog.text
        )
        await wait_until_list_succeeds(operator)
        assert (await world.operator.get("j")).status == pb.Job.IN_PROGRESS
        await world.database.wait_for_blocked_sessions(0)


class _ServerStoppedError(grpc.aio.BaseError):
    """As gRPC's private error, when a handler reads after the end of the grace period."""


@pytest.mark.parametrize(
    ("error", "is_logged"),
    [
        (_ServerStoppedError(), False),
        (ExceptionGroup("", [_ServerStoppedError()]), False),
        (ExceptionGroup("", [_ServerStoppedError(), ValueError()]), True),
        (grpc.aio.UsageError(), True),
    ],
)
def test_call_that_grpc_has_ended_is_no_error(
    error: Exception, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = to_jobs_error("/x", None, error, stopping=True)

    assert (isinstance(found, Internal), bool(caplog.records)) == (is_logged, is_logged)
