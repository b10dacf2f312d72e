"""What JobsClient, FleetClient and EventsClient share: who calls, and the connection."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from google.protobuf.message import Message

from jobs_grpc.client.calls import Caller, ServiceCalls, TokenSource
from jobs_grpc.client.channel import Connection
from jobs_grpc.client.pager import Pager
from jobs_grpc.client.requests import build_request
from jobs_grpc.client.retry import RetryPolicy


class OperatorClient:
    """Calls one service for one tenant. Use it with `async with`, in one event loop."""

    _stub: ClassVar[Callable[..., Any]]
    """The stub of the service."""

    def __init__(
        self,
        server: str | Connection,
        *,
        tenant: str | None = None,
        user: str | None = None,
        roles: Sequence[str] = (),
        token: TokenSource | None = None,
        timeout: float = 30.0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
    ) -> None:
        """Call `server`: HOST:PORT, unix:PATH, or a Connection for TLS or several channels.

        `timeout` is in seconds, for each unary call with its retries. `token` is called before
        each try.
        """
        caller = Caller(tenant=tenant, user=user, roles=roles, token=token)
        self._calls = ServiceCalls(server, self._stub, caller, timeout=timeout, retry=retry)

    async def __aenter__(self) -> Self:
        await self._calls.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._calls.__aexit__(*exception)

    def _pager(
        self,
        request_type: type[Message],
        response_type: type[Message],
        items: str,
        parameters: Mapping[str, Any],
    ) -> Pager[Any]:
        """Return a Pager over `items`, a field of the response.

        `parameters` are the locals() of a method with `page_size`, `page_token` and `limit`.
        """
        request = build_request(request_type, parameters)
        page = (parameters[name] for name in ("page_size", "page_token", "limit"))
        return Pager(partial(self._calls.unary, request, response_type), request, items, *page)
