"""ReadTimeouts: reads end after a time, or when too many others wait."""

import asyncio

import pytest

from jobs_grpc.rpc.read_timeouts import ReadTimeouts, TooManyReads
from tests.support.waiting import TIMEOUT, run_ready_tasks


def start_read(timeouts: ReadTimeouts) -> "asyncio.Task[object]":
    """Start a read that never ends on its own."""
    return asyncio.create_task(timeouts.wait(asyncio.Event().wait()))


async def wait_until_canceled(read: "asyncio.Task[object]") -> None:
    """Return when the read has been ended but has not raised yet."""
    for _ in range(1000):
        if read.cancelling():
            break
        await asyncio.sleep(0)
    assert read.cancelling()
    assert not read.done()


async def test_read_returns_its_result_when_it_is_in_time() -> None:
    assert await ReadTimeouts(TIMEOUT).wait(asyncio.sleep(0, "request")) == "request"


async def test_read_times_out() -> None:
    with pytest.raises(TimeoutError):
        await ReadTimeouts(0).wait(asyncio.Event().wait())


async def test_each_read_times_out_when_several_wait() -> None:
    timeouts = ReadTimeouts(0.01)
    reads = []
    for _ in range(3):
        reads.append(start_read(timeouts))
        await run_ready_tasks()

    done, _ = await asyncio.wait(reads, timeout=TIMEOUT)

    assert [type(read.exception()) for read in done] == [TimeoutError] * 3


async def test_read_times_out_when_it_starts_after_the_timer_has_stopped() -> None:
    timeouts = ReadTimeouts(0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await timeouts.wait(asyncio.Event().wait())


async def test_task_goes_on_when_its_read_has_timed_out() -> None:
    with pytest.raises(TimeoutError):
        await ReadTimeouts(0).wait(asyncio.Event().wait())

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_canceled_read_raises_cancelled_error_when_it_also_times_out() -> None:
    timeouts = ReadTimeouts(0)
    read = start_read(timeouts)

    await wait_until_canceled(read)
    read.cancel()

    with pytest.raises(asyncio.CancelledError):
        await read


async def test_read_is_canceled_when_its_task_is() -> None:
    read = start_read(ReadTimeouts(TIMEOUT, 1))
    await run_ready_tasks()

    read.cancel()

    with pytest.raises(asyncio.CancelledError):
        await read


async def test_oldest_read_is_ended_when_there_are_too_many() -> None:
    timeouts = ReadTimeouts(TIMEOUT, 2)
    oldest, second = start_read(timeouts), start_read(timeouts)
    await run_ready_tasks()

    assert await timeouts.wait(asyncio.sleep(0, "request")) == "request"

    with pytest.raises(TooManyReads):
        await oldest
    assert not second.done()
    second.cancel()


async def test_read_is_accepted_when_the_oldest_has_just_timed_out() -> None:
    timeouts = ReadTimeouts(0, 1)
    first = start_read(timeouts)
    await wait_until_canceled(first)

    await asyncio.gather(timeouts.wait(asyncio.sleep(0)), return_exceptions=True)

    with pytest.raises(TimeoutError):
        await first
