"""WatchHub: which keys it compares, when, and for which tenants together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest

from jobs_grpc.errors import DatabaseUnavailable, Overloaded, ServerStopping
from jobs_grpc.services import watch_group, watch_hub
from jobs_grpc.services.watch_group import Watch
from jobs_grpc.services.watch_hub import WatchHub
from tests.support.waiting import TIMEOUT, wait_until_true

# Seconds. Longer than any test, so that no regular poll happens.
NEVER = 3600.0


class Source:
    """Fingerprints by tenant and key, and the keys of each fetch. A fetch awaits `during_fetch`."""

    def __init__(self) -> None:
        self.fingerprints: dict[tuple[str, str], int] = {}
        self.fetches: list[list[str]] = []
        self.tenants: list[list[str]] = []
        self.during_fetch: Callable[[], Awaitable[None]] | None = None

    async def fetch(
        self, tenant_ids: list[str], keys: list[str], known: list[int | None]
    ) -> list[tuple[int, int]]:
        """Return the fingerprints that differ. Each is 1 until it is changed."""
        self.fetches.append(keys)
        self.tenants.append(tenant_ids)
        if self.during_fetch:
            await self.during_fetch()
        current = [self.fingerprints.get(key, 1) for key in zip(tenant_ids, keys, strict=True)]
        return [(n, f) for n, f in enumerate(current) if f != known[n]]

    def hub(self, interval: float = NEVER) -> WatchHub[str]:
        return WatchHub(self.fetch, interval, asyncio.Event())

    def change(self, key: str, fingerprint: int = 2, tenant: str = "tenant") -> None:
        self.fingerprints[tenant, key] = fingerprint


async def receive(hub: WatchHub[str], key: str, tenant: str = "tenant") -> int | None:
    with hub.watch(tenant, key) as watch:
        await watch.changed()
        return watch.fingerprint


@asynccontextmanager
async def started(
    hub: WatchHub[str], *keys: str, tenant: str = "tenant"
) -> AsyncIterator[list[Watch[str]]]:
    """Watches of the keys, started in order; each has its first fingerprint."""
    with ExitStack() as stack:
        watches = []
        for key in keys:
            watches.append(stack.enter_context(hub.watch(tenant, key)))
            async with asyncio.timeout(TIMEOUT):
                await watches[-1].changed()
        yield watches


@contextmanager
def waiting(*watches: Watch[Any]) -> Any:
    tasks = [asyncio.ensure_future(watch.changed()) for watch in watches]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()


async def test_new_watch_of_a_watched_key_gets_the_current_fingerprint() -> None:
    source = Source()
    hub = source.hub()

    async with started(hub, "a"):
        source.change("a")
        assert await receive(hub, "a") == 2


async def test_only_a_new_watch_is_compared_when_watches_open_and_close() -> None:
    source = Source()
    hub = source.hub()

    async with started(hub, "a", "b"):
        for key in "cd":
            async with started(hub, key):
                pass
    assert hub.open_watches == 0
    async with started(hub, "a"):
        pass

    assert source.fetches == [["a"], ["b"], ["c"], ["d"], ["a"]]


async def test_watches_that_start_during_a_fetch_share_the_next_one() -> None:
    source = Source()
    fetching, respond = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        fetching.set()
        await respond.wait()

    source.during_fetch = block
    hub = source.hub()
    first = asyncio.create_task(receive(hub, "a"))
    await fetching.wait()
    others = [asyncio.create_task(receive(hub, key, f"tenant-{key}")) for key in "bcdb"]
    await asyncio.sleep(0)  # until they wait
    respond.set()

    assert await asyncio.gather(first, *others) == [1] * 5

    assert source.fetches == [["a"], ["b", "c", "d"]]


async def test_poll_compares_a_few_keys_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_group, "KEYS_PER_STATEMENT", 3)
    source = Source()

    async with started(source.hub(0.01), "a", "b", "c", "d", "e") as watches:
        with waiting(*watches):
            await wait_until_true(
                lambda: ["a", "b", "c"] in source.fetches and source.fetches[-1] == ["d", "e"]
            )


async def test_tenants_share_statements() -> None:
    """A hundred tenants with a watch each cost as much as one tenant with a hundred."""
    source = Source()
    hub = source.hub(0.05)
    async with started(hub, "job") as (other,):
        with ExitStack() as stack:
            watches = [stack.enter_context(hub.watch(f"t{n:02}", "job")) for n in range(100)]
            await asyncio.gather(*(watch.changed() for watch in watches))
            with waiting(*watches, other) as changes:
                source.fetches.clear()

                await wait_until_true(lambda: len(source.fetches) > 2)
                assert source.fetches[-1] == ["job"] * 101
                assert source.tenants[-1] == sorted(source.tenants[-1])
                source.change("job", tenant="t42")
                await changes[42]
                assert not any(change.done() for n, change in enumerate(changes) if n != 42)


async def test_full_group_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_hub, "_GROUP_SIZE", 2)
    source = Source()
    hub = source.hub(0.02)
    async with started(hub, "a", tenant="t1") as (first,):
        async with started(hub, "b", tenant="t2"), started(hub, "c", tenant="t3") as (third,):
            source.fetches.clear()
            source.change("c", tenant="t3")
            await third.changed()
            # The first two do not wait, so the polls of their group compare nothing.
            assert set(map(tuple, source.fetches)) == {("c",)}
            async with started(hub, "d", tenant="t4") as (fourth,):
                with waiting(third, fourth):
                    await wait_until_true(lambda: source.fetches[-1] == ["c", "d"])
        # A tenant joins a group that others have left.
        async with started(hub, "e", tenant="t5") as (fifth,):
            with waiting(first, fifth):
                await wait_until_true(lambda: source.fetches[-1] == ["a", "e"])


async def test_tenant_with_many_watches_gets_its_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the polls of others do not wait for its statements."""
    monkeypatch.setattr(watch_hub, "_MAX_SHARED", 2)
    source = Source()
    hub = source.hub(0.02)
    async with (
        started(hub, "a", tenant="small") as small,
        started(hub, "b", "c", "d", tenant="large") as large,
    ):
        with waiting(*small, *large):
            source.fetches.clear()

            await wait_until_true(
                lambda: ["a"] in source.fetches and ["b", "c", "d"] in source.fetches
            )
            assert all("a" not in fetch or fetch == ["a"] for fetch in source.fetches)


