"""gRPC server reflection, versions v1 and v1alpha."""

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from jobs_grpc.rpc.method_table import MethodTable

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(methods: MethodTable, services: Sequence[str]) -> None:
    """Serve reflection of `services`. v1 and v1alpha have the same messages."""
    names = [
        *services,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
        _REFLECTION_V1,
    ]
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, methods)  # type: ignore[no-untyped-call]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods.add_registered_method_handlers(_REFLECTION_V1, {"ServerReflectionInfo": method})
