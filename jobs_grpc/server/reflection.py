"""gRPC server reflection, versions v1 and v1alpha, with the comments of the contract."""

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import grpc
from buf.validate import validate_pb2
from fleet.jobs.v1 import error_reason_pb2
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from jobs_grpc.contract.methods import SERVICES
from jobs_grpc.rpc.method_table import MethodTable

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

# What callers may see. Clients decode the details of errors, which are messages of google.rpc.
_SERVED = (
    *(service.file for service in SERVICES),
    error_reason_pb2.DESCRIPTOR,
    error_details_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)


def add_reflection(methods: MethodTable, services: Sequence[str]) -> None:
    """Serve reflection of `services`. v1 and v1alpha have the same messages."""
    names = [
        *services,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
        _REFLECTION_V1,
    ]
    servicer = reflection.aio.ReflectionServicer(names, pool=_reflection_pool())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, methods)  # type: ignore[no-untyped-call]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods.add_registered_method_handlers(_REFLECTION_V1, {"ServerReflectionInfo": method})


class _File:
    """A file with its comments, which a FileDescriptor does not keep.

    Implements the part of FileDescriptor that the servicer uses.
    """

    def __init__(self, proto: FileDescriptorProto, dependencies: "list[_File]") -> None:
        self.name = proto.name
        self.dependencies = dependencies
        self.proto = proto

    def CopyToProto(self, proto: FileDescriptorProto) -> None:
        """Copy the whole file."""
        proto.CopyFrom(self.proto)


class _ReflectionPool:
    """The served files. Implements the part of DescriptorPool that the servicer uses."""

    def __init__(self) -> None:
        self._pool = DescriptorPool()
        self._files: dict[str, _File] = {}
        # The names of each file and of all that it imports.
        self._imports: dict[str, set[str]] = {}
        commented = _contract_with_comments()
        for descriptor in _SERVED:
            for proto in _with_imports(descriptor):
                self._add(commented.get(proto.name, proto))
        self._add(_reflection_v1())

    def _add(self, proto: FileDescriptorProto) -> None:
        if proto.name not in self._files:
            self._pool.Add(proto)
            # The servicer sends a file and then these: each before those that it imports itself.
            imports = {name for each in proto.dependency for name in self._imports[each]}
            self._imports[proto.name] = {proto.name, *imports}
            dependencies = [self._files[name] for name in reversed(self._files) if name in imports]
            self._files[proto.name] = _File(proto, [_File(file.proto, []) for file in dependencies])

    def FindFileByName(self, name: str) -> _File:
        """Return a file. Raises KeyError."""
        return self._files[name]

    def FindFileContainingSymbol(self, symbol: str) -> _File:
        """Return the file that defines a symbol. Raises KeyError.

        The search of the pool itself finds no methods, which grpcurl, grpcui and ghz ask for.
        """
        try:
            file = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            file = self._pool.FindMethodByName(symbol).containing_service.file
        return self._files[file.name]

    def FindMessageTypeByName(self, name: str) -> Any:
        """Return the descriptor of a message. Raises KeyError."""
        return self._pool.FindMessageTypeByName(name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        """Return the descriptor of an extension. Raises KeyError."""
        return self._pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        """Return the descriptors of the extensions of a message."""
        return self._pool.FindAllExtensions(message)


@cache
def _reflection_pool() -> Any:
    """Return the pool that all servers of this process share, because it is slow to create."""
    return _ReflectionPool()


def _with_imports(descriptor: Any) -> Iterator[FileDescriptorProto]:
    """Yield the file and what it imports, each after its imports."""
    for dependency in descriptor.dependencies:
        yield from _with_imports(dependency)
    proto = FileDescriptorProto()
    descriptor.CopyToProto(proto)
    if descriptor is validate_pb2.DESCRIPTOR:
        # The rules in CEL are six sevenths of the file, and would double a response.
        for message in proto.message_type:
            for field in message.field:
                field.ClearField("options")
    yield proto


def _contract_with_comments() -> dict[str, FileDescriptorProto]:
    """Return the files of the contract by name, with the locations of comments only.

    Those of other elements would double the size of the responses.
    """
    raw = files("fleet.jobs.v1").joinpath("descriptors.binpb").read_bytes()
    contract = {file.name: file for file in FileDescriptorSet.FromString(raw).file}
    for file in contract.values():
        locations = [
            location
            for location in file.source_code_info.location
            if location.leading_comments or location.trailing_comments
        ]
        del file.source_code_info.location[:]
        file.source_code_info.location.extend(locations)
        for message in file.message_type:
            _clear_json_names(message)
    return contract


def _clear_json_names(message: DescriptorProto) -> None:
    """Let clients that print JSON, such as grpcurl, use the names of the contract."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _clear_json_names(nested)


def _reflection_v1() -> FileDescriptorProto:
    """Return the file of v1: a renamed copy of v1alpha, because only v1alpha has generated code."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())
