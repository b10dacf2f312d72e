"""Every RPC that the server's reflection lists, and generated requests for each.

A test of all RPCs therefore covers new RPCs without a change.
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
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from tests.support.failures import Failure
from tests.support.waiting import TIMEOUT

STRUCT = "google.protobuf.Struct"
FIELD_MASK = "google.protobuf.FieldMask"

_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True)
class CallResult:
    """The outcome of a call: its responses and its status."""

    code: grpc.StatusCode
    messages: Sequence[Message]
    failure: Failure

    def __str__(self) -> str:
        """Return, as text, everything that the caller receives."""
        failure = self.failure
        details = (failure.message, failure.reason, failure.metadata, failure.violations)
        return f"{self.code} {' '.join(map(str, self.messages))} {details} {failure.current}"


@dataclass(frozen=True)
class Rpc:
    method: MethodDescriptor

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    def new_request(self) -> Message:
        return GetMessageClass(self.method.input_type)()

    async def call(
        self, channel: grpc.aio.Channel, request: Message | bytes, /, **metadata: str
    ) -> CallResult:
        """Send one request and read the responses.

        Only the first response of a server-streaming RPC is read. The caller may call everything.
        Keyword arguments become metadata: tenant="t" is sent as x-tenant-id: t.
        """
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        headers = [
            ("x-roles", "admin,bridge,device"),
            *((f"x-{k}-id", v) for k, v in metadata.items()),
        ]
        call = self._start(channel, raw, headers)
        failure, messages = Failure(grpc.StatusCode.OK), []
        response_type = GetMessageClass(self.method.output_type)
        try:
            async with asyncio.timeout(TIMEOUT):
                async for response in _responses(call):
                    messages.append(response_type.FromString(response))
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


async def _responses(call: Any) -> AsyncIterator[bytes]:
    if hasattr(call, "__aiter__"):
        async for response in call:
            yield response
    else:
        yield await call


async def list_rpcs(channel: grpc.aio.Channel) -> list[Rpc]:
    call: Any = channel.stream_stream(
        _REFLECTION,
        request_serializer=ServerReflectionRequest.SerializeToString,
        response_deserializer=ServerReflectionResponse.FromString,
    )
    [response] = [r async for r in call(iter([ServerReflectionRequest(list_services="")]))]
    pool = descriptor_pool.Default()
    services = [
        pool.FindServiceByName(service.name)
        for service in response.list_services_response.service
        if service.name.startswith("fleet.")
    ]
    return [Rpc(method) for service in services for method in service.methods]


def padded(size: int) -> bytes:
    """Serialize a request of exactly `size` bytes (at least 150).

    It contains job_id twice, first a long padding and then "j"; the last one counts. The job_id is
    the first field of many requests.
    """
    last = b"\x0a\x01j"
    length = size - len(last) - 4
    head = bytes([0x0A, length & 127 | 128, length >> 7 & 127 | 128, length >> 14])
    return head + b"x" * length + last


def sample_requests(rpc: Rpc, values: Mapping[str, str]) -> Iterator[Message]:
    """For each key of `values`, set every string field whose name ends in that key.

    A list gets one element if its name is the plural of a key.

    Two requests are generated for each member of a oneof: one leaves other enum and bool fields
    unset, one sets them.
    """
    for choice in range(max(_choices(rpc.new_request()))):
        for with_flags in (False, True):
            request = rpc.new_request()
            _fill(request, values, choice, with_flags)
            yield request


# For each request with an update_mask, a field that is valid if it is unset.
_MASKED = {
    "UpdateJobRequest": "failure_criteria",
    "UpdateDevicesRequest": "labels",
    "UpdateWebhookRequest": "description",
}


def _choices(message: Message) -> Iterator[int]:
    yield 1
    for oneof in message.DESCRIPTOR.oneofs:
        if not _is_synthetic(oneof):
            yield len(oneof.fields)


def _fill(message: Message, values: Mapping[str, str], choice: int, with_flags: bool) -> None:
    fields: Any = message.DESCRIPTOR.fields
    # Their values are the same, and a job does not replace itself.
    left_out = "job_id" if with_flags else "replaces_job_id"
    replaces = "replaces_job_id" in message.DESCRIPTOR.fields_by_name
    for field in fields:
        if replaces and field.name == left_out:
            continue
        oneof = field.containing_oneof
        chosen = oneof is not None and not _is_synthetic(oneof)
        if chosen and oneof.fields[choice % len(oneof.fields)] is not field:
            continue
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            name = next((n for n in values if field.name.endswith(n)), None)
            if name is not None:
                setattr(message, field.name, values[name])
        elif field.type == FieldDescriptor.TYPE_STRING and field.name[:-1] in values:
            getattr(message, field.name).append(values[field.name[:-1]])
        elif field.type == FieldDescriptor.TYPE_BOOL and (with_flags or chosen):
            setattr(message, field.name, True)
        elif field.type == FieldDescriptor.TYPE_ENUM and with_flags:
            # The last value, or of the statuses of executions, one that devices may report.
            values_by_name = field.enum_type.values_by_name
            last = values_by_name.get("REJECTED", field.enum_type.values[-1]).number
            if field.is_repeated:
                getattr(message, field.name).append(last)
            else:
                setattr(message, field.name, last)
        elif field.message_type is not None and field.message_type.full_name == FIELD_MASK:
            getattr(message, field.name).paths.append(_MASKED[message.DESCRIPTOR.name])
        elif field.full_name == "fleet.jobs.v1.EndedExecution.execution_number":
            setattr(message, field.name, 1)
        elif field.name == "devices" or (
            field.full_name == "fleet.jobs.v1.AcknowledgeExecutionsRequest.executions"
        ):
            _fill(getattr(message, field.name).add(), values, choice, with_flags)
        elif is_contract_message(field):
            _fill(getattr(message, field.name), values, choice, with_flags)


def is_contract_message(field: Any) -> bool:
    """Whether the field holds a single message of the contract."""
    return (
        field.message_type is not None
        and not field.is_repeated
        and field.message_type.full_name.startswith("fleet.")
    )


def _is_synthetic(oneof: Any) -> bool:
    """Whether the oneof only represents an `optional` field."""
    return len(oneof.fields) == 1 and oneof.name == f"_{oneof.fields[0].name}"