async def test_write_of_this_process_polls_only_its_tenant_and_soon() -> None:
    source = Source()
    hub = source.hub()
    async with started(hub, "a", "b") as watches, started(hub, "c", tenant="other") as (other,):
        source.fetches.clear()
        with waiting(*watches, other) as changes:
            await asyncio.sleep(0)  # until they wait
            source.change("b")
            source.change("c", tenant="other")
            hub.note_write("tenant")
            hub.note_write("unwatched")
            await changes[1]

            assert source.fetches == [["a", "b"]]
            assert not changes[0].done()
            assert not changes[2].done()


async def test_writes_in_quick_succession_share_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_group, "_WRITE_INTERVAL", 0.05)
    source = Source()
    hub = source.hub()
    async with started(hub, "a", "b") as (watch, idle):
        source.fetches.clear()
        with waiting(idle):
            for fingerprint in range(2, 7):
                change = asyncio.ensure_future(watch.changed())
                await asyncio.sleep(0)
                source.change("a", fingerprint)
                for _ in range(10):
                    hub.note_write("tenant")
                await change

        assert source.fetches == [["a", "b"]] * 5


async def test_pause_follows_a_long_poll_after_a_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_group, "_WRITE_INTERVAL", 0)
    monkeypatch.setattr(watch_group, "_PAUSE_PER_POLL", 1e6)
    source = Source()
    hub = source.hub()

    async with started(hub, "a") as (watch,):
        source.during_fetch = partial(asyncio.sleep, 0.001)
        for fingerprint in (2, 3):
            with waiting(watch) as (change,):
                await asyncio.sleep(0)
                source.change("a", fingerprint)
                hub.note_write("tenant")
                await asyncio.wait({change}, timeout=NEVER if fingerprint == 2 else 0.05)
                assert change.done() is (fingerprint == 2)


async def test_new_watches_and_writes_poll_nothing_while_the_database_is_unavailable() -> None:
    source = Source()
    hub = source.hub()

    async def fail() -> None:
        raise DatabaseUnavailable

    async with started(hub, "a"):
        source.during_fetch = fail
        first = []
        for key in "bcd":
            first.append(asyncio.create_task(receive(hub, key)))
            for _ in range(10):
                await asyncio.sleep(0)
            hub.note_write("tenant")
        assert source.fetches == [["a"], ["b"]]
        for task in first:
            task.cancel()
        await asyncio.wait(first)


async def test_watch_is_compared_when_the_database_is_available_again() -> None:
    source = Source()

    async def fail_at_first() -> None:
        if len(source.fetches) < 4:
            raise DatabaseUnavailable

    source.during_fetch = fail_at_first
    async with started(source.hub(0.01), "a", "b"):
        assert len(source.fetches) >= 4


