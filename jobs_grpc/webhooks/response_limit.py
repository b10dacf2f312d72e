"""Limits what an endpoint can make the client parse. Importing it needs the extra `webhooks`."""

import functools
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler

_MAX_BYTES = 65536
_MAX_INFORMATIONAL = 16

# asyncio reads up to 256 KiB at a time. Parsed at once, that is up to 14,000 responses.
_PARSE_BYTES = 1024


def limit_responses(connector: aiohttp.BaseConnector) -> None:
    """Make the connector use LimitedResponseHandler; aiohttp has no public option for it."""
    factory = functools.partial(LimitedResponseHandler, loop=connector._loop)
    connector._factory = cast("functools.partial[ResponseHandler]", factory)


class LimitedResponseHandler(ResponseHandler):
    """Parses one response, up to the end of its headers, and drops the rest.

    Aborts the connection after 64 KiB without such a response, or more than 16 responses with a
    status of 1xx.
    """

    _byte_count = 0
    _informational_count = 0
    _is_done = False

    def data_received(self, data: bytes) -> None:
        """Parse data in small parts, so that little of a flood is parsed."""
        if not data:
            super().data_received(data)
        for start in range(0, len(data), _PARSE_BYTES):
            if self._is_done:
                return
            if self._byte_count >= _MAX_BYTES:
                self._refuse()
                return
            part = data[start : start + _PARSE_BYTES]
            self._byte_count += len(part)
            super().data_received(part)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a response from the parser."""
        if self._is_done:
            return
        super().feed_data(data, size)
        message, _ = data
        if not 100 <= message.code < 200:
            self._is_done = True
            return
        self._informational_count += 1
        if self._informational_count > _MAX_INFORMATIONAL:
            self._refuse()

    def close(self) -> None:
        """Close the connection at once: an endpoint that does not read could delay it."""
        self.abort()

    def _refuse(self) -> None:
        self._is_done = True
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(aiohttp.ClientConnectionError("the response is too large"))
