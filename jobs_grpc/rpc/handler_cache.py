"""What is the same for all calls of a method, or all the way through a call, is made once."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TypeAlias

import grpc
from grpc.aio import ServerInterceptor

from jobs_grpc.rpc.interceptor import Continuation, Handler, MaybeHandler

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

_metadata: ContextVar[Metadata] = ContextVar("metadata", default=())


def call_metadata() -> Metadata:
    """What the client sent with the call that is being served."""
    return _metadata.get()


class HandlerCache(ServerInterceptor):
    """Keeps the handlers that the interceptors within have made, and a call's metadata.

    gRPC asks for a handler at each call, and what they make depends on the method only. The
    metadata is at hand here; a context would make it anew each time it is asked.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Answer the handler from before. Of methods that nobody serves, nothing is kept."""
        _metadata.set(handler_call_details.invocation_metadata)
        method = str(handler_call_details.method)
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:
                self._handlers[method] = handler
        return handler
