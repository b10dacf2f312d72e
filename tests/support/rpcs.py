"""Every RPC of the server, as reflection lists them, and requests for them made of descriptors.

What a test asks of all RPCs it asks of the next one, too.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from tests.support.failures import Failure
from tests.support.waiting import TIMEOUT

STRUCT = "google.protobuf.Struct"

_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True)
class CallResult:
    """What a call came to: its answers, or how it failed."""

    code: grpc.StatusCode
    messages: Sequence[Message]
    failure: Failure

    def __str__(self) -> str:
        """All that the caller is told."""
        failed = self.failure
        details = (failed.message, failed.reason, failed.metadata, failed.violations)
        return f"{self.code} {' '.join(map(str, self.messages))} {details} {failed.current}"


@dataclass(frozen=True)
class Rpc:
    """A method of a service."""

    method: MethodDescriptor

    @property
    def path(self) -> str:
        """As in HTTP: "/package.Service/Method"."""
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    def new_request(self) -> Message:
        """An empty request."""
        return GetMessageClass(self.method.input_type)()

    async def call(
        self, channel: grpc.aio.Channel, request: Message | bytes, /, **metadata: str
    ) -> CallResult:
        """Send one request and read what comes: of a stream that has no end, the first answer.

        Metadata as keywords: tenant="t" is x-tenant-id. The caller has all roles.
        """
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        stated = [
            ("x-roles", "admin,bridge,device"),
            *((f"x-{k}-id", v) for k, v in metadata.items()),
        ]
        call = self._start(channel, raw, stated)
        failure, messages = Failure(grpc.StatusCode.OK), []
        answer_type = GetMessageClass(self.method.output_type)
        try:
            async with asyncio.timeout(TIMEOUT):
                async for answer in _answers(call):
                    messages.append(answer_type.FromString(answer))
                    if self.method.server_streaming and not self.method.client_streaming:
                        break
        except grpc.aio.AioRpcError as e:
            failure.code = e.code()
            failure.read(e)
        finally:
            call.cancel()
        return CallResult(failure.code, messages, failure)

    def _start(
        self, channel: grpc.aio.Channel, raw: bytes, metadata: Sequence[tuple[str, str]]
    ) -> Any:
        kinds = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, True): channel.stream_stream,
        }
        make: Any = kinds[self.method.client_streaming, self.method.server_streaming](self.path)
        return make([raw] if self.method.client_streaming else raw, metadata=metadata)


async def _answers(call: Any) -> AsyncIterator[bytes]:
    if hasattr(call, "__aiter__"):
        async for answer in call:
            yield answer
    else:
        yield await call


async def list_rpcs(channel: grpc.aio.Channel) -> list[Rpc]:
    """All RPCs of our services."""
    call: Any = channel.stream_stream(
        _REFLECTION,
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    [response] = [a async for a in call(iter([ServerReflectionRequest(list_services="")]))]
    pool = descriptor_pool.Default()
    services = [
        pool.FindServiceByName(service.name)
        for service in response.list_services_response.service
        if service.name.startswith("fleet.")
    ]
    return [Rpc(method) for service in services for method in service.methods]


def sample_requests(rpc: Rpc, values: Mapping[str, str]) -> Iterator[Message]:
    """Requests with a value in every field that ends in one of the names.

    One for each member of a oneof, and each once without and once with its statuses and flags.
    """
    for choice in range(max(_choices(rpc.new_request()))):
        for decided in (False, True):
            request = rpc.new_request()
            _fill(request, values, choice, decided)
            yield request


def _choices(message: Message) -> Iterator[int]:
    yield 1
    for oneof in message.DESCRIPTOR.oneofs:
        if not _is_synthetic(oneof):
            yield len(oneof.fields)


def _fill(message: Message, values: Mapping[str, str], choice: int, decided: bool) -> None:
    fields: Any = message.DESCRIPTOR.fields
    for field in fields:
        oneof = field.containing_oneof
        chosen = oneof is not None and not _is_synthetic(oneof)
        if chosen and oneof.fields[choice % len(oneof.fields)] is not field:
            continue
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            name = next((n for n in values if field.name.endswith(n)), None)
            if name is not None:
                setattr(message, field.name, values[name])
        elif field.type == FieldDescriptor.TYPE_BOOL and (decided or chosen):
            setattr(message, field.name, True)
        elif field.type == FieldDescriptor.TYPE_ENUM and decided:
            last = field.enum_type.values[-1].number
            if field.is_repeated:
                getattr(message, field.name).append(last)
            else:
                setattr(message, field.name, last)
        elif is_contract_message(field):
            _fill(getattr(message, field.name), values, choice, decided)


def is_contract_message(field: Any) -> bool:
    """Whether it holds one message of the contract's own."""
    return (
        field.message_type is not None
        and not field.is_repeated
        and field.message_type.full_name.startswith("fleet.")
    )


def _is_synthetic(oneof: Any) -> bool:
    """Whether it only stands for an `optional`."""
    return len(oneof.fields) == 1 and oneof.name == f"_{oneof.fields[0].name}"
