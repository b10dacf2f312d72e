"""Whom a poll asks for: who has just come at once, everybody every interval."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise

import pytest

from jobs_grpc.errors import DatabaseUnavailable, ServerStopping
from jobs_grpc.services.watch_hub import WatchHub
from tests.support.waiting import wait_until

# Longer than any test: what is told in it was not told by a regular poll.
NEVER = 3600.0


class Source:
    """Numbers by key, and what was asked for. `meanwhile` is awaited before each answer."""

    def __init__(self) -> None:
        self.values = dict.fromkeys("abcdefgh", 1)
        self.asked: list[list[str]] = []
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def fetch(self, tenant_id: str, keys: list[str]) -> dict[str, int]:
        """The values of the keys."""
        self.asked.append(keys)
        if self.meanwhile:
            await self.meanwhile()
        return {key: self.values[key] for key in keys}

    def watching(self, interval: float) -> WatchHub[int]:
        """A watching of this, that does not stop."""
        return WatchHub(self.fetch, interval, asyncio.Event())


Changes = AsyncGenerator[int | None, None]


@asynccontextmanager
async def told(watching: WatchHub[int], *keys: str) -> AsyncIterator[list[Changes]]:
    """Watches of the keys that have been told once, one after the other."""
    watches = [watching.watch("tenant", key) for key in keys]
    try:
        for watch in watches:
            await anext(watch)
        yield watches
    finally:
        for watch in watches:
            await watch.aclose()


async def test_who_has_just_come_is_told_without_asking_for_the_others() -> None:
    source = Source()

    async with told(source.watching(NEVER), "a", "b", "c"):
        assert source.asked == [["a"], ["b"], ["c"]]


async def test_who_comes_to_a_watched_key_is_told_what_it_is_now() -> None:
    source = Source()
    watching = source.watching(NEVER)

    async with told(watching, "a"):
        source.values["a"] = 2
        async with aclosing(watching.watch("tenant", "a")) as late:
            assert await anext(late) == 2


async def test_a_departure_asks_for_nothing() -> None:
    source = Source()
    watching = source.watching(NEVER)

    async with told(watching, "a", "b") as (_, second):
        await second.aclose()
        async with told(watching, "c"):
            pass

    assert source.asked == [["a"], ["b"], ["c"]]


async def test_after_the_last_departure_the_next_is_told_at_once() -> None:
    source = Source()
    watching = source.watching(NEVER)

    for _ in range(3):
        async with told(watching, "a"):
            pass

    assert source.asked == [["a"]] * 3


async def test_those_who_come_while_one_is_asked_for_are_asked_for_together() -> None:
    source = Source()
    asked, answer = asyncio.Event(), asyncio.Event()

    async def meanwhile() -> None:
        asked.set()
        await answer.wait()

    source.meanwhile = meanwhile
    watching = source.watching(NEVER)
    watches = [watching.watch("tenant", key) for key in "abcdb"]
    first = asyncio.ensure_future(anext(watches[0]))
    await asked.wait()
    others = [asyncio.ensure_future(anext(watch)) for watch in watches[1:]]

    async def all_wait() -> bool:
        return all(
            watch.ag_await is not None  # type: ignore[attr-defined]  # it is a generator
            for watch in watches
        )

    await wait_until(all_wait)
    answer.set()

    assert await asyncio.gather(first, *others) == [1] * 5
    assert source.asked == [["a"], ["b", "c", "d"]]
    for watch in watches:
        await watch.aclose()


async def test_a_stream_of_arrivals_neither_starves_nor_hurries_the_others() -> None:
    """While an answer is under way the next watcher comes, and there is news of "a"."""
    interval = 0.1
    source = Source()
    watching = source.watching(interval)
    clock = asyncio.get_running_loop().time
    watches: list[Changes] = []
    arrivals: list[asyncio.Future[int | None]] = []

    async def meanwhile() -> None:
        source.values["a"] += 1
        watches.append(watching.watch("tenant", "c"))
        arrivals.append(asyncio.ensure_future(anext(watches[-1])))
        await asyncio.sleep(0.001)  # What the database takes.

    async with told(watching, "b"):
        middle = clock() + interval / 2

        async def in_the_middle_of_an_interval() -> bool:
            return clock() >= middle

        await wait_until(in_the_middle_of_an_interval)
        source.meanwhile = meanwhile
        async with aclosing(watching.watch("tenant", "a")) as watch, asyncio.timeout(10):
            times = []
            for _ in range(5):
                await anext(watch)
                times.append(clock())
        source.meanwhile = None

    await asyncio.gather(*arrivals)
    for watch in watches:
        await watch.aclose()
    assert len(arrivals) > 5
    assert min(later - earlier for earlier, later in pairwise(times)) > interval / 2


async def test_while_the_database_is_away_arrivals_do_not_ask_it() -> None:
    source = Source()
    watching = source.watching(NEVER)

    async def away() -> None:
        raise DatabaseUnavailable

    async with told(watching, "a"):
        source.meanwhile = away
        watches = [watching.watch("tenant", key) for key in "bcd"]
        arrivals = []
        for watch in watches:
            arrivals.append(asyncio.ensure_future(anext(watch)))
            for _ in range(10):
                await asyncio.sleep(0)
        assert source.asked == [["a"], ["b"]]
        for arrival in arrivals:
            arrival.cancel()
        await asyncio.wait(arrivals)


async def test_who_came_while_the_database_was_away_is_told_when_it_is_back() -> None:
    source = Source()
    watching = source.watching(0.01)

    async def away() -> None:
        if len(source.asked) < 4:
            raise DatabaseUnavailable

    source.meanwhile = away
    async with told(watching, "a", "b"):
        assert len(source.asked) >= 4


async def test_a_stop_ends_a_watch_that_has_just_been_told() -> None:
    source = Source()
    stopping = asyncio.Event()
    watching = WatchHub(source.fetch, NEVER, stopping)

    async with told(watching, "a") as (watch,):
        following = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        stopping.set()
        with pytest.raises(ServerStopping):
            await following
