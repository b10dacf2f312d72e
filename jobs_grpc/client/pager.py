"""Lists that are read page by page."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Self, TypeVar

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
