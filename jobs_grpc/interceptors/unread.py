"""Calls enter the chain with their headers."""

import grpc
from grpc.aio import ServerInterceptor

from jobs_grpc.interceptors.around import Continuation, MaybeHandler, behaviour_of


class Unread(ServerInterceptor):
    """Lets the chain run before a call's message has come; Messages reads it.

    Of a call with one message gRPC would read that first, from anybody, and count nothing
    until it is complete.
    """

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Make a handler that gRPC takes for one of a stream of messages."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(behaviour_of(handler), None, handler.response_serializer)
