"""What tests say things with: a database, an operator, an expected error."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import asyncpg
import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc, jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from jobs_grpc.config import Config
from jobs_grpc.db.store import Store
from jobs_grpc.server import app

TIMEOUT = 30.0


@dataclass(frozen=True)
class Database:
    """A migrated database: the DSNs of both roles, and a connection as its owner."""

    owner_dsn: str
    request_dsn: str
    owner: asyncpg.Connection

    async def add_devices(self, tenant: str, devices: int | Iterable[str], group: str = "") -> None:
        """Devices by name, or that many: d00001, d00002 … Also members of `group`, if given."""
        if isinstance(devices, int):
            devices = [f"d{n:05}" for n in range(1, devices + 1)]
        names = list(devices)
        await self.owner.execute(
            "INSERT INTO public.device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])"
            " ON CONFLICT DO NOTHING",
            tenant,
            names,
        )
        if group:
            await self.owner.execute(
                "INSERT INTO public.device_group_members (tenant_id, group_id, device_id)"
                " SELECT $1, $2, unnest($3::text[])",
                tenant,
                group,
                names,
            )

    async def move(self, tenant: str, job_id: str, device: str, status: str) -> None:
        """Put an execution into another stored state, as a device's report would."""
        async with self.owner.transaction():
            # First, as every transition does: else it could deadlock with one.
            await self.owner.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 AND job_id = $2 FOR UPDATE",
                tenant,
                job_id,
            )
            before = await self.owner.fetchval(
                "SELECT status::text FROM jobs.job_executions"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                tenant,
                job_id,
                device,
            )
            await self.owner.execute(
                "UPDATE jobs.job_executions SET status = $4::jobs.execution_status,"
                " started_at = now(), last_updated_at = now()"
                " WHERE tenant_id = $1 AND job_id = $2 AND device_id = $3",
                tenant,
                job_id,
                device,
                status,
            )
            await self.owner.execute(
                f"UPDATE jobs.job_progress SET {before} = {before} - 1, {status} = {status} + 1"
                " WHERE tenant_id = $1 AND job_id = $2",
                tenant,
                job_id,
            )

    async def blocked(self) -> int:
        """How many sessions of this database wait for another one's lock."""
        waiting: int = await self.owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock'"
        )
        return waiting

    async def until_blocked(self, count: int) -> None:
        """Return when `count` sessions of this database wait for another one's lock."""

        async def so_many() -> bool:
            return await self.blocked() == count

        await until(so_many)

    async def expire(self, tenant: str, job_id: str) -> None:
        """Let the job's expiry be an hour ago, and its creation before that."""
        await self.owner.execute(
            "UPDATE jobs.jobs SET expires_at = now() - interval '1 hour',"
            " created_at = now() - interval '2 hours', updated_at = now() - interval '2 hours'"
            " WHERE tenant_id = $1 AND job_id = $2",
            tenant,
            job_id,
        )

    async def overdue(self, tenant: str, job_id: str) -> None:
        """Let the deadline of the job's running executions be a minute ago."""
        await self.owner.execute(
            "UPDATE jobs.job_executions SET times_out_at = now() - interval '1 minute'"
            " WHERE tenant_id = $1 AND job_id = $2 AND status = 'IN_PROGRESS'",
            tenant,
            job_id,
        )


