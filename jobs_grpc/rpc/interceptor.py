"""The shapes of interceptors: something before a call, or around it."""

import abc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any, TypeAlias

import grpc
from grpc.aio import ServerInterceptor, ServicerContext

Context = ServicerContext[Any, Any]
# Quoted: generic for type checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[MaybeHandler]]"


class Interceptor(ServerInterceptor, abc.ABC):
    """One that makes a handler out of the one within, depending on the method only."""

    @abc.abstractmethod
    def wrapped(self, method: str, handler: Handler) -> Handler:
        """The handler of `method` ("/package.Service/Method") as it is from here on outwards."""

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> MaybeHandler:
        """Wrap the handler; None means that nobody serves the method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self.wrapped(str(handler_call_details.method), handler)


class Before(Interceptor, abc.ABC):
    """An interceptor that has its say before each call, of whatever kind."""

    @abc.abstractmethod
    async def before(self, method: str, context: Context) -> None:
        """Awaited before the handler of `method` runs; what it raises refuses the call."""

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Put it in front."""
        behaviour = behaviour_of(handler)

        async def answer(request: Any, context: Context) -> Any:
            await self.before(method, context)
            return await behaviour(request, context)

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            await self.before(method, context)
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        return remake(handler, like(behaviour, answer, stream), handler.request_deserializer)


class Around(Interceptor, abc.ABC):
    """An interceptor that is a context manager around each call, of whatever kind."""

    @abc.abstractmethod
    def around(self, method: str, context: Context) -> AbstractContextManager[None]:
        """Entered before the handler of `method` runs, left after it."""

    def wrapped(self, method: str, handler: Handler) -> Handler:
        """Put the context manager around it."""
        return wrap(handler, lambda context: self.around(method, context))


def wrap(handler: Handler, around: Callable[[Context], AbstractContextManager[None]]) -> Handler:
    """The handler inside of a context manager, entered for each call."""
    behaviour = behaviour_of(handler)

    async def answer(request: Any, context: Context) -> Any:
        with around(context):
            return await behaviour(request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        # Closed here, also when the call is cut off: else its cleanup comes any time later.
        with around(context):
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return remake(handler, like(behaviour, answer, stream), handler.request_deserializer)


def like(behaviour: Any, answer: Any, stream: Any) -> Any:
    """Of two functions the one that answers as `behaviour` does: once, or by yielding."""
    return stream if inspect.isasyncgenfunction(behaviour) else answer


def behaviour_of(handler: Handler) -> Any:
    """The function that serves a call, of whatever kind."""
    return (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )


def remake(
    handler: Handler,
    behaviour: Any,
    request_deserializer: Any,
    *,
    request_streaming: bool | None = None,
) -> Handler:
    """A handler of the same kind, unless its requests are to be another, with another behaviour."""
    if request_streaming is None:
        request_streaming = handler.request_streaming
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[request_streaming, handler.response_streaming]
    made: Handler = make(behaviour, request_deserializer, handler.response_serializer)
    return made
