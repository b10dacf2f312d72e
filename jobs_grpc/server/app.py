"""The composition root: what the service is made of, and in what order it starts and stops."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from fleet.jobs.v1 import device_jobs_pb2, device_jobs_pb2_grpc, jobs_pb2, jobs_pb2_grpc
from grpc.aio import Server

from jobs_grpc.auth.authenticator import Authenticator, open_authenticator
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.config import Config
from jobs_grpc.db.database import Database
from jobs_grpc.db.readiness import NotReady
from jobs_grpc.db.store import Store
from jobs_grpc.db.update_batcher import LOCK_WAIT_MS, UpdateBatcher
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.rpc import pipeline
from jobs_grpc.rpc.in_flight import InFlight
from jobs_grpc.server import grpc_server, reflection, tls
from jobs_grpc.server.health import Health
from jobs_grpc.services.device_jobs import DeviceJobService
from jobs_grpc.services.jobs import JobService

logger = logging.getLogger(__name__)

SERVICES = (
    jobs_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
    device_jobs_pb2.DESCRIPTOR.services_by_name["DeviceJobService"].full_name,
)

# Seconds between saying NOT_SERVING and taking no new calls. gRPC hands calls over one by
# one, and cuts off those that have arrived but wait for that; and watchers are to be told.
_FAREWELL = 0.1

# Handlers that were cut off get this long to give their connections back.
_CLEANUP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class App:
    """A started service."""

    address: str
    """Where it listens, with the port that was assigned."""

    serving: asyncio.Event
    """Set when the service has become ready for the first time."""

    stopping: asyncio.Event
    """Set when a stop begins; streams end then."""

    failed: "asyncio.Task[None]"
    """Ends, with the reason as its exception, if the service may not go on serving."""


async def serve(
    config: Config,
    stop: asyncio.Event,
    on_serving: Callable[[str], None],
    *,
    shares_port: bool = False,
    sweeps: bool = True,
) -> None:
    """Serve until `stop` is set. `on_serving` is called once, with the address, when ready.

    Raises what `running` does, and NotIsolated.
    """
    async with running(config, shares_port=shares_port, sweeps=sweeps) as service:
        stopping = asyncio.create_task(stop.wait())
        serving = asyncio.create_task(service.serving.wait())
        waiting: set[asyncio.Task[object]] = {stopping, serving, service.failed}
        while not stopping.done() and not service.failed.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if serving in done:
                on_serving(service.address)
        for task in (stopping, serving):
            task.cancel()
        if service.failed.done():
            await service.failed


@asynccontextmanager
async def running(
    config: Config,
    *,
    shares_port: bool = False,
    sweeps: bool = True,
    lock_wait_ms: int = LOCK_WAIT_MS,
) -> AsyncIterator[App]:
    """The service, from its start to the end of the block; then it drains and stops.

    Health says NOT_SERVING until the database is ready. With `shares_port` other processes
    may listen there as well. Raises CannotListen and ConfigError.
    """
    _warn(config)
    files = tls.Files.of(config)
    make_credentials = tls.server_credentials(files) if files else None
    async with (
        open_authenticator(config) as callers,
        _running(config, callers, make_credentials, shares_port, sweeps, lock_wait_ms) as started,
    ):
        yield started


@asynccontextmanager
async def _running(
    config: Config,
    callers: Authenticator,
    make_credentials: Callable[[], grpc.ServerCredentials] | None,
    shares_port: bool,
    sweeps: bool,
    lock_wait_ms: int,
) -> AsyncIterator[App]:
    database = Database(config)

    async def check() -> None:
        await database.check()
        if reason := callers.unavailable_reason():
            raise NotReady(reason)

    health = Health(check, SERVICES)
    in_flight = InFlight()
    stopping = asyncio.Event()
    peers = TrustedPeers(config.tls.trusted_peers) if config.tls.trusted_peers else None
    server = grpc_server.make_server(
        pipeline.interceptors(config, in_flight, stopping, callers, peers),
        config.limits.max_request_bytes,
        config.server.listen,
    )
    store = Store(database)
    batcher = UpdateBatcher(store, lock_wait_ms=lock_wait_ms)
    jobs_pb2_grpc.add_JobServiceServicer_to_server(JobService(store, config, stopping), server)
    device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(
        DeviceJobService(store, batcher, config.limits.max_document_bytes, stopping), server
    )
    grpc_server.add_health(server, health.servicer)
    if config.server.reflection:
        reflection.add_reflection(server, SERVICES)

    # From the last to the first, and all of them, also if a second signal cuts one short.
    async with AsyncExitStack() as at_end:
        address = at_end.enter_context(
            grpc_server.listening(
                server, config.server.listen, make_credentials, reserve=not shares_port
            )
        )
        await health.start()
        await server.start()
        follower = asyncio.create_task(health.follow())
        background = {follower}
        if sweeps:
            background.add(asyncio.create_task(_sweep(config)))
        logger.info("listening on %s", address)
        at_end.callback(logger.info, "stopped")
        at_end.push_async_callback(database.close)
        at_end.push_async_callback(batcher.close)
        at_end.push_async_callback(_end, background)
        at_end.push_async_callback(_cut_off, server, stopping, in_flight)
        at_end.push_async_callback(
            _drain, server, health, stopping, in_flight, config.server.shutdown_grace
        )
        yield App(address, health.serving, stopping, follower)


def _warn(config: Config) -> None:
    """Say in the log what was switched off by hand."""
    if config.auth.insecure_metadata and config.auth.mode == "metadata":
        logger.warning(
            "JOBS_INSECURE_METADATA: whoever reaches %s can name any tenant", config.server.listen
        )
    if config.tls.terminated_upstream and not config.tls.cert and config.auth.mode == "jwt":
        logger.warning(
            "JOBS_TLS_TERMINATED_UPSTREAM: tokens reach %s in the clear; TLS must end in front"
            " of it",
            config.server.listen,
        )


async def _sweep(config: Config) -> None:
    if config.maintenance.owner_database_url is None:
        logger.warning(
            "JOBS_OWNER_DATABASE_URL is not set: this server ends no execution that is"
            " in progress for too long, and deletes nothing"
        )
        return
    sweeper = Sweeper(
        config.maintenance.owner_database_url,
        retention_days=config.maintenance.retention_days,
        statement_cache_size=config.database.statement_cache_size,
    )
    try:
        async with sweeper:
            await sweeper.run()
    except Exception as e:
        # Calls are served on: they do not need it, and other replicas may sweep.
        logger.error("sweeping has ended until this server is restarted: %r", e)


async def _drain(
    server: Server,
    health: Health,
    stopping: asyncio.Event,
    in_flight: InFlight,
    grace: float,
) -> None:
    """Say so, take no new calls, and give those that have arrived `grace` seconds."""
    await health.stop()
    stopping.set()
    await asyncio.sleep(_FAREWELL)
    in_flight.cancel_public_calls()
    await server.stop(grace)


async def _cut_off(server: Server, stopping: asyncio.Event, in_flight: InFlight) -> None:
    """End the calls that are left; gRPC minds a loop that ends under it."""
    stopping.set()
    await server.stop(None)
    if not await in_flight.wait(_CLEANUP_TIMEOUT):
        logger.warning("calls that were cut off have not ended")


async def _end(tasks: set["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
