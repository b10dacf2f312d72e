"""The composition root: creates the parts of the service, starts them and stops them in order."""

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from fleet.jobs.v1 import (
    device_jobs_pb2_grpc,
    events_pb2_grpc,
    fleet_pb2_grpc,
    jobs_pb2_grpc,
)
from grpc_health.v1 import health_pb2_grpc

from jobs_grpc.auth.authenticator import Authenticator, open_authenticator
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.config import Config
from jobs_grpc.contract.methods import SERVICES
from jobs_grpc.db.database import Database
from jobs_grpc.db.last_seen import LastSeen
from jobs_grpc.db.outage import Outage
from jobs_grpc.db.readiness import NotReady
from jobs_grpc.db.store import Store
from jobs_grpc.db.update_batcher import LOCK_WAIT_MS, UpdateBatcher
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.maintenance.joins import Joins
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.observability.call_metrics import CallMetrics
from jobs_grpc.observability.histogram import Histogram
from jobs_grpc.observability.repeated_records import flush_repeated_records
from jobs_grpc.rpc.call_tracker import CallTracker
from jobs_grpc.rpc.method_table import MethodTable
from jobs_grpc.rpc.pipeline import Pipeline
from jobs_grpc.server import event_loop, grpc_server, reflection, tls
from jobs_grpc.server.device_listener import open_devices
from jobs_grpc.server.health import Health
from jobs_grpc.server.insecure_settings import insecure_settings
from jobs_grpc.server.listeners import Listeners
from jobs_grpc.server.metrics_extra import require_metrics_extra
from jobs_grpc.server.open_files import raise_open_file_limit
from jobs_grpc.server.shutdown import cancel_calls, cancel_tasks, drain
from jobs_grpc.server.webhook_delivery import webhook_delivery, webhook_dispatcher
from jobs_grpc.server.worker_metrics import answer_requests
from jobs_grpc.services.device_jobs import DeviceJobService
from jobs_grpc.services.event_stream import HEARTBEAT_SECONDS
from jobs_grpc.services.events import EventService
from jobs_grpc.services.fleet import FleetService
from jobs_grpc.services.jobs import JobService
from jobs_grpc.services.poll_after import PollAfter
from jobs_grpc.services.report_stream import REPORT_LOG_SECONDS
from jobs_grpc.services.targets import EvaluationLimit
from jobs_grpc.webhooks.sender import Sender

if TYPE_CHECKING:
    from grpc.aio import Server
    from prometheus_client.core import Metric

    from jobs_grpc.server.metrics import ServerParts

logger = logging.getLogger(__name__)

SERVICE_NAMES = tuple(service.full_name for service in SERVICES)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppOptions:
    """Values that are not settings of the service. Tests change them."""

    drain_notice_seconds: float = 0.1
    """Time between reporting NOT_SERVING and closing the port.

    When the port closes, gRPC drops calls that have arrived but have no handler yet. In this time,
    health watchers stop sending calls.
    """

    lock_wait_ms: int = LOCK_WAIT_MS
    """See LOCK_WAIT_MS."""

    grpc_options: grpc_server.Options = grpc_server.OPTIONS

    metrics_max_age: float = 1.0
    """Seconds for which a response with metrics is sent again."""

    event_heartbeat: float = HEARTBEAT_SECONDS
    """See EventStreams."""

    report_log_seconds: float = REPORT_LOG_SECONDS
    """See REPORT_LOG_SECONDS."""

    random: Callable[[], float] = random.random
    """Returns the random numbers of `poll_after`, each at least 0 and less than 1."""

    webhook_sender: Sender | None = None
    """Sends the deliveries of webhooks; None: over HTTP."""


@dataclass(frozen=True, slots=True)
class App:
    """A running service."""

    address: str
    """The address that it listens on, with the assigned port."""

    serving: asyncio.Event
    """Set when the service is ready for the first time."""

    stopping: asyncio.Event
    """Set when the shutdown begins; streams end then."""

    failure: "asyncio.Task[None]"
    """Ends with an exception if the service must not go on, for example NotIsolated."""

    metrics_address: str | None
    """The address that it serves metrics on, with the assigned port."""

    device_address: str | None
    """The address for devices with certificates, with the assigned port."""


_DEFAULT_OPTIONS = AppOptions()


async def serve(
    config: Config,
    stop: asyncio.Event,
    on_serving: Callable[[str], None],
    *,
    share_port: bool = False,
    run_maintenance: bool = True,
    metrics_connection: socket.socket | None = None,
) -> None:
    """Serve until `stop` is set. Calls `on_serving` once, with the address, when it is ready.

    Raises NotIsolated, and what `running` raises.
    """
    async with running(
        config,
        share_port=share_port,
        run_maintenance=run_maintenance,
        metrics_connection=metrics_connection,
    ) as app:
        stopping = asyncio.create_task(stop.wait())
        serving = asyncio.create_task(app.serving.wait())
        pending: set[asyncio.Task[object]] = {stopping, serving, app.failure}
        while not stopping.done() and not app.failure.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if serving in done:
                on_serving(app.address)
        for task in (stopping, serving):
            task.cancel()
        if app.failure.done():
            await app.failure


