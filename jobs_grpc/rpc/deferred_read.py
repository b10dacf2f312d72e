"""Calls enter the chain with their headers."""

from jobs_grpc.rpc.interceptor import Handler, Interceptor, behaviour_of, remake


class DeferredRead(Interceptor):
    """Lets the chain run before a call's message has come; RequestReader reads it.

    Of a call with one message gRPC would read that first, from anybody, and count nothing
    until it is complete.
    """

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Make a handler that gRPC takes for one of a stream of messages."""
        if handler.request_streaming:
            return handler
        return remake(handler, behaviour_of(handler), None, request_streaming=True)
