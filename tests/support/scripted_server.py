"""A gRPC server with scripted responses, for cases that the real service never produces."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from fleet.jobs.v1 import device_jobs_pb2, events_pb2, fleet_pb2, jobs_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

_SERVICES: dict[str, Any] = {
    name: service
    for module in (jobs_pb2, fleet_pb2, events_pb2, device_jobs_pb2)
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
METHODS = {name: m for s in _SERVICES.values() for name, m in s.methods_by_name.items()}
"""The methods of all services, by name."""


@dataclass(frozen=True)
class Refusal:
    code: grpc.StatusCode
    reason: str = ""
    retry_after: int | None = None


Answer: TypeAlias = Message | Refusal


@dataclass
class ScriptedServer:
    """Answers each call with the next entry of `answers` of its method; the last one stays.

    A stream gets the entries up to an error or the last one.
    """

    answers: dict[str, list[Answer]]
    address: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, as a generic handler of gRPC does."""
        name = handler_call_details.method.rpartition("/")[2]
        method = METHODS[name]

        async def next_answer(context: Any) -> Message:
            answers = self.answers[name]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Refusal):
                await context.abort_with_status(rpc_status.to_status(_status(answer)))
            return answer  # type: ignore[return-value]

        def record(request: Any, context: Any) -> None:
            self.calls[name] += 1
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))

        async def answer(request: Any, context: Any) -> Message:
            record(request, context)
            return await next_answer(context)

        async def answer_stream(request: Any, context: Any) -> AsyncIterator[Message]:
            record(request, context)
            while len(self.answers[name]) > 1:
                yield await next_answer(context)
            yield await next_answer(context)

        make_handler: Any = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make_handler(
            answer_stream if method.server_streaming else answer,
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )


def new_response(method: str) -> Message:
    return GetMessageClass(METHODS[method].output_type)()


def _status(refusal: Refusal) -> Status:
    status = Status(code=refusal.code.value[0], message="scripted")
    details: list[Message] = []
    if refusal.reason:
        details.append(ErrorInfo(reason=refusal.reason, domain="jobs-grpc"))
    if refusal.retry_after is not None:
        details.append(RetryInfo(retry_delay=Duration(seconds=refusal.retry_after)))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@asynccontextmanager
async def running_scripted_server(
    **answers: Answer | list[Answer],
) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(
        {name: [a] if not isinstance(a, list) else a for name, a in answers.items()}
    )

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return scripted.service(handler_call_details)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)
