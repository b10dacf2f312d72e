"""Calls of one service: metadata, deadlines, retries, and streams that reconnect."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Self, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from jobs_grpc.client.channel import Connection
from jobs_grpc.client.errors import InvalidToken, JobsError, from_rpc_error
from jobs_grpc.client.retry import Delays, RetryPolicy, is_transient, was_refused
from jobs_grpc.config import is_local
from jobs_grpc.contract.methods import METHODS

R = TypeVar("R", bound=Message)

TokenSource: TypeAlias = Callable[[], str | Awaitable[str]]
"""Returns the token for the next call. It is called before each try, so it should cache."""

_ALWAYS_REPEATABLE = {name.rpartition("/")[2] for name, m in METHODS.items() if m.repeatable}

# How gRPC and proxies report that a stream was reset, besides UNAVAILABLE.
_RESET_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. With a token, the server takes tenant, user, device and roles from it."""

    tenant: str | None = None
    user: str | None = None
    device_id: str | None = None
    roles: Sequence[str] = ()
    token: TokenSource | None = field(default=None, repr=False)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        pairs = [
            ("x-tenant-id", self.tenant),
            ("x-user-id", self.user),
            ("x-device-id", self.device_id),
            ("x-roles", ",".join(self.roles)),
        ]
        if self.token:
            token = self.token()
            text = await token if isawaitable(token) else token
            pairs.append(("authorization", f"Bearer {text}"))
        return tuple((key, value) for key, value in pairs if value)


class ServiceCalls:
    """Makes the calls of one service for one caller."""

    def __init__(
        self,
        server: str | Connection,
        stub_type: Callable[[grpc.aio.Channel], Any],
        caller: Caller,
        *,
        timeout: float,
        retry: RetryPolicy,
    ) -> None:
        """Call `server`, an address or a connection that several clients share."""
        self._owns_connection = isinstance(server, str)
        self.connection = Connection(server) if isinstance(server, str) else server
        if caller.token and self.connection.tls is None and not is_local(self.connection.address):
            raise ValueError("a token is only sent over TLS; pass a Connection with tls")
        self._stub_type = stub_type
        self._caller = caller
        self._timeout = timeout
        self.retry = retry
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._owns_connection:
            await self._stack.enter_async_context(self.connection)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def unary(
        self, request: Message, response_type: type[R], *, repeatable: bool = False
    ) -> R:
        """Make the unary call of a request within the timeout. Raises JobsError.

        Retries it after a transient error if it is safe to repeat, and otherwise only if the
        server has refused it. `response_type` is the type of the result.
        """
        method = _method_of(request)
        repeatable = repeatable or method in _ALWAYS_REPEATABLE
        deadline = time.monotonic() + self._timeout
        delays = Delays(self.retry)
        for attempts_left in reversed(range(self.retry.max_attempts)):
            try:
                response = await self._try(method, request, deadline)
            except grpc.aio.AioRpcError as e:
                error = from_rpc_error(e)
            else:
                assert isinstance(response, response_type)  # noqa: S101 - for the type checker
                return response
            delay = delays.after(error)
            may_retry = was_refused(error) or (repeatable and is_transient(error))
            if not (may_retry and attempts_left and time.monotonic() + delay < deadline):
                break
            self.report_retry(error)
            await asyncio.sleep(delay)
        raise error

    async def _try(self, method: str, request: Message, deadline: float) -> Message:
        call = getattr(self.connection.stub(self._stub_type), method)
        metadata = await self._caller.metadata()
        # The time that it took to get a token counts as well.
        timeout = deadline - time.monotonic()
        response: Message = await call(request, metadata=metadata, timeout=timeout)
        return response

    async def open_stream(self, method: str, *request: Message) -> Any:
        """Open a stream. It has no deadline; pings of the connection detect a dead server."""
        call = getattr(self.connection.stub(self._stub_type), method)
        return call(*request, metadata=await self._caller.metadata())

    async def follow(self, request: Message, response_type: type[R]) -> AsyncIterator[R]:
        """Yield the messages of a stream until the server ends it. Reconnects when it breaks.

        Raises JobsError for an error that a reconnect does not solve.
        """
        delays = Delays(self.retry)
        while True:
            received = False
            call = await self.open_stream(_method_of(request), request)
            try:
                async for response in call:
                    received = True
                    delays.reset()
                    yield response
                return
            except grpc.aio.AioRpcError as e:
                error = from_rpc_error(e)
            finally:
                call.cancel()
            await asyncio.sleep(self.reconnect_delay(error, received, delays))

    def reconnect_delay(self, error: JobsError, received: bool, delays: Delays) -> float:
        """Return the seconds until a stream reconnects that has `received`, or raise the error."""
        token_expired = received and self._caller.token and isinstance(error, InvalidToken)
        was_reset = received and not error.reason and error.code in _RESET_CODES
        if not (token_expired or was_reset or is_transient(error)):
            raise error
        self.report_retry(error)
        return delays.before_reconnect(error) if received else delays.after(error)

    def report_retry(self, error: JobsError) -> None:
        """Report an error after which the client tries again."""
        if self.retry.on_retry:
            self.retry.on_retry(error)


def _method_of(request: Message) -> str:
    """Return the name of a method: in the contract, each has a request of its own."""
    return type(request).__name__.removesuffix("Request")
