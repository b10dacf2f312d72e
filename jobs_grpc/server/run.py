"""Runs the server, in this process or with workers, until a signal stops it."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType

from jobs_grpc.config import Config
from jobs_grpc.config.unknown import unknown_variables
from jobs_grpc.observability import logs, tracing
from jobs_grpc.server import app, event_loop, supervisor
from jobs_grpc.server.signals import handle_stop_signals

logger = logging.getLogger(__name__)


def serve(config: Config, on_serving: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Calls `on_serving` with the address when it is ready.

    Raises KeyboardInterrupt if a second signal canceled calls in flight.
    """
    logs.configure_logging(config.log.level, config.log.format)
    for warning in unknown_variables(os.environ):
        logger.warning("%s", warning)
    # With several workers, each of them exports its spans.
    exporting = tracing.exporting(os.environ) if config.server.workers == 1 else nullcontext()
    try:
        with exporting:
            start = app.serve if config.server.workers == 1 else supervisor.serve
            event_loop.run(config, _until_signal(lambda stop: start(config, stop, on_serving)))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _until_signal(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    with _stop_on_signal(stop):
        await serve(stop)


def _stop_on_signal(stop: asyncio.Event) -> AbstractContextManager[None]:
    """Set `stop` on the first signal and cancel the current task on the next one.

    The event loop's own signal handlers would reset SIGTERM to its default afterwards.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel if stop.is_set() else stop.set)

    return handle_stop_signals(on_signal)
