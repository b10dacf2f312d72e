"""WatchHub: which keys it fetches, and when."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager

import pytest

from jobs_grpc.errors import DatabaseUnavailable, Overloaded, ServerStopping
from jobs_grpc.services.watch_hub import Watch, WatchHub
from tests.support.waiting import wait_until

# Seconds. Longer than any test, so that no regular poll happens.
NEVER = 3600.0


class Source:
    """Values by key, and the keys of each fetch. A fetch awaits `during_fetch`."""

    def __init__(self) -> None:
        self.values = dict.fromkeys("abcdefgh", 1)
        self.fetches: list[list[str]] = []
        self.during_fetch: Callable[[], Awaitable[None]] | None = None

    async def fetch(
        self, tenant_id: str, keys: Iterable[str]
    ) -> AsyncGenerator[tuple[str, int | None]]:
        """Yield the values of the keys."""
        self.fetches.append(list(keys))
        if self.during_fetch:
            await self.during_fetch()
        for key in keys:
            yield key, self.values.get(key)

    def hub(self, interval: float) -> WatchHub[str, int]:
        """A WatchHub that polls this source."""
        return WatchHub(self.fetch, interval, asyncio.Event(), keys_per_fetch=3)


async def receive(hub: WatchHub[str, int], key: str) -> int | None:
    """Return the first value of a new watch."""
    with hub.watch("tenant", key) as watch:
        return await watch.next()


@asynccontextmanager
async def started(hub: WatchHub[str, int], *keys: str) -> AsyncIterator[list[Watch[str, int]]]:
    """Watches of the keys, started in order; each has received its first value."""
    with ExitStack() as stack:
        watches = []
        for key in keys:
            watches.append(stack.enter_context(hub.watch("tenant", key)))
            await watches[-1].next()
        yield watches


async def test_new_watch_fetches_only_its_own_key() -> None:
    source = Source()

    async with started(source.hub(NEVER), "a", "b", "c"):
        assert source.fetches == [["a"], ["b"], ["c"]]


async def test_new_watch_of_a_watched_key_gets_the_current_value() -> None:
    source = Source()
    hub = source.hub(NEVER)

    async with started(hub, "a"):
        source.values["a"] = 2
        with hub.watch("tenant", "a") as late:
            assert await late.next() == 2


async def test_closing_a_watch_fetches_nothing() -> None:
    source = Source()
    hub = source.hub(NEVER)

    async with started(hub, "a"):
        async with started(hub, "b"):
            pass
        async with started(hub, "c"):
            pass

    assert source.fetches == [["a"], ["b"], ["c"]]


async def test_new_watch_gets_its_value_at_once_after_all_others_closed() -> None:
    source = Source()
    hub = source.hub(NEVER)

    for _ in range(3):
        async with started(hub, "a"):
            pass

    assert source.fetches == [["a"]] * 3


async def test_watches_that_start_during_a_fetch_share_the_next_one() -> None:
    source = Source()
    fetching, respond = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        fetching.set()
        await respond.wait()

    source.during_fetch = block
    hub = source.hub(NEVER)
    first = asyncio.create_task(receive(hub, "a"))
    await fetching.wait()
    others = [asyncio.create_task(receive(hub, key)) for key in "bcdb"]
    await asyncio.sleep(0)  # until they wait
    respond.set()

    assert await asyncio.gather(first, *others) == [1] * 5

    assert source.fetches == [["a"], ["b", "c", "d"]]


async def test_poll_fetches_a_few_keys_at_a_time() -> None:
    source = Source()

    async with started(source.hub(0.01), "a", "b", "c", "d", "e") as watches:
        waiting = [asyncio.ensure_future(watch.next()) for watch in watches]

        async def all_are_polled() -> bool:
            return ["a", "b", "c"] in source.fetches and source.fetches[-1] == ["d", "e"]

        await wait_until(all_are_polled)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_existing_watch_keeps_its_interval_when_new_watches_keep_starting() -> None:
    """During each fetch, another watch starts and the value of "a" changes."""
    interval = 0.1
    source = Source()
    hub = source.hub(interval)
    clock = asyncio.get_running_loop().time
    first_values: list[asyncio.Task[int | None]] = []

    async def start_watch() -> None:
        source.values["a"] += 1
        first_values.append(asyncio.create_task(receive(hub, "c")))
        await asyncio.sleep(0.001)  # the duration of a database query

    source.during_fetch = start_watch
    started_at = clock()
    async with started(hub, "a") as (watch,), asyncio.timeout(10):
        for _ in range(5):
            await watch.next()
        seconds = clock() - started_at
    source.during_fetch = None

    await asyncio.gather(*first_values)
    assert len(first_values) > 5
    assert seconds >= 5 * interval


async def test_new_watches_fetch_nothing_while_the_database_is_unavailable() -> None:
    source = Source()
    hub = source.hub(NEVER)

    async def fail() -> None:
        raise DatabaseUnavailable

    async with started(hub, "a"):
        source.during_fetch = fail
        first_values = []
        for key in "bcd":
            first_values.append(asyncio.create_task(receive(hub, key)))
            for _ in range(10):
                await asyncio.sleep(0)
        assert source.fetches == [["a"], ["b"]]
        for first_value in first_values:
            first_value.cancel()
        await asyncio.wait(first_values)


async def test_watch_gets_its_value_when_the_database_is_available_again() -> None:
    source = Source()
    hub = source.hub(0.01)

    async def fail_at_first() -> None:
        if len(source.fetches) < 4:
            raise DatabaseUnavailable

    source.during_fetch = fail_at_first
    async with started(hub, "a", "b"):
        assert len(source.fetches) >= 4


@pytest.mark.slow
async def test_polls_without_a_connection_write_one_line_and_then_their_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed = 0

    async def fail(tenant_id: str, keys: Iterable[str]) -> AsyncGenerator[tuple[str, int | None]]:
        nonlocal failed
        failed += 1
        if failed:
            raise Overloaded
        yield "a", 1

    hub = WatchHub[str, int](fail, 0.01, asyncio.Event(), keys_per_fetch=3)

    async def watch(tenant: str) -> None:
        with hub.watch(tenant, "a") as watch:
            await watch.next()

    watching = [asyncio.create_task(watch(tenant)) for tenant in ("first", "second")]

    async def second_line_is_logged() -> bool:
        return len(caplog.records) > 1

    await wait_until(second_line_is_logged)
    first, second = caplog.records[:2]
    for task in watching:
        task.cancel()
    await asyncio.wait(watching)
    assert "JOBS_POOL_TIMEOUT" in first.getMessage()
    assert not hasattr(first, "others")
    assert 2 <= vars(second)["others"] < failed


async def test_value_that_a_stream_has_read_itself_is_no_change() -> None:
    source = Source()
    async with started(source.hub(0.01), "a", "b") as (watch, other):
        source.values |= {"a": 2, "b": 2}
        watch.digest = 2
        next_value = asyncio.ensure_future(watch.next())
        assert await other.next() == 2
        source.values["b"] = 3
        assert await other.next() == 3
        assert not next_value.done()

        source.values["a"] = 1  # Back to the value that the last poll but one saw.

        assert await next_value == 1


async def test_watch_without_a_digest_gets_the_same_value_again() -> None:
    async with started(Source().hub(0.01), "a") as (watch,):
        watch.digest = None

        assert await watch.next() == 1


async def test_watch_ends_when_the_server_stops() -> None:
    source = Source()
    stopping = asyncio.Event()
    hub = WatchHub(source.fetch, NEVER, stopping, keys_per_fetch=3)

    async with started(hub, "a") as (watch,):
        next_value = asyncio.ensure_future(watch.next())
        await asyncio.sleep(0)
        stopping.set()
        with pytest.raises(ServerStopping):
            await next_value


async def test_hub_fetches_nothing_for_streams_that_do_not_wait() -> None:
    """A value can be large and costly, and the client of a stream may not read for long."""
    source = Source()
    async with started(source.hub(0.01), "a", "b") as (slow, watch):
        source.values |= {"a": 2, "b": 2}
        source.fetches.clear()
        for value in (2, 3, 4):
            source.values["b"] = value
            assert await watch.next() == value
        assert source.fetches == [["b"]] * 3

        assert await slow.next() == 2
