"""The event loop of a server process: uvloop if it is installed."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from jobs_grpc.config import Config

try:
    from uvloop import new_event_loop as _new_uvloop
except ImportError:
    # The loop factory of asyncio itself.
    _new_uvloop = None  # type: ignore[assignment]

T = TypeVar("T")


def run(config: Config, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as asyncio.run does, on the event loop of JOBS_EVENT_LOOP."""
    factory = _new_uvloop if config.server.event_loop == "auto" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def name() -> str:
    """Return the name of the running event loop, for the log: uvloop or asyncio."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
