"""The chain is built once a method, not once a call."""

import grpc
from grpc.aio import ServerInterceptor

from jobs_grpc.interceptors.around import Continuation, Handler, MaybeHandler


class Once(ServerInterceptor):
    """Keeps the handlers that the interceptors within have made.

    gRPC asks for a handler at each call, and what they make depends on the method only.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Answer the handler from before. Of methods that nobody serves, nothing is kept."""
        method = str(handler_call_details.method)
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:
                self._handlers[method] = handler
        return handler
