"""The gRPC server: its options, its port, its infrastructure services."""

from collections.abc import Sequence

import grpc
from grpc.aio import Server, ServerInterceptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

OPTIONS = (
    # Connections are recycled, so that clients spread over replicas that come and go.
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 5 * 60 * 1000),
    # Dead peers are found out; clients may ping as often, also between calls.
    ("grpc.keepalive_time_ms", 60 * 1000),
    ("grpc.keepalive_timeout_ms", 20 * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10 * 1000),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
)

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class CannotListen(Exception):
    """The address is taken or not ours; the message says which."""


def make_server(
    interceptors: Sequence[ServerInterceptor], max_request_bytes: int, *, shares_port: bool
) -> Server:
    """A server without services or port yet.

    A request of up to twice `max_request_bytes` is left for the chain to refuse, since what
    gRPC refuses by itself gets neither a reason nor a line in the log. Unless it is to share
    its port, a second server there is an error, not a silent partner.
    """
    options = (
        *OPTIONS,
        ("grpc.max_receive_message_length", 2 * max_request_bytes),
        ("grpc.so_reuseport", int(shares_port)),
    )
    return grpc.aio.server(interceptors=interceptors, options=options)


def listen(server: Server, address: str, tls: grpc.ServerCredentials | None = None) -> str:
    """Bind `address` and return it with the port that was assigned."""
    try:
        port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    except RuntimeError:
        raise CannotListen(
            f"can't listen on {address}: it is in use or not an address here"
        ) from None
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def add_health(server: Server, servicer: health_aio.HealthServicer) -> None:
    """Serve grpc.health.v1."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


def add_reflection(server: Server, services: Sequence[str]) -> None:
    """Serve reflection of `services`, as v1 and as v1alpha (the messages are the same)."""
    names = [
        *services,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
        _REFLECTION_V1,
    ]
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_registered_method_handlers(_REFLECTION_V1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": method}),)
    )