@pytest.mark.slow
async def test_polls_without_a_connection_write_one_line_and_then_their_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch_hub, "_GROUP_SIZE", 1)
    failed = 0

    async def fail(*_: object) -> list[tuple[int, int]]:
        nonlocal failed
        failed += 1
        if failed:
            raise Overloaded
        return []

    hub = WatchHub[str](fail, 0.01, asyncio.Event())
    watching = [asyncio.create_task(receive(hub, "a", tenant)) for tenant in ("first", "second")]

    await wait_until_true(lambda: len(caplog.records) > 1)
    first, second = caplog.records[:2]
    for task in watching:
        task.cancel()
    await asyncio.wait(watching)
    assert "JOBS_POOL_TIMEOUT" in first.getMessage()
    assert not hasattr(first, "others")
    assert 2 <= vars(second)["others"] < failed


async def test_watch_does_not_wake_when_its_stream_has_read_the_state() -> None:
    source = Source()
    async with started(source.hub(0.01), "a", "b") as (watch, other):
        source.change("a", 2)
        source.change("b", 2)
        watch.fingerprint = source.fingerprints["tenant", "a"]
        with waiting(watch) as (change,):
            await other.changed()
            source.change("b", 3)
            await other.changed()
            assert not change.done()

            source.change("a", 1)  # Back to the state that the last poll but one saw.
            await change

    assert watch.fingerprint == 1


async def test_watches_of_a_key_that_have_different_fingerprints_are_compared() -> None:
    source = Source()
    async with started(source.hub(0.01), "a", "a") as (behind, watch):
        source.change("a")
        behind.fingerprint, watch.fingerprint = 1, 2
        with waiting(watch) as (unchanged,):
            await behind.changed()

            assert behind.fingerprint == source.fingerprints["tenant", "a"]
            assert not unchanged.done()


async def test_watch_ends_when_the_server_stops() -> None:
    source = Source()
    stopping = asyncio.Event()
    hub = WatchHub(source.fetch, NEVER, stopping)

    async with started(hub, "a") as (watch,):
        change = asyncio.ensure_future(watch.changed())
        await asyncio.sleep(0)
        stopping.set()
        with pytest.raises(ServerStopping):
            await change


async def test_hub_compares_nothing_for_streams_that_do_not_wait() -> None:
    """Reading a state can be costly, and the client of a stream may not read for long."""
    source = Source()
    async with started(source.hub(0.01), "a", "b") as (slow, watch):
        source.change("a", 2)
        source.fetches.clear()
        for fingerprint in (2, 3, 4):
            source.change("b", fingerprint)
            await watch.changed()
        assert source.fetches == [["b"]] * 3

        await slow.changed()
        assert slow.fingerprint == 2


@asynccontextmanager
async def twenty_tenants(
    hub: WatchHub[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """A watch of "a" of each of 20 tenants. Statements of 0.1 s are slow."""
    monkeypatch.setattr(watch_group, "_SLOW_SECONDS", 0.1)
    monkeypatch.setattr(watch_group, "_SEARCH_INTERVAL", 0.1)
    with ExitStack() as stack:
        watches = [stack.enter_context(hub.watch(f"t{n:02}", "a")) for n in range(20)]
        await asyncio.gather(*(watch.changed() for watch in watches))
        with waiting(*watches):
            yield


async def test_slow_tenant_delays_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not delay others when it opens its watches again, either."""
    source = Source()
    hub = source.hub(0.02)

    async def take_long_for_one() -> None:
        if "slow" in source.tenants[-1]:
            await asyncio.sleep(0.2)

    def searched() -> bool:
        alone = source.tenants.count(["slow"])
        return alone > 0 and sum(len(tenants) == 20 for tenants in source.tenants) >= 5

    source.during_fetch = take_long_for_one
    async with twenty_tenants(hub, monkeypatch):
        for _ in range(2):
            async with started(hub, "b", tenant="slow") as (slow,):
                with waiting(slow):
                    await wait_until_true(lambda: source.fetches[-2:] == [["a"] * 20] * 2)
                    source.tenants.clear()
                    await wait_until_true(searched)
                    assert all(len({*tenants}) in (1, 20) for tenants in source.tenants)


async def test_tenants_share_statements_if_all_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_group, "_SLOW_PART", 0.25)
    source = Source()

    async def take_long() -> None:
        await asyncio.sleep(0.01 * len(source.tenants[-1]))

    source.during_fetch = take_long
    async with twenty_tenants(source.hub(0.02), monkeypatch):
        await asyncio.sleep(1.0)

        await wait_until_true(lambda: source.fetches[-1] == ["a"] * 20)
