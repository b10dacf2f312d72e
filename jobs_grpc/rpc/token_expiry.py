"""Ends a stream when the token or the certificate of its caller expires or is revoked."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from jobs_grpc.auth.principal import Principal
from jobs_grpc.errors import InvalidCertificate, InvalidToken, JobsError

_EXPIRED = "has expired"

# Shared, because a block of its own would take 1 KiB of each stream.
_NEVER = nullcontext()


def end_when_token_expires(caller: Principal | None) -> AbstractAsyncContextManager[None]:
    """Raise an error in the block as soon as the token or certificate of `caller` is not valid."""
    if caller is None or caller.expires_at is None:
        return _NEVER
    return _end_at(caller, caller.expires_at)


@asynccontextmanager
async def _end_at(caller: Principal, expires_at: float) -> AsyncIterator[None]:
    if error := _error(caller):
        raise error
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
            raise _error(caller) or _expired(caller) from None
        raise


def _error(caller: Principal) -> JobsError | None:
    if caller.revocation and caller.revocation.revoked:
        return caller.revocation.make_error()
    return _expired(caller) if caller.expired else None


def _expired(caller: Principal) -> JobsError:
    return InvalidCertificate(_EXPIRED) if caller.has_certificate else InvalidToken(_EXPIRED)
