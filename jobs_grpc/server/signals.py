"""Signals that stop a process, handled in another way for a while."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM so in the block. Only the main thread can; others don't."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def interrupting() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt at SIGINT and SIGTERM, at once: also while asyncio runs.

    Its own handling of SIGINT waits for the task to await something, which one that
    blocks, as in reading a pipe, does not.
    """
    return handling(_interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
