"""What JobsClient, FleetClient and EventsClient share: who calls, and the connection."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

from jobs_grpc.client.calls import Caller, ServiceCalls, TokenSource
from jobs_grpc.client.channel import Connection
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
