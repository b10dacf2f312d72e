"""Ends streams when the caller's token expires or its verification key is revoked."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any

from jobs_grpc.auth.principal import Principal, find_principal
from jobs_grpc.errors import InvalidToken
from jobs_grpc.rpc.interceptor import (
    Context,
    Handler,
    Interceptor,
    behavior_of,
    replace_behavior,
)

_EXPIRED = "has expired"
_KEY_REVOKED = "is signed with a key that was revoked"


class TokenExpiry(Interceptor):
    """Ends streams with InvalidToken as soon as the token is no longer valid.

    Calls with a single response may outlive the token.
    """

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Wrap handlers that respond with a stream."""
        if not handler.response_streaming:
            return handler
        behavior = behavior_of(handler)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behavior(request, context)) as responses:
                # Leave the timeout at each yield: gRPC then uses this task to send the response.
                while True:
                    async with _while_token_is_valid():
                        response = await anext(responses, None)
                    if response is None:
                        return
                    yield response

        async def respond(request: Any, context: Context) -> None:
            async with _while_token_is_valid():
                await behavior(request, context)

        return replace_behavior(handler, respond, stream)


@asynccontextmanager
async def _while_token_is_valid() -> AsyncIterator[None]:
    """Run the block until the caller's token becomes invalid; then raise InvalidToken."""
    caller = find_principal()
    if caller is None or caller.expires_at is None:
        yield
        return
    if problem := _problem(caller):
        raise InvalidToken(problem)
    timeout = asyncio.timeout(caller.expires_at - time.time())

    def end_now() -> None:
        # An expired timeout is already ending the block and cannot be rescheduled.
        if not timeout.expired():
            timeout.reschedule(0)

    try:
        async with timeout:
            with caller.revocation.subscribe(end_now) if caller.revocation else nullcontext():
                yield
    except TimeoutError:
        if timeout.expired():
            raise InvalidToken(_problem(caller) or _EXPIRED) from None
        raise


def _problem(caller: Principal) -> str | None:
    if caller.revoked:
        return _KEY_REVOKED
    return _EXPIRED if caller.expired else None
