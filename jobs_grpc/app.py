"""The composition root: what the service is made of, and in what order it starts and stops."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fleet.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from grpc.aio import Server

from jobs_grpc import interceptors
from jobs_grpc import server as grpc_server
from jobs_grpc.config import Config
from jobs_grpc.database import Database
from jobs_grpc.health import Health
from jobs_grpc.job_service import JobService
from jobs_grpc.store import Store

logger = logging.getLogger(__name__)

SERVICES = (jobs_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,)

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

    failed: "asyncio.Task[None]"
    """Ends, with the reason as its exception, if the service may not go on serving."""


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[App]:
    """The service, from its start to the end of the block; then it drains and stops.

    Health says NOT_SERVING until the database is ready. Raises CannotListen.
    """
    database = Database(config)
    health = Health(database.check, SERVICES)
    in_flight = interceptors.InFlight()
    server = grpc_server.make_server(interceptors.chain(in_flight))
    jobs_pb2_grpc.add_JobServiceServicer_to_server(
        JobService(Store(database), config.max_document_bytes), server
    )
    grpc_server.add_health(server, health.servicer)
    if config.reflection:
        grpc_server.add_reflection(server, SERVICES)

    address = grpc_server.listen(server, config.listen)
    await health.start()
    await server.start()
    follower = asyncio.create_task(health.follow())
    logger.info("listening on %s", address)
    try:
        yield App(address, health.serving, follower)
    finally:
        await health.stop()
        await _drain(server, in_flight, config.shutdown_grace)
        follower.cancel()
        await asyncio.wait({follower})
        await database.close()
        logger.info("stopped")


async def _drain(server: Server, in_flight: interceptors.InFlight, grace: float) -> None:
    """Take no new calls, and give those that have arrived `grace` seconds."""
    await asyncio.sleep(_FAREWELL)
    in_flight.end_infrastructure()
    await server.stop(grace)
    if not await in_flight.cleaned_up(_CLEANUP_TIMEOUT):
        logger.warning("calls that were cut off have not ended")
