"""Temporary handlers for the signals that stop a process: SIGINT and SIGTERM."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handle_stop_signals(
    handler: Callable[[int, FrameType | None], None],
    signals: Iterable[signal.Signals] = STOP_SIGNALS,
) -> Iterator[None]:
    """Handle SIGINT and SIGTERM, or other `signals`, with `handler` within the block.

    Does nothing outside the main thread, since only that thread may set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)


def interrupt_on_stop_signals() -> AbstractContextManager[None]:
    """Raise KeyboardInterrupt at SIGINT, SIGTERM and SIGHUP within the block, at once.

    With the handler of asyncio, a task that blocks, for example to read a pipe, would not be
    interrupted.
    """
    signals = [*STOP_SIGNALS, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        signals = [*STOP_SIGNALS]
    return handle_stop_signals(_raise_keyboard_interrupt, signals)


def run_until_stop_signal(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like asyncio.run, and raise KeyboardInterrupt at SIGINT and SIGTERM.

    The exception also interrupts a read that blocks. But it is lost if the signal arrives while a
    destructor or a callback in C runs, so the coroutine is canceled as well.
    """

    async def run() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks

        def interrupt(number: int, frame: FrameType | None) -> None:
            # At once and not by a callback: the task could block before the callback runs.
            task.cancel()
            raise KeyboardInterrupt

        with handle_stop_signals(interrupt):
            return await main

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _raise_keyboard_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