@dataclass(frozen=True)
class Operator:
    """A caller of JobService in one tenant. Keywords are the requests' fields."""

    stub: "jobs_pb2_grpc.JobServiceAsyncStub"
    tenant: str
    user: str | None = None
    stated: tuple[tuple[str, str], ...] | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the calls say of the caller: `stated`, or the tenant and the user."""
        if self.stated is not None:
            return self.stated
        user = (("x-user-id", self.user),) if self.user else ()
        return (("x-tenant-id", self.tenant), *user)

    async def create(self, **fields: Any) -> pb.CreateJobResponse:
        """Create a job; document_type is "reboot" unless given."""
        request = pb.CreateJobRequest(**({"document_type": "reboot"} | fields))
        return await self.stub.CreateJob(request, metadata=self.metadata, timeout=TIMEOUT)

    async def list(self, **fields: Any) -> pb.ListJobsResponse:
        """List jobs."""
        request = pb.ListJobsRequest(**fields)
        return await self.stub.ListJobs(request, metadata=self.metadata, timeout=TIMEOUT)

    async def get(self, job_id: str, **fields: Any) -> pb.Job:
        """Get a job."""
        request = pb.GetJobRequest(job_id=job_id, **fields)
        response = await self.stub.GetJob(request, metadata=self.metadata, timeout=TIMEOUT)
        return response.job

    async def executions(self, job_id: str, **fields: Any) -> pb.ListJobExecutionsResponse:
        """List a job's executions."""
        request = pb.ListJobExecutionsRequest(job_id=job_id, **fields)
        return await self.stub.ListJobExecutions(request, metadata=self.metadata, timeout=TIMEOUT)

    async def cancel(self, job_id: str, **fields: Any) -> pb.CancelJobResponse:
        """Cancel a job."""
        request = pb.CancelJobRequest(job_id=job_id, **fields)
        return await self.stub.CancelJob(request, metadata=self.metadata, timeout=TIMEOUT)

    async def cancel_execution(self, job_id: str, device: str, **fields: Any) -> pb.JobExecution:
        """Cancel one device's execution."""
        request = pb.CancelExecutionRequest(job_id=job_id, device_id=device, **fields)
        response = await self.stub.CancelExecution(request, metadata=self.metadata, timeout=TIMEOUT)
        return response.execution

    async def retry(self, job_id: str, *statuses: Any, **fields: Any) -> pb.RetryExecutionsResponse:
        """Queue again what ended in one of the statuses."""
        request = pb.RetryExecutionsRequest(job_id=job_id, statuses=statuses, **fields)
        return await self.stub.RetryExecutions(request, metadata=self.metadata, timeout=TIMEOUT)

    async def attempts(self, job_id: str, device: str) -> Sequence[pb.JobExecution]:
        """List the attempts of one device, the present one first."""
        request = pb.ListExecutionAttemptsRequest(job_id=job_id, device_id=device)
        response = await self.stub.ListExecutionAttempts(
            request, metadata=self.metadata, timeout=TIMEOUT
        )
        return response.attempts

    async def delete(self, job_id: str) -> None:
        """Delete a job."""
        request = pb.DeleteJobRequest(job_id=job_id)
        await self.stub.DeleteJob(request, metadata=self.metadata, timeout=TIMEOUT)


@dataclass(frozen=True)
class Device:
    """A device that calls DeviceJobService. Keywords are the requests' fields."""

    stub: "device_jobs_pb2_grpc.DeviceJobServiceAsyncStub"
    tenant: str
    name: str

    async def _call(self, method: str, request: Message) -> Any:
        metadata = (("x-tenant-id", self.tenant), ("x-device-id", self.name))
        return await getattr(self.stub, method)(request, metadata=metadata, timeout=TIMEOUT)

    async def pending(self, **fields: Any) -> device_pb.ListPendingExecutionsResponse:
        """List what there is to do."""
        request = device_pb.ListPendingExecutionsRequest(**fields)
        response: device_pb.ListPendingExecutionsResponse = await self._call(
            "ListPendingExecutions", request
        )
        return response

    async def start_next(self, **fields: Any) -> device_pb.DeviceExecution | None:
        """Start the next execution; None if there is none."""
        request = device_pb.StartNextExecutionRequest(**fields)
        response = await self._call("StartNextExecution", request)
        return response.execution if response.HasField("execution") else None

    async def start(self, job_id: str, **fields: Any) -> device_pb.DeviceExecution:
        """Start the execution of a job."""
        request = device_pb.StartExecutionRequest(job_id=job_id, **fields)
        execution: device_pb.DeviceExecution = (
            await self._call("StartExecution", request)
        ).execution
        return execution

    async def get(self, job_id: str) -> device_pb.DeviceExecution:
        """Read the execution of a job."""
        request = device_pb.GetExecutionRequest(job_id=job_id)
        execution: device_pb.DeviceExecution = (await self._call("GetExecution", request)).execution
        return execution

    async def update(self, job_id: str, status: Any, **fields: Any) -> device_pb.DeviceExecution:
        """Report how it goes."""
        request = device_pb.UpdateExecutionRequest(job_id=job_id, status=status, **fields)
        execution: device_pb.DeviceExecution = (
            await self._call("UpdateExecution", request)
        ).execution
        return execution


