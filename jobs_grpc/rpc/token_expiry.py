"""Ends a stream when the token of its caller expires or its verification key is revoked."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import InvalidToken

_EXPIRED = "has expired"
_KEY_REVOKED = "is signed with a key that was revoked"


# Shared, because a block of its own would take 1 KiB of each stream.
_NEVER = nullcontext()


def end_when_token_expires(caller: Principal | None) -> AbstractAsyncContextManager[None]:
    """Raise InvalidToken in the block as soon as the token of `caller` is no longer valid."""
    if caller is None or caller.expires_at is None:
        return _NEVER
    return _end_at(caller, caller.expires_at)


@asynccontextmanager
async def _end_at(caller: Principal, expires_at: float) -> AsyncIterator[None]:
    if problem := _problem(caller):
        raise InvalidToken(problem)
    timeout = asyncio.timeout(expires_at - time.time())

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
