"""Errors: each ErrorReason can occur, and internal details are not sent to callers."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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

from jobs_grpc.errors import BY_REASON
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.identities import (
    AUDIENCE,
    ISSUER,
    Authority,
    channel_credentials,
    claims,
    jwks,
    new_key,
    token,
)
from tests.support.postgres import Postgres, connect
from tests.support.server import (
    Server,
    running_server,
    running_tls_server,
    starting_server,
    wait_until_list_succeeds,
)
from tests.support.waiting import TIMEOUT, wait_until
from tests.support.webhooks import WebhookCaller

KEY = new_key()


@dataclass(frozen=True)
class World:
    """Where a scenario runs. The operator's tenant has the device "d" and the job "j"."""

    cluster: tuple[Postgres, str]
    database: Database
    server: Server
    operator: Operator


@pytest.fixture
async def world(
    cluster: tuple[Postgres, str], database: Database, server: Server, operator: Operator
) -> World:
    await database.add_devices(operator.tenant, ["d"])
    await operator.create(job_id="j", target_all=True)
    return World(cluster, database, server, operator)


@asynccontextmanager
async def server_without_get_job(cluster: tuple[Postgres, str]) -> AsyncIterator[Operator]:
    """An operator of a server whose database lacks the function get_job."""
    postgres, template = cluster
    async with postgres.database(template) as name:
        owner = await connect(postgres.dsn(name))
        await owner.execute("DROP FUNCTION jobs.get_job")
        await owner.close()
        async with running_server(postgres.dsn(name, postgres.role)) as server:
            yield server.operator("secret-tenant")


@asynccontextmanager
async def one_connection_server(world: World, **variables: str) -> AsyncIterator[Operator]:
    """An operator of a server with a single database connection."""
    variables |= {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}
    async with running_server(world.database.request_dsn, **variables) as server:
        yield server.operator(world.operator.tenant)


def job_locked(world: World) -> AbstractAsyncContextManager[None]:
    """Hold the lock of job "j", so that canceling it waits."""
    return job_lock_held(world.database, world.operator.tenant, "j")


# The name of a scenario is the reason that it causes, in lower case.
async def invalid_field(world: World) -> None:
    await world.operator.list(limit=0)


async def malformed_request(world: World) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = world.server.channel.unary_unary(
        "/fleet.jobs.v1.JobService/GetJob"
    )
    await call(b"\xff", metadata=world.operator.metadata, timeout=TIMEOUT)


async def invalid_page_token(world: World) -> None:
    await world.operator.list(page_token="garbage")


async def tenant_required(world: World) -> None:
    await world.operator.stub.ListJobs(pb.ListJobsRequest(), timeout=TIMEOUT)


async def duplicate_metadata(world: World) -> None:
    metadata = world.operator.metadata * 2
    await world.operator.stub.ListJobs(pb.ListJobsRequest(), metadata=metadata, timeout=TIMEOUT)


async def invalid_metadata(world: World) -> None:
    await world.server.operator("x" * 257).list()


async def job_not_found(world: World) -> None:
    await world.operator.get("missing")


async def device_not_found(world: World) -> None:
    await world.operator.create(target_device_id="missing")


async def group_empty(world: World) -> None:
    await world.operator.create(target_group_id="missing")


async def tenant_empty(world: World) -> None:
    await world.server.operator(world.operator.tenant + "-other").create(target_all=True)


async def stage_empty(world: World) -> None:
    rollout = pb.Rollout(stages=[pb.Stage(group_id="missing"), pb.Stage(remainder=True)])
    await world.operator.create(target_all=True, rollout=rollout)


async def expiry_too_early(world: World) -> None:
    await world.database.add_devices(world.operator.tenant, 60)
    rollout = pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=1)])
    await world.operator.create(target_all=True, rollout=rollout, expires_in_hours=1)


async def job_not_cancelable(world: World) -> None:
    await world.operator.cancel("j")
    await world.operator.cancel("j")


async def job_not_retryable(world: World) -> None:
    await world.operator.cancel("j")
    await world.operator.retry("j", "REJECTED")


async def job_not_deletable(world: World) -> None:
    await world.operator.delete("j")


async def job_paused(world: World) -> None:
    await world.operator.pause("j")
    await world.server.device(world.operator.tenant, "d").start("j")


async def job_not_pausable(world: World) -> None:
    await world.operator.cancel("j")
    await world.operator.pause("j")


async def job_not_resumable(world: World) -> None:
    await world.operator.cancel("j")
    await world.operator.resume("j")


async def job_changed(world: World) -> None:
    await world.operator.pause("j", etag="0")


async def job_already_exists(world: World) -> None:
    await world.operator.create(job_id="j", document_type="update", target_all=True)


async def device_required(world: World) -> None:
    stub = world.server.device(world.operator.tenant, "d").stub
    request = ListPendingExecutionsRequest()
    await stub.ListPendingExecutions(request, metadata=world.operator.metadata, timeout=TIMEOUT)


