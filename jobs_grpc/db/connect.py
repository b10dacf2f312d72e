"""Connects to one of several hosts. One that does not respond delays the others for a second."""

import asyncio
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

CONNECT_TIMEOUT = 5.0
_NEXT_HOST_SECONDS = 1.0

SERVER = "SELECT pg_catalog.pg_postmaster_start_time()::text"
"""Returns another text after a restart and on another server, whatever its address is."""

# The host of each URL that a connection was opened to last: the next attempt begins there.
_last_hosts: dict[str, str] = {}


async def connect(
    url: str,
    *,
    timeout: float = CONNECT_TIMEOUT,  # noqa: ASYNC109 - of asyncpg
    **options: Any,
) -> asyncpg.Connection:
    """Connect to a host of `url` that `target_session_attrs` accepts. `options` are asyncpg's.

    asyncpg itself waits for a host until the timeout, so it never tries those after one that does
    not respond. Here the next one is tried after a second; those that refused are tried again.
    Raises what asyncpg raises if no host accepts, and TimeoutError.
    """
    hosts = split_hosts(url)
    if len(hosts) == 1:
        return await asyncpg.connect(url, timeout=timeout, **options)
    hosts.sort(key=lambda host: host != _last_hosts.get(url))
    running: dict[asyncio.Task[asyncpg.Connection], str] = {}
    refused: list[str] = []
    errors: list[Exception] = []

    def start(host: str) -> None:
        attempt = asyncpg.connect(host, timeout=timeout, **options)
        running[asyncio.ensure_future(attempt)] = host

    try:
        async with asyncio.timeout(timeout):
            start(hosts.pop(0))
            while running:
                done, _ = await asyncio.wait(
                    running, timeout=_NEXT_HOST_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    if (error := attempt.exception()) is None:
                        _last_hosts[url] = running.pop(attempt)
                        return attempt.result()
                    if not isinstance(error, Exception):
                        raise error
                    refused.append(running.pop(attempt))
                    errors.append(error)
                if hosts:
                    start(hosts.pop(0))
                elif refused and not done:
                    start(refused.pop(0))
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_terminate)
    raise max(errors, key=_rank)


def abort(connection: Any) -> None:
    """End a connection at once, as the loss of the network does: its statement fails.

    `terminate` is for those without a statement: one that is about to be sent would fail with an
    AttributeError.
    """
    connection._transport.abort()


def split_hosts(url: str) -> list[str]:
    """Return a URL for each host of `url`."""
    parts = urlsplit(url)
    login, at, netloc = parts.netloc.rpartition("@")
    query = parse_qsl(parts.query, keep_blank_values=True)
    values = dict(query)
    hosts = (netloc or values.get("host", "")).split(",")
    if len(hosts) == 1:
        return [url]
    ports = values.get("port", "").split(",")
    if netloc:
        return [urlunsplit(parts._replace(netloc=f"{login}{at}{host}")) for host in hosts]
    others = [pair for pair in query if pair[0] not in ("host", "port")]
    start = url.partition("?")[0]
    if len(ports) == 1:
        ports *= len(hosts)
    return [
        f"{start}?{urlencode([*others, ('host', host), *[('port', port)] * bool(port)])}"
        for host, port in zip(hosts, ports, strict=True)
    ]


def _rank(error: Exception) -> int:
    """Rank what a server says above a lost connection, and that above a server of another kind."""
    return 2 * isinstance(error, asyncpg.PostgresError) + isinstance(error, (OSError, TimeoutError))


def _terminate(attempt: asyncio.Task[asyncpg.Connection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().terminate()
