"""The event loop of a server process: uvloop if it is installed."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

from jobs_grpc.config import Config
from jobs_grpc.observability.histogram import Histogram

try:
    from uvloop import new_event_loop as _new_uvloop
except ImportError:
    # The loop factory of asyncio itself.
    _new_uvloop = None  # type: ignore[assignment]

T = TypeVar("T")

# A garbage collection stops the event loop. With Python's thresholds, (700, 10, 10), ten full ones
# ran while 8,000 watches opened and ended, for up to a second each. Ended calls need no full ones.
_GC_THRESHOLDS = (5_000, 5, 40)

_LAG_INTERVAL = 0.5

LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Buckets of the lag of the event loop."""


def run(config: Config, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as asyncio.run does, on the event loop of JOBS_EVENT_LOOP."""
    gc.set_threshold(*_GC_THRESHOLDS)
    factory = _new_uvloop if config.server.event_loop == "auto" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def measure_lag(lag: Histogram) -> None:
    """Observe how late the event loop runs a timer, in seconds, until canceled."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        lag.observe(clock() - due)


def name() -> str:
    """Return the name of the running event loop, for the log: uvloop or asyncio."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