async def execution_not_found(world: World) -> None:
    await world.server.device(world.operator.tenant, "missing").get("j")


async def execution_finished(world: World) -> None:
    await world.operator.cancel("j")
    await world.server.device(world.operator.tenant, "d").start("j")


async def execution_in_progress(world: World) -> None:
    await world.server.device(world.operator.tenant, "d").start("j")
    await world.operator.cancel_execution("j", "d")


async def execution_changed(world: World) -> None:
    device = world.server.device(world.operator.tenant, "d")
    await device.update("j", "SUCCEEDED", expected_version=7)


async def overloaded(world: World) -> None:
    async with (
        one_connection_server(world, JOBS_POOL_TIMEOUT="0.05") as operator,
        job_locked(world),
    ):
        waiting = asyncio.create_task(operator.cancel("j"))
        await world.database.wait_for_blocked_sessions(1)
        try:
            await operator.list()
        finally:
            waiting.cancel()


async def limit_exceeded(world: World) -> None:
    async with running_server(world.database.request_dsn, JOBS_MAX_TENANT_CALLS="1") as server:
        operator = server.operator(world.operator.tenant)
        async with job_locked(world):
            waiting = asyncio.create_task(operator.cancel("j"))
            await world.database.wait_for_blocked_sessions(1)
            try:
                await operator.list()
            finally:
                waiting.cancel()


async def database_unavailable(world: World) -> None:
    async with starting_server("postgresql://nobody@127.0.0.1:1/none") as server:
        await server.operator(world.operator.tenant).list()


async def query_timeout(world: World) -> None:
    async with (
        one_connection_server(world, JOBS_QUERY_TIMEOUT="0.2") as operator,
        job_locked(world),
    ):
        await operator.cancel("j")


async def schema_not_current(world: World) -> None:
    postgres, _ = world.cluster
    async with (
        postgres.database() as name,
        starting_server(postgres.dsn(name, postgres.role)) as server,
    ):
        operator = server.operator(world.operator.tenant)

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
        stub: Any = server.operator(world.operator.tenant).stub
        watch = stub.WatchJob(pb.WatchJobRequest(job_id="j"), metadata=world.operator.metadata)
        await anext(aiter(watch))
        server.app.stopping.set()
        async for _ in watch:
            pass


