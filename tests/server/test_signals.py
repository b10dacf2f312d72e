"""Signals that stop a command."""

import asyncio
import signal
import threading
from contextlib import suppress

import pytest

from jobs_grpc.server.signals import run_until_stop_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_before_its_next_step_when_a_callback_loses_the_signal(number: int) -> None:
    """As when the signal arrives in a destructor, or in a callback of asyncpg."""
    # In another thread, no handler would be set and the signal would end the process.
    assert threading.current_thread() is threading.main_thread()
    reached = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        row = loop.create_future()

        def receive() -> None:
            row.set_result(None)
            with suppress(KeyboardInterrupt):
                signal.raise_signal(number)

        loop.call_soon(receive)
        await row
        reached.append("a read of standard input that blocks")

    with pytest.raises(KeyboardInterrupt):
        run_until_stop_signal(main())

    assert not reached


def test_run_is_interrupted_when_it_blocks() -> None:
    assert threading.current_thread() is threading.main_thread()

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal did not interrupt the code that ran")

    with pytest.raises(KeyboardInterrupt):
        run_until_stop_signal(main())


def test_run_returns_the_result_when_there_is_no_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def main() -> int:
        return 1

    assert run_until_stop_signal(main()) == 1
    assert signal.getsignal(signal.SIGTERM) is before
