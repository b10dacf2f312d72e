"""The service in this process, on a free port."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc
from fleet.jobs.v1 import device_jobs_pb2_grpc, events_pb2_grpc, fleet_pb2_grpc, jobs_pb2_grpc

from jobs_grpc.config import Config
from jobs_grpc.server import app
from tests.support.callers import Bridge, Device, Events, Fleet, Operator
from tests.support.failures import Failure
from tests.support.health import wait_until_healthy
from tests.support.waiting import TIMEOUT, wait_until

# By default, a batch gives up a busy job's lock after 200 ms and waits again later. On a busy test
# machine it would lose its place in line, which the tests of races rely on.
DEFAULT_OPTIONS = app.AppOptions(lock_wait_ms=60_000)


@dataclass(frozen=True)
class Server:
    """A running service and a channel to it."""

    config: Config
    address: str
    channel: grpc.aio.Channel
    app: app.App

    def operator(self, tenant: str, user: str | None = None) -> Operator:
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), tenant, user)

    def fleet(self, tenant: str) -> Fleet:
        return Fleet(fleet_pb2_grpc.FleetServiceStub(self.channel), tenant)

    def events(self, tenant: str) -> Events:
        return Events(events_pb2_grpc.EventServiceStub(self.channel), tenant)

    def caller(self, *metadata: tuple[str, str]) -> Operator:
        """Return a caller that sends exactly this metadata."""
        return Operator(jobs_pb2_grpc.JobServiceStub(self.channel), "", explicit_metadata=metadata)

    def bearer(self, token: str, *metadata: tuple[str, str]) -> Operator:
        """Return a caller that sends a token and this metadata."""
        return self.caller(("authorization", f"Bearer {token}"), *metadata)

    def device(self, tenant: str, name: str) -> Device:
        return Device(device_jobs_pb2_grpc.DeviceJobServiceStub(self.channel), tenant, name)

    def bridge(self, tenant: str, user: str = "") -> Bridge:
        return Bridge(device_jobs_pb2_grpc.DeviceJobServiceStub(self.channel), tenant, user)


@asynccontextmanager
async def running_server(
    database_url: str, options: app.AppOptions = DEFAULT_OPTIONS, /, **variables: str
) -> AsyncIterator[Server]:
    """Run the service on a free port and wait until it is healthy.

    Keyword arguments are environment variables.
    """
    async with starting_server(database_url, options, **variables) as server:
        await wait_until_healthy(server.channel)
        yield server


@asynccontextmanager
async def running_tls_server(
    database_url: str, credentials: grpc.ChannelCredentials, **variables: str
) -> AsyncIterator[Server]:
    """Run the service over TLS and wait until it is healthy."""
    async with (
        _running(database_url, variables) as (config, running),
        open_channel(running.address, credentials) as channel,
    ):
        await wait_until_healthy(channel)
        yield Server(config, running.address, channel, running)


@asynccontextmanager
async def starting_server(
    database_url: str, options: app.AppOptions = DEFAULT_OPTIONS, /, **variables: str
) -> AsyncIterator[Server]:
    """Run the service on a free port without waiting until it is healthy."""
    async with (
        _running(database_url, variables, options) as (config, running),
        open_channel(running.address) as channel,
    ):
        yield Server(config, running.address, channel, running)


@asynccontextmanager
async def _running(
    database_url: str, variables: dict[str, str], options: app.AppOptions = DEFAULT_OPTIONS
) -> AsyncIterator[tuple[Config, app.App]]:
    environ = {"JOBS_DATABASE_URL": database_url, "JOBS_LISTEN": "127.0.0.1:0"}
    # Calls must not fail with OVERLOADED only because the test machine is busy.
    environ |= {"JOBS_POOL_TIMEOUT": f"{TIMEOUT}"} | variables
    config = Config.from_env(environ)
    async with app.running(config, options=options) as running:
        yield config, running


@asynccontextmanager
async def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
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
    """Reserve a loopback address that several servers use one after the other.

    Without the reservation, the system may give the port of a stopped server to an outgoing
    connection, such as one of a client that reconnects.
    """
    with socket.socket() as reserved:
        # This socket is bound but does not listen, so gRPC can listen on the same port.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


async def wait_until_list_succeeds(operator: Operator) -> None:
    """Return when ListJobs succeeds; until then the database must be unavailable or too slow."""

    async def listed() -> bool:
        try:
            await operator.list()
        except grpc.aio.AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            assert failure.code is grpc.StatusCode.UNAVAILABLE
            assert failure.reason in ("DATABASE_UNAVAILABLE", "QUERY_TIMEOUT")
            return False
        return True

    await wait_until(listed)
