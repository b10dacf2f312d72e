"""A stream may outlive the token that it was opened with, or its key; here it does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any

from jobs_grpc.auth.principal import Principal, find_principal
from jobs_grpc.errors import InvalidToken
from jobs_grpc.rpc.interceptor import Context, Handler, Interceptor, like, remake

_EXPIRED = "has expired"


class TokenExpiry(Interceptor):
    """Ends streams when their caller's token expires, or its key is withdrawn.

    Calls with one answer are let finish.
    """

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Wrap handlers that answer with a stream."""
        if not handler.response_streaming:
            return handler
        behaviour: Any = handler.unary_stream or handler.stream_stream

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with aclosing(behaviour(request, context)) as responses:
                # Each on its own: at a yield, it is gRPC that this task is busy with.
                while True:
                    async with _while_token_lasts():
                        response = await anext(responses, None)
                    if response is None:
                        return
                    yield response

        async def answer(request: Any, context: Context) -> None:
            async with _while_token_lasts():
                await behaviour(request, context)

        return remake(handler, like(behaviour, answer, stream), handler.request_deserializer)


@asynccontextmanager
async def _while_token_lasts() -> AsyncIterator[None]:
    caller = find_principal()
    if caller is None or caller.expires_at is None:
        yield
        return
    if problem := _problem(caller):
        raise InvalidToken(problem)
    limit = asyncio.timeout(caller.expires_at - time.time())

    def end_now() -> None:
        # One that has run out is ending already, and can't be moved.
        if not limit.expired():
            limit.reschedule(0)

    try:
        async with limit:
            with caller.revocation.subscribe(end_now) if caller.revocation else nullcontext():
                yield
    except TimeoutError:
        if limit.expired():
            raise InvalidToken(_problem(caller) or _EXPIRED) from None
        raise


def _problem(caller: Principal) -> str | None:
    if caller.revoked:
        return "is signed with a key that was withdrawn"
    return _EXPIRED if caller.expired else None
