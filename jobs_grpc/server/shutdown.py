"""The steps of a shutdown: drain calls, cancel those that are left, cancel background tasks."""

import asyncio
import logging
from contextlib import suppress

from grpc.aio import Server

from jobs_grpc.rpc.call_tracker import CallTracker
from jobs_grpc.server.health import Health

logger = logging.getLogger(__name__)

# How long gRPC may take to send GOAWAY on all connections.
_GOAWAY_SECONDS = 0.05

# gRPC receives thousands of new streams faster than the server accepts them. If none opens for
# _QUIET_SECONDS, all have been accepted. The server waits for that for at most _MAX_ACCEPT_SECONDS,
# and at most half of the grace, because the accepted streams need time to end.
_QUIET_SECONDS = 0.05
_MAX_ACCEPT_SECONDS = 5.0

# How many seconds canceled calls may take to return their database connections.
_CLEANUP_TIMEOUT = 5.0

# gRPC's own grace period ends this many seconds after ours. If both ended at once, gRPC could
# cancel the calls of a server that cancel_calls has stopped and freed, which crashes the process.
_AFTER_GRACE = 60.0


async def drain(
    server: Server,
    health: Health,
    stopping: asyncio.Event,
    in_flight: CallTracker,
    *,
    notice_seconds: float,
    grace: float,
) -> None:
    """Report NOT_SERVING, accept no new calls, and let calls in flight finish.

    Sends GOAWAY before it ends streams: otherwise clients reopen them on the same connection, and
    gRPC cancels such calls without a reason. Returns when all calls except health and reflection
    have ended, or `grace` seconds after the call; the caller must cancel the calls that are left.
    """
    deadline = asyncio.get_running_loop().time() + grace
    calls_in_flight = "1 call" if in_flight.call_count == 1 else f"{in_flight.call_count} calls"
    logger.info(
        "stopping: finishing %s within %g s; a second signal stops at once", calls_in_flight, grace
    )
    await health.stop()
    await asyncio.sleep(notice_seconds)
    await _accept_streams(in_flight, min(_MAX_ACCEPT_SECONDS, grace / 2))
    stop = asyncio.create_task(server.stop(grace + _AFTER_GRACE))
    await asyncio.sleep(_GOAWAY_SECONDS)
    stopping.set()
    in_flight.cancel_public_calls()
    # A canceled stream whose client does not read cannot send its status, so the server would wait
    # for it during the whole grace period.
    calls = asyncio.create_task(in_flight.wait_for_calls(deadline))
    await asyncio.wait({stop, calls}, return_when=asyncio.FIRST_COMPLETED)


async def _accept_streams(in_flight: CallTracker, seconds: float) -> None:
    """Wait until the server has accepted all received streams: gRPC would cancel the others."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            opened = -1
            while opened != in_flight.streams_opened:
                opened = in_flight.streams_opened
                await asyncio.sleep(_QUIET_SECONDS)


async def cancel_calls(server: Server, stopping: asyncio.Event, in_flight: CallTracker) -> None:
    """Cancel the calls that are left. gRPC fails if the event loop ends before its calls do."""
    stopping.set()
    await server.stop(None)
    if not await in_flight.wait(_CLEANUP_TIMEOUT):
        logger.warning("canceled calls are still running after %g s", _CLEANUP_TIMEOUT)


async def cancel_tasks(tasks: set["asyncio.Task[None]"]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