@asynccontextmanager
async def jwt_server(world: World, keys: str | None = None) -> AsyncIterator[Server]:
    """A server that verifies tokens by KEY, or by the keys at the URL `keys`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jwks.json"
        path.write_text(jwks(KEY))
        variables = {
            "JOBS_AUTH": "jwt",
            "JOBS_JWT_KEYS": keys or str(path),
            "JOBS_JWT_ISSUER": ISSUER,
            "JOBS_JWT_AUDIENCE": AUDIENCE,
        }
        async with starting_server(world.database.request_dsn, **variables) as server:
            yield server


async def token_required(world: World) -> None:
    async with jwt_server(world) as server:
        await server.operator(world.operator.tenant).list()


async def invalid_token(world: World) -> None:
    async with jwt_server(world) as server:
        await server.bearer("garbage").list()


async def metadata_mismatch(world: World) -> None:
    async with jwt_server(world) as server:
        text = token(KEY, claims(world.operator.tenant, "viewer"))
        await server.bearer(text, ("x-tenant-id", "other")).list()


async def keys_unavailable(world: World) -> None:
    """Nothing listens on port 1, so the server cannot load its keys."""
    async with jwt_server(world, "http://127.0.0.1:1/") as server:
        await server.bearer(token(KEY, claims(world.operator.tenant, "viewer"))).list()


async def role_required(world: World) -> None:
    stated = (("x-tenant-id", world.operator.tenant), ("x-roles", "viewer"))
    await world.server.caller(*stated).delete("j")


async def peer_not_trusted(world: World) -> None:
    authority = Authority()
    known = channel_credentials(authority, authority.client("somebody"))
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = authority.server().write(Path(folder), "server")
        (Path(folder) / "ca").write_bytes(authority.certificate)
        variables = {
            "JOBS_TLS_CERT": certificate,
            "JOBS_TLS_KEY": key,
            "JOBS_TLS_CLIENT_CA": f"{folder}/ca",
            "JOBS_TRUSTED_PEERS": "spiffe://acme.example/gateway",
        }
        async with running_tls_server(world.database.request_dsn, known, **variables) as server:
            await server.operator(world.operator.tenant).list()


async def internal(world: World) -> None:
    async with server_without_get_job(world.cluster) as operator:
        await operator.get("j")


async def create_staged_job(world: World, **gate: Any) -> None:
    """Create the job "staged": the device "d" is in its first stage, "e" is in its second."""
    await world.database.add_devices(world.operator.tenant, ["e"])
    await world.database.add_devices(world.operator.tenant, ["d"], group="first")
    stages = [pb.Stage(group_id="first", gate=pb.Gate(**gate)), pb.Stage(remainder=True)]
    rollout = pb.Rollout(stages=stages, max_in_progress=1)
    await world.operator.create(job_id="staged", target_all=True, rollout=rollout)


async def execution_held(world: World) -> None:
    await create_staged_job(world)
    await world.server.device(world.operator.tenant, "e").start("staged")


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
    await world.server.device(world.operator.tenant, "d").start("windowed")


async def job_full(world: World) -> None:
    await create_staged_job(world)
    await world.operator.advance("staged")
    await world.server.device(world.operator.tenant, "d").start("staged")
    await world.server.device(world.operator.tenant, "e").start("staged")


async def gate_not_met(world: World) -> None:
    await create_staged_job(world, min_succeeded_percent=100)
    await world.server.device(world.operator.tenant, "d").update("staged", "FAILED")
    await world.operator.resume("staged")


async def approval_required(world: World) -> None:
    await create_staged_job(world, require_approval=True)
    await world.operator.advance("staged")


async def self_approval(world: World) -> None:
    await create_staged_job(world, require_approval=True)
    await world.operator.approve("staged", 0)


async def subject_required(world: World) -> None:
    await create_staged_job(world, require_approval=True)
    await world.server.operator(world.operator.tenant).approve("staged", 0)


async def stage_not_approvable(world: World) -> None:
    await world.operator.approve("j", 0)


async def job_not_advanceable(world: World) -> None:
    await world.operator.advance("j")


async def job_not_updatable(world: World) -> None:
    await world.operator.cancel("j")
    await world.operator.update("j", "in_progress_timeout_minutes", in_progress_timeout_minutes=5)


async def time_gates_unavailable(world: World) -> None:
    await create_staged_job(world, bake_time=Duration(seconds=1))


async def devices_read_only(world: World) -> None:
    await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = false")
    try:
        await world.server.fleet(world.operator.tenant).delete("d")
    finally:
        await world.database.owner.execute("UPDATE jobs.device_tables SET is_own = true")


async def target_empty(world: World) -> None:
    await world.operator.create(target_selector="device_id=unknown")


async def target_changed(world: World) -> None:
    digest = "2-0000000000000000-0000000000000000"
    await world.operator.create(target_all=True, expected_target_digest=digest)


# A reason without a scenario is a KeyError.
async def webhook_not_found(world: World) -> None:
    await WebhookCaller.on(world.server, world.operator.tenant).get("wh_0")


async def webhooks_unavailable(world: World) -> None:
    await WebhookCaller.on(world.server, world.operator.tenant).create()


async def events_purged(world: World) -> None:
    events = world.server.events(world.operator.tenant)
    await events.list()
    await world.database.owner.execute(
        "UPDATE jobs.event_heads SET purged_position = 2 WHERE tenant_id = $1",
        world.operator.tenant,
    )
    await events.list(after_position=1)


async def position_unknown(world: World) -> None:
    await world.server.events(world.operator.tenant).list(after_position=2**53 - 1)


SCENARIOS: dict[str, Callable[[World], Awaitable[None]]] = {
    value.name: globals()[value.name.lower()] for value in ErrorReason.DESCRIPTOR.values[1:]
}


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
async def test_internal_error_is_logged_and_hidden_from_the_caller(
    cluster: tuple[Postgres, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with server_without_get_job(cluster) as operator:
        with expect_failure(StatusCode.INTERNAL, "INTERNAL") as failure:
            await operator.get("secret-job")

    assert failure.message == "Internal error"
    assert failure.metadata == {}
    assert "function jobs.get_job" in caplog.text
    assert "UndefinedFunctionError" in caplog.text


@pytest.mark.slow
async def test_internal_errors_do_not_affect_later_calls(
    cluster: tuple[Postgres, str],
) -> None:
    async with server_without_get_job(cluster) as operator:
        for _ in range(20):
            with expect_failure(StatusCode.INTERNAL, "INTERNAL"):
                await operator.get("j")

        assert not (await operator.list()).jobs


async def test_overloaded_server_recovers_when_a_connection_is_released(
    world: World,
) -> None:
    async with one_connection_server(world, JOBS_POOL_TIMEOUT="0.05") as operator:
        async with job_locked(world):
            waiting = asyncio.create_task(operator.cancel("j"))
            await world.database.wait_for_blocked_sessions(1)
            with expect_failure(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED") as failure:
                await operator.list()
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
        job_locked(world),
    ):
        with expect_failure(StatusCode.UNAVAILABLE, "QUERY_TIMEOUT") as failure:
            await operator.cancel("j")

        assert "than JOBS_QUERY_TIMEOUT (0.5 s) allows" in failure.message
        assert failure.metadata == {"setting": "JOBS_QUERY_TIMEOUT", "value": "0.5"}
        assert (
            "a statement exceeded JOBS_QUERY_TIMEOUT (0.5 s): SELECT * FROM jobs.cancel_job("
            in caplog.text
        )
        await wait_until_list_succeeds(operator)
        assert (await world.operator.get("j")).status == pb.Job.IN_PROGRESS
        await world.database.wait_for_blocked_sessions(0)
