"""Runs the interceptors when a call's headers arrive, before its request is read."""

from jobs_grpc.rpc.interceptor import Handler, Interceptor, behavior_of, make_handler


class DeferredRead(Interceptor):
    """Presents methods with one request to gRPC as methods with a stream of requests.

    gRPC reads a single request, from any client and without limits, before it calls an
    interceptor. It leaves a request stream to the handler; RequestReader reads the request.
    """

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Turn a unary request into a stream of bytes."""
        if handler.request_streaming:
            return handler
        return make_handler(
            behavior_of(handler),
            None,
            handler.response_serializer,
            request_streaming=True,
            response_streaming=handler.response_streaming,
        )
