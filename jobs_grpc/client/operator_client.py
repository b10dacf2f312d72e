"""Base classes of the clients: caller identity, connection and pagination."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Self

from google.protobuf.message import Message

from jobs_grpc.client.calls import Caller, ServiceCalls, TokenSource
from jobs_grpc.client.channel import Connection
from jobs_grpc.client.pager import Pager
from jobs_grpc.client.requests import build_request
from jobs_grpc.client.retry import RetryPolicy


class Client:
    """Calls one service. Use it with `async with`, in one event loop."""

    _calls: ServiceCalls

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