@asynccontextmanager
async def running(
    config: Config,
    *,
    share_port: bool = False,
    run_maintenance: bool = True,
    metrics_connection: socket.socket | None = None,
    options: AppOptions = _DEFAULT_OPTIONS,
) -> AsyncIterator[App]:
    """Run the service until the block ends; then drain and stop it.

    Health reports NOT_SERVING until the database is ready. With `share_port`, other processes
    may listen on the same port. A supervisor asks for metrics on `metrics_connection`; without
    it, this process serves them itself. Raises ListenError and ConfigError.
    """
    if config.metrics.listen:
        require_metrics_extra()
    for problem in insecure_settings(config):
        logger.warning("%s", problem)
    raise_open_file_limit()
    make_credentials = tls.server_credentials(config.tls)
    database = Database(config)
    store = Store(database)
    batcher = UpdateBatcher(
        store, lock_wait_ms=options.lock_wait_ms, measure_waits=bool(config.metrics.listen)
    )
    last_seen = LastSeen(config, database)
    memory = MemoryLimit(config.limits.max_buffered_bytes, config.limits.max_tenant_buffered_bytes)
    in_flight = CallTracker()
    call_metrics = CallMetrics() if config.metrics.listen else None
    stopping = asyncio.Event()
    peers = TrustedPeers(config.tls.trusted_peers) if config.tls.trusted_peers else None

    # Callbacks run in reverse order. Each runs even if a second signal cancels the one before it.
    async with AsyncExitStack() as shutdown:
        authenticator = await shutdown.enter_async_context(open_authenticator(config))
        health = Health(_readiness_check(database, authenticator), SERVICE_NAMES)
        devices = open_devices(config.devices, store.unregistered_devices)
        pipeline = Pipeline(
            config,
            authenticator,
            peers,
            memory,
            in_flight,
            stopping,
            call_metrics,
            devices.authenticate_forwarded if devices else None,
        )
        # Generated code expects servers, but only registers methods.
        methods: Any = MethodTable(pipeline.wrap)
        conversion_slots = FairSlots(1)
        evaluations = EvaluationLimit()
        jobs = JobService(store, memory, conversion_slots, config, stopping, evaluations)
        jobs_pb2_grpc.add_JobServiceServicer_to_server(jobs, methods)
        fleet = FleetService(store, conversion_slots, evaluations, config.limits)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(fleet, methods)
        delivery = await shutdown.enter_async_context(
            webhook_delivery(config.events, options.webhook_sender)
        )
        events = EventService(
            store,
            memory,
            conversion_slots,
            stopping,
            config.events,
            delivery,
            options.event_heartbeat,
        )
        events_pb2_grpc.add_EventServiceServicer_to_server(events, methods)
        device_jobs = DeviceJobService(
            store,
            batcher,
            last_seen,
            memory,
            conversion_slots,
            config.limits.max_document_bytes,
            stopping,
            PollAfter(config.server.poll_after, pipeline.limits.load, options.random),
            options.report_log_seconds,
        )
        device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(device_jobs, methods)
        health_pb2_grpc.add_HealthServicer_to_server(health.servicer, methods)
        if config.server.reflection:
            reflection.add_reflection(methods, SERVICE_NAMES)
        server = grpc_server.make_server(
            methods, config.limits, config.server.listen, options.grpc_options
        )

        address = shutdown.enter_context(
            grpc_server.bind(server, config.server.listen, make_credentials, reserve=not share_port)
        )
        device_address = None
        if devices:
            device_methods: Any = devices.method_table(pipeline)
            jobs_pb2_grpc.add_JobServiceServicer_to_server(jobs, device_methods)
            device_jobs_pb2_grpc.add_DeviceJobServiceServicer_to_server(device_jobs, device_methods)
            health_pb2_grpc.add_HealthServicer_to_server(health.servicer, device_methods)
            if config.server.reflection:
                reflection.add_reflection(device_methods, SERVICE_NAMES)
            device_server, device_address = shutdown.enter_context(
                devices.bind(device_methods, config, options.grpc_options, reserve=not share_port)
            )
            server = cast("Server", Listeners([server, device_server]))
        sweeper = _make_sweeper(config, database.outage, store) if run_maintenance else None
        dispatcher = None
        if sweeper and delivery:
            dispatcher = await shutdown.enter_async_context(
                webhook_dispatcher(config, delivery.keys, database.outage, options.webhook_sender)
            )
            store.on_write(dispatcher.note_write)
        background: set[asyncio.Task[None]] = set()
        metrics_address = None
        if call_metrics:
            from jobs_grpc.server.metrics import ServerParts

            lag = Histogram(event_loop.LAG_SECONDS)
            background.add(asyncio.create_task(event_loop.measure_lag(lag)))
            parts = ServerParts(
                config=config,
                calls=call_metrics,
                is_serving=lambda: health.is_serving,
                database=database,
                batcher=batcher,
                last_seen=last_seen,
                memory=memory,
                jobs=jobs,
                fleet=fleet,
                device_jobs=device_jobs,
                events=events,
                authenticator=authenticator,
                sweeper=sweeper,
                dispatcher=dispatcher,
                event_loop_lag=lag,
            )
            metrics_address = await shutdown.enter_async_context(
                _serving_metrics(parts, metrics_connection, options.metrics_max_age)
            )
        await server.start()
        health_checks = asyncio.create_task(health.run())
        background.add(health_checks)
        if devices:
            background.add(asyncio.create_task(devices.authenticator.run()))
            logger.info("listening for devices with certificates on %s", device_address)
        if sweeper:
            background.add(asyncio.create_task(_run_maintenance(sweeper)))
        if dispatcher:
            background.add(asyncio.create_task(dispatcher.run()))
        if last_seen.enabled:
            background.add(asyncio.create_task(last_seen.run()))
        logger.info("listening on %s (event loop: %s)", address, event_loop.name())
        shutdown.callback(logger.info, "stopped")
        shutdown.callback(flush_repeated_records)
        shutdown.callback(pipeline.refusals.flush)
        shutdown.callback(pipeline.audit_log.flush)
        shutdown.push_async_callback(database.close)
        shutdown.push_async_callback(batcher.close)
        shutdown.push_async_callback(last_seen.close, config.server.shutdown_grace)
        if devices:
            shutdown.push_async_callback(devices.registered.close)
        shutdown.push_async_callback(cancel_tasks, background)
        if dispatcher:
            shutdown.push_async_callback(dispatcher.close, config.server.shutdown_grace)
        shutdown.push_async_callback(cancel_calls, server, stopping, in_flight)
        shutdown.push_async_callback(
            drain,
            server,
            health,
            stopping,
            in_flight,
            notice_seconds=options.drain_notice_seconds,
            grace=config.server.shutdown_grace,
        )
        if dispatcher:
            shutdown.callback(dispatcher.stop)
        yield App(address, health.serving, stopping, health_checks, metrics_address, device_address)


