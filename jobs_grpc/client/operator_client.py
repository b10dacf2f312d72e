"""Base classes of the clients: caller identity, connection and pagination."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Self, TypeVar

from google.protobuf.message import Message

from jobs_grpc.client.calls import Caller, ServiceCalls, TokenSource
from jobs_grpc.client.channel import Connection
from jobs_grpc.client.requests import build_request
from jobs_grpc.client.retry import RetryPolicy

T = TypeVar("T")


class Pager(Generic[T]):
    """Iterates over the items of a list with `async for`. Reads a page when it is needed."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Any]],
        request: Any,
        field: str,
        page_size: int,
        page_token: str = "",
        limit: int | None = None,
    ) -> None:
        """Read pages with `read`, which sends `request`; its response has the items in `field`."""
        self._read = read
        self._request = request
        self._field = field
        self._page_size = page_size
        self._limit = limit
        self._items = self._iterate()
        self.next_page_token = page_token
        """The token of the page after the last one that was read; empty if there is none. Pass it
        to another list with the same filters to continue after the items of this one."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def _iterate(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page:
                yield item

    async def pages(self) -> AsyncIterator[list[T]]:
        """Yield the items of each page. Pages can have fewer items than `page_size`."""
        left = self._limit
        while left is None or left > 0:
            size = self._page_size if left is None else min(self._page_size, left)
            self._request.limit, self._request.page_token = size, self.next_page_token
            response = await self._read()
            self.next_page_token = response.next_page_token
            page = list(getattr(response, self._field))
            yield page
            if not self.next_page_token:
                return
            if left is not None:
                left -= len(page)


class Client:
    """Calls one service. Use it with `async with`, in one event loop."""

    _stub: ClassVar[Callable[..., Any]]
    """The stub of the service."""

    def __init__(
        self,
        server: str | Connection,
        *,
        tenant: str | None = None,
        user: str | None = None,
        device_id: str | None = None,
        roles: Sequence[str] = (),
        token: TokenSource | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    ) -> None:
        """Call `server`: HOST:PORT, unix:PATH, or a Connection for TLS or several channels.

        `timeout` is in seconds, for each unary call with its retries. `token` is called before
        each try.
        """
        caller = Caller(tenant, user, device_id, roles, token)
        self._calls = ServiceCalls(server, self._stub, caller, timeout=timeout, retry=retry)

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._calls.__aexit__(*exception)


class OperatorClient(Client):
    """Calls one service for one tenant. Use it with `async with`, in one event loop.

    Parameters that have the name of a field in the contract have its meaning, limits and default.
    Every call raises JobsError. A call that is safe to repeat is tried again after a transient
    error; other calls only if the server refused them because of a limit. Lists take the parameters
    of Page.
    """

    def _pager(
        self,
        request_type: type[Message],
        response_type: type[Message],
        items: str,
        parameters: Mapping[str, Any],
        page_size: int = 100,
    ) -> Pager[Any]:
        """Return a Pager over `items`, a field of the response.

        `parameters` are the locals() of a method, with a Page. `page_size` is the default.
        """
        request = build_request(request_type, parameters)
        read = partial(self._calls.unary, request, response_type)
        page: dict[str, Any] = {"page_size": page_size, **parameters["page"]}
        return Pager(read, request, items, **page)
