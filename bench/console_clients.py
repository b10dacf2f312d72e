"""Record the requests of an open page of the console, and repeat them from many clients."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import httpx
from playwright.async_api import Browser, Request

from bench.run import InvalidRun
from tests.console.browser import open_console


@dataclass(frozen=True)
class Sent:
    """A GET request of a page."""

    at: float
    """Seconds since the start of the recording; 0 for a stream, which was open before."""
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Recording:
    """The requests of one page within some seconds."""

    seconds: float
    streams: Sequence[Sent]
    requests: Sequence[Sent]

    def counts(self) -> Counter[str]:
        """Return the number of requests by path without IDs; a parameter's value is left out."""
        return Counter(re.sub(r"(?<=/jobs/)[^/?:]+", "…", sent.path) for sent in self.requests)

    def with_path(self, old: str, new: str) -> "Recording":
        """Return the recording of another page, in whose paths `new` replaces `old`."""
        streams, requests = (
            [replace(sent, path=sent.path.replace(old, new)) for sent in some]
            for some in (self.streams, self.requests)
        )
        return Recording(self.seconds, streams, requests)


async def record(
    browser: Browser, url: str, tenant: str, path: str, settle: float, seconds: float
) -> Recording:
    """Open a page, wait, and record what it requests then, with the streams that are open."""
    seen: list[tuple[float, Request]] = []
    ended: set[Request] = set()
    loop = asyncio.get_running_loop()
    async with open_console(browser, url, tenant=tenant) as console:
        console.page.on("request", lambda request: seen.append((loop.time(), request)))
        for event in ("requestfinished", "requestfailed"):
            console.page.on(event, lambda request: ended.add(request))
        await console.open(path)
        await asyncio.sleep(settle)
        started = loop.time()
        await asyncio.sleep(seconds)
        streams = [await _sent(0, request) for _, request in seen if request not in ended]
        requests = [
            await _sent(at - started, request)
            for at, request in seen
            if at >= started and request in ended
        ]
    return Recording(seconds, streams, requests)


async def _sent(at: float, request: Request) -> Sent:
    if request.method != "GET":
        raise InvalidRun(f"a page at rest sends {request.method} {request.url}")
    parts = urlsplit(request.url)
    return Sent(at, f"{parts.path}?{parts.query}".rstrip("?"), await request.all_headers())


@asynccontextmanager
async def replaying(url: str, consoles: Sequence[Recording]) -> AsyncIterator[None]:
    """Repeat the requests of each console until the block ends, each from a random moment on.

    Raises InvalidRun if one fails.
    """
    tasks = [asyncio.create_task(_replay(url, recording)) for recording in consoles]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise InvalidRun(f"a client has failed: {result!r}") from result


async def _replay(url: str, recording: Recording) -> None:
    async with (
        httpx.AsyncClient(base_url=url, verify=False) as http,  # noqa: S501 - plain HTTP
        asyncio.TaskGroup() as group,
    ):
        for sent in recording.streams:
            group.create_task(_read_stream(http, sent))
        loop = asyncio.get_running_loop()
        start = loop.time() - random.uniform(0, recording.seconds)  # noqa: S311
        while True:
            for sent in recording.requests:
                delay = start + sent.at - loop.time()
                if delay >= 0:
                    await asyncio.sleep(delay)
                    response = await http.get(sent.path, headers=sent.headers)
                    response.raise_for_status()
            start += recording.seconds
            await asyncio.sleep(max(0, start - loop.time()))


async def _read_stream(http: httpx.AsyncClient, sent: Sent) -> None:
    async with http.stream("GET", sent.path, headers=sent.headers, timeout=None) as response:
        response.raise_for_status()
        async for _ in response.aiter_raw():
            pass
    raise InvalidRun(f"the stream {sent.path} has ended")
