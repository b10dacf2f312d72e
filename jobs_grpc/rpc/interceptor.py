"""Base classes of the interceptors: code that runs before or around a method's handler."""

import abc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any, TypeAlias

import grpc
from grpc.aio import ServerInterceptor, ServicerContext

Context = ServicerContext[Any, Any]
# Quoted because these classes are generic in the type stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
OptionalHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[OptionalHandler]]"


class Interceptor(ServerInterceptor, abc.ABC):
    """Wraps the handler of a method. The result depends on the method only, not on the call."""

    @abc.abstractmethod
    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Return the handler to use for `method` ("/package.Service/Method")."""

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> OptionalHandler:
        """Wrap the handler of the next interceptor; None if there is no such method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        return self.wrap_handler(str(handler_call_details.method), handler)


class BeforeCallInterceptor(Interceptor, abc.ABC):
    """Runs before_call before each call, unary or streaming."""

    @abc.abstractmethod
    async def before_call(self, method: str, context: Context) -> None:
        """Raise a JobsError to reject the call."""

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Await before_call, then call the handler."""
        behavior = behavior_of(handler)

        async def respond(request: Any, context: Context) -> Any:
            await self.before_call(method, context)
            return await behavior(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            await self.before_call(method, context)
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

        return replace_behavior(handler, respond, stream)


class AroundCallInterceptor(Interceptor, abc.ABC):
    """Runs each call, unary or streaming, inside a context manager."""

    @abc.abstractmethod
    def around_call(self, method: str, context: Context) -> AbstractContextManager[None]:
        """Return the context manager for one call."""

    def wrap_handler(self, method: str, handler: Handler) -> Handler:
        """Call the handler inside the context manager."""
        return run_inside(handler, lambda context: self.around_call(method, context))


def run_inside(
    handler: Handler, make_context_manager: Callable[[Context], AbstractContextManager[None]]
) -> Handler:
    """A handler that runs each call inside a new context manager."""
    behavior = behavior_of(handler)

    async def respond(request: Any, context: Context) -> Any:
        with make_context_manager(context):
            return await behavior(request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        with make_context_manager(context):
            # Without aclosing, the cleanup of a canceled stream would run at an arbitrary time.
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

    return replace_behavior(handler, respond, stream)


def behavior_of(handler: Handler) -> Any:
    """The function that serves the calls of a handler of any kind."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def replace_behavior(
    handler: Handler, respond: Any, stream: Any, *, raw_requests: bool = False
) -> Handler:
    """A copy of a handler with another behavior.

    If the handler's behavior is an async generator, the new one is `stream`, and otherwise it is
    the coroutine function `respond`. With `raw_requests`, it gets requests as bytes.
    """
    return make_handler(
        stream if inspect.isasyncgenfunction(behavior_of(handler)) else respond,
        None if raw_requests else handler.request_deserializer,
        handler.response_serializer,
        request_streaming=handler.request_streaming,
        response_streaming=handler.response_streaming,
    )


def make_handler(
    behavior: Any,
    request_deserializer: Any,
    response_serializer: Any,
    *,
    request_streaming: bool,
    response_streaming: bool,
) -> Handler:
    """A handler of any kind. Without a deserializer, it gets requests as bytes."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[request_streaming, response_streaming]
    handler: Handler = make(behavior, request_deserializer, response_serializer)
    return handler