@dataclass
class Failure:
    """What a failed call said."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    present: device_pb.DeviceExecution | None = None
    request_id: str | None = None

    def read(self, error: grpc.aio.AioRpcError) -> None:
        """Take over what an error carries, details included."""
        self.message = error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == "x-request-id":
                self.request_id = str(value)
            elif key == "grpc-status-details-bin":
                self._read_details(Status.FromString(value))

    def _read_details(self, status: Status) -> None:
        for packed in status.details:
            info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
            present = device_pb.DeviceExecution()
            if packed.Unpack(info):
                assert info.domain == "fleet.jobs.v1"
                self.reason = info.reason
                self.metadata = dict(info.metadata)
            elif packed.Unpack(bad_request):
                self.violations = {v.field: v.description for v in bad_request.field_violations}
            elif packed.Unpack(present):
                self.present = present
            elif packed.Unpack(retry):
                self.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9


@contextmanager
def fails(code: grpc.StatusCode, reason: str = "") -> Iterator[Failure]:
    """Expect a call in the block to fail so; what it said is in the value afterwards."""
    failure = Failure(code)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield failure
    failure.read(raised.value)
    assert (raised.value.code(), failure.reason) == (code, reason), raised.value


@dataclass(frozen=True)
class Server:
    """A running service and a channel to it."""

    config: Config
    address: str
    channel: grpc.aio.Channel
    app: app.App

    def operator(self, tenant: str, user: str | None = None) -> Operator:
        """A caller in a tenant."""
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), tenant, user)

    def caller(self, *stated: tuple[str, str]) -> Operator:
        """A caller who says this of itself."""
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), "", stated=stated)

    def bearer(self, token: str, *stated: tuple[str, str]) -> Operator:
        """A caller with a token."""
        return self.caller(("authorization", f"Bearer {token}"), *stated)

    def device(self, tenant: str, name: str) -> Device:
        """A device of a tenant."""
        return Device(device_jobs_pb2_grpc.DeviceJobServiceStub(self.channel), tenant, name)


@asynccontextmanager
async def serving(database_url: str, **variables: str) -> AsyncIterator[Server]:
    """The service on a free port, ready to serve. Variables as in the environment."""
    async with starting(database_url, **variables) as server:
        await until_healthy(server.channel)
        yield server


@asynccontextmanager
async def serving_tls(
    database_url: str, credentials: grpc.ChannelCredentials, **variables: str
) -> AsyncIterator[Server]:
    """The service as it is ready to serve over TLS."""
    async with (
        _running(database_url, variables) as (config, running),
        connected(running.address, credentials) as channel,
    ):
        await until_healthy(channel)
        yield Server(config, running.address, channel, running)


@asynccontextmanager
async def starting(database_url: str, **variables: str) -> AsyncIterator[Server]:
    """The service on a free port, possibly not ready."""
    async with (
        _running(database_url, variables) as (config, running),
        connected(running.address) as channel,
    ):
        yield Server(config, running.address, channel, running)


@asynccontextmanager
async def _running(
    database_url: str, variables: dict[str, str]
) -> AsyncIterator[tuple[Config, app.App]]:
    environ = {"JOBS_DATABASE_URL": database_url, "JOBS_LISTEN": "127.0.0.1:0"}
    # A machine that is busy with other things is not what a test calls overloaded.
    environ |= {"JOBS_POOL_TIMEOUT": f"{TIMEOUT}"} | variables
    config = Config.from_env(environ)
    async with app.running(config) as running:
        yield config, running


@asynccontextmanager
async def connected(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own to an address."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channel = (
        grpc.aio.secure_channel(address, credentials, options=options)
        if credentials
        else grpc.aio.insecure_channel(address, options=options)
    )
    async with channel:
        yield channel


@contextmanager
def reserved_address() -> Iterator[str]:
    """An address on loopback for a server and for the one after it.

    A port that a server has left would be anybody's: the system gives it to an outgoing
    connection, perhaps to one of the clients that try to reach the server again.
    """
    with socket.socket() as reserved:
        # Beside it, gRPC may listen: this one only is bound.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


async def until_listed(operator: Operator) -> None:
    """Return when a list is answered; until then, only the database may be unavailable."""

    async def listed() -> bool:
        try:
            await operator.list()
        except grpc.aio.AioRpcError as e:
            refusal = Failure(e.code())
            refusal.read(e)
            assert refusal.code is grpc.StatusCode.UNAVAILABLE
            assert refusal.reason == "DATABASE_UNAVAILABLE"
            assert refusal.message == "The database is unavailable; retry later"
            return False
        return True

    await until(listed)


async def until_healthy(channel: grpc.aio.Channel) -> None:
    """Return when the server says SERVING."""
    await until(lambda: is_healthy(channel))


async def is_healthy(channel: grpc.aio.Channel, service: str = "") -> bool:
    """Whether the server says SERVING now."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub: Any = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    response = await stub.Check(request, timeout=TIMEOUT, wait_for_ready=True)
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds; fail after TIMEOUT seconds."""
    deadline = time.monotonic() + TIMEOUT
    while not await condition():
        assert time.monotonic() < deadline, "the condition did not come to hold in time"
        await asyncio.sleep(0.01)


def watch_health(channel: grpc.aio.Channel, service: str = "") -> Any:
    """An open Health.Watch; each `read()` is the next status it tells."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True)


