"""Signals that end a command, as an exception that lets it clean up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupting() -> Iterator[None]:
    """Raise KeyboardInterrupt at SIGINT and SIGTERM, at once: also while asyncio runs.

    Its own handling of SIGINT waits for the task to await something, which one that
    blocks, as in reading a pipe, does not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, _interrupt) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
