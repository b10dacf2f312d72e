"""Caches wrapped handlers, and provides the metadata of the current call."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import TypeAlias

import grpc
from grpc.aio import ServerInterceptor

from jobs_grpc.rpc.interceptor import Continuation, Handler, OptionalHandler

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

_metadata: ContextVar[Metadata] = ContextVar("metadata", default=())


def call_metadata() -> Metadata:
    """The client's metadata of the current call."""
    return _metadata.get()


class HandlerCache(ServerInterceptor):
    """Caches the handler that the other interceptors make for a method.

    gRPC runs all interceptors for each call, but the handler depends on the method only. The
    metadata is stored here because ServicerContext.invocation_metadata makes a copy on each call.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> OptionalHandler:
        """Return the cached handler. Unknown methods are not cached: clients choose their names."""
        _metadata.set(handler_call_details.invocation_metadata)
        method = str(handler_call_details.method)
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:
                self._handlers[method] = handler
        return handler
