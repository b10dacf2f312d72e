"""The gRPC server: options, port and health service."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import grpc
from grpc.aio import Server, ServerInterceptor
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from jobs_grpc.server.acceptors import Acceptors
from jobs_grpc.server.sockets import CannotListen, can_be_shared, check_is_free, is_path, reserved

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

# Of a process, on one port.
_ACCEPTORS = 4


def make_server(
    interceptors: Sequence[ServerInterceptor], max_request_bytes: int, address: str
) -> Server:
    """A server without services, which is to listen on `address`.

    A request of up to twice `max_request_bytes` is left for the chain to refuse, since what
    gRPC refuses by itself gets neither a reason nor a line in the log.
    """
    shared = can_be_shared(address)
    options = (
        *OPTIONS,
        ("grpc.max_receive_message_length", 2 * max_request_bytes),
        ("grpc.so_reuseport", int(shared)),
    )
    servers = [
        grpc.aio.server(interceptors=interceptors, options=options)
        for _ in range(_ACCEPTORS if shared else 1)
    ]
    return cast("Server", Acceptors(servers))


@contextmanager
def listening(
    server: Server,
    address: str,
    make_credentials: Callable[[], grpc.ServerCredentials] | None,
    *,
    reserve: bool,
) -> Iterator[str]:
    """Bind `address`, and answer it with the port that was assigned.

    With `reserve`, if it can be shared, keep others off it for the time of the block: else a
    second service there would be no error, but a silent partner. Raises CannotListen.
    """
    if is_path(address):
        check_is_free(address)
    reserve = reserve and can_be_shared(address)
    with reserved(address) if reserve else nullcontext(address) as at:
        try:
            if make_credentials:
                made_by: Any = make_credentials  # as Acceptors takes them
                port = server.add_secure_port(at, made_by)
            else:
                port = server.add_insecure_port(at)
        except RuntimeError:
            raise CannotListen(address) from None
        yield at if is_path(at) else f"{at.rpartition(':')[0]}:{port}"


def add_health(server: Server, servicer: health_aio.HealthServicer) -> None:
    """Serve grpc.health.v1."""
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