@asynccontextmanager
async def _serving_metrics(
    parts: "ServerParts", supervisor: socket.socket | None, max_age: float
) -> AsyncIterator[str | None]:
    """Serve the metrics; yields the address. Or answer the supervisor, which serves them."""
    from jobs_grpc.server.metrics import make_registry
    from jobs_grpc.server.metrics_endpoint import serving_metrics

    registry = make_registry(parts)
    if supervisor:
        answering = asyncio.create_task(
            answer_requests(supervisor, lambda: list(registry.collect()))
        )
        try:
            yield None
        finally:
            await cancel_tasks({answering})
        return

    async def collect() -> "list[Metric]":
        return list(registry.collect())

    listen = parts.config.metrics.listen or ""
    async with serving_metrics(listen, collect, max_age=max_age) as address:
        logger.info("serving metrics on http://%s/metrics", address)
        yield address


def _readiness_check(
    database: Database, authenticator: Authenticator
) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        await database.check()
        if reason := authenticator.unavailable_reason():
            raise NotReady(reason)

    return check


def _make_sweeper(config: Config, outage: Outage, store: Store) -> Sweeper | None:
    if config.maintenance.owner_database_url is None:
        logger.warning(
            "JOBS_OWNER_DATABASE_URL is not set: this server runs no maintenance; executions do"
            " not time out, and deleted and old jobs are not removed, unless another server runs it"
        )
        return None
    return Sweeper(
        config.maintenance.owner_database_url,
        retention_days=config.maintenance.retention_days,
        event_retention_days=config.events.event_retention_days,
        max_tenant_events=config.events.max_tenant_events,
        statement_cache_size=config.database.statement_cache_size,
        outage=outage,
        on_write=store.note_write,
        remove_stale_devices=store.remove_stale_devices,
        make_joins=partial(
            Joins,
            store=store,
            max_targets=config.limits.max_targets,
            interval=config.maintenance.join_scan_interval,
            # Changes that began before CreateJob was committed wrote no note. Each may take a
            # timeout.
            settle=2 * config.database.query_timeout,
        ),
    )


async def _run_maintenance(sweeper: Sweeper) -> None:
    try:
        async with sweeper:
            await sweeper.run()
    except Exception as e:
        # Calls do not need maintenance, and other servers may run it.
        logger.error("maintenance has stopped; restart this server to run it again: %r", e)
