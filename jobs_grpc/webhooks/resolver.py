"""Resolves host names in separate threads.

The executor of the event loop has few threads, and hosts whose name servers do not answer would
keep all of them busy. The exit of the process would also wait for them.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from jobs_grpc.limits.fair_semaphore import FairSemaphore

# Further addresses of a host are not tried.
_MAX_ADDRESSES = 8

tenant_of_lookup: ContextVar[str] = ContextVar("tenant_of_lookup")
"""The tenant whose delivery needs the lookup. aiohttp passes the context on to the resolver."""


class ThreadResolver(AbstractResolver):
    """Calls getaddrinfo, at most `max_lookups` times at once; further lookups wait.

    A tenant must leave as many lookups free as it has, so hosts of one tenant whose name servers
    do not answer take half of them. A canceled lookup counts until getaddrinfo returns.
    """

    def __init__(self, max_lookups: int) -> None:
        self._slots = FairSemaphore(max_lookups, reserve=lambda held: held)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError."""
        tenant_id = tenant_of_lookup.get()
        await self._slots.take(tenant_id)
        infos = await _in_thread(
            lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM),
            lambda: self._slots.release(tenant_id),
        )
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in infos[:_MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """Do nothing: lookups that still run end with the process."""


def _in_thread(function: Callable[[], Any], on_end: Callable[[], None]) -> "asyncio.Future[Any]":
    """Run a function in a daemon thread; `on_end` is called in the event loop."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def finish(result: Any, error: BaseException | None) -> None:
        on_end()
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = function()
        except Exception as e:
            error = e
        with suppress(RuntimeError):  # The event loop is closed.
            loop.call_soon_threadsafe(finish, result, error)

    try:
        threading.Thread(target=run, name="webhook-resolver", daemon=True).start()
    except RuntimeError:  # The process has too many threads.
        on_end()
        raise
    return future