@asynccontextmanager
async def mutex_held(database: Database, tenant: str, job_id: str) -> AsyncIterator[None]:
    """Hold a job's mutex from another session, so that a cancel waits for it."""
    holder = await asyncpg.connect(database.owner_dsn)
    try:
        async with holder.transaction():
            await holder.execute(
                "SELECT FROM jobs.job_progress WHERE tenant_id = $1 AND job_id = $2 FOR UPDATE",
                tenant,
                job_id,
            )
            yield
    finally:
        await holder.close()


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[tuple[asyncpg.Connection, Store]]:
    """A session of the request role, as another server has it, and the store on it."""
    connection = await asyncpg.connect(database.request_dsn)
    try:
        yield connection, Store(cast("Any", connection))  # of the pool, it needs `fetch` only
    finally:
        await connection.close()


async def all_jobs(operator: Operator, **fields: Any) -> list[pb.Job]:
    """The jobs of all pages, from the first or from the `page_token` given."""
    jobs: list[pb.Job] = []
    while True:
        page = await operator.list(**fields)
        jobs += page.jobs
        if not page.next_page_token:
            return jobs
        fields["page_token"] = page.next_page_token


async def all_executions(operator: Operator, job_id: str, **fields: Any) -> list[pb.JobExecution]:
    """The executions of all pages, from the first or from the `page_token` given."""
    executions: list[pb.JobExecution] = []
    while True:
        page = await operator.executions(job_id, **fields)
        executions += page.executions
        if not page.next_page_token:
            return executions
        fields["page_token"] = page.next_page_token
