"""Creates the gRPC server and binds it to its address."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, cast

import grpc
from grpc.aio import Server

from jobs_grpc.config import LimitsConfig
from jobs_grpc.limits.memory_limit import receive_bytes
from jobs_grpc.server.listeners import Listeners
from jobs_grpc.server.sockets import (
    ListenError,
    can_share_port,
    check_unix_path_is_free,
    is_unix_path,
    reserve_port,
)

Options: TypeAlias = tuple[tuple[str, int], ...]

OPTIONS: Options = (
    # Connections end after this age, so that clients reconnect and also use new servers.
    ("grpc.max_connection_age_ms", 30 * 60 * 1000),
    ("grpc.max_connection_age_grace_ms", 5 * 60 * 1000),
    ("grpc.max_connection_idle_ms", 10 * 60 * 1000),
    # Calls that wait to be accepted. Beyond the default of 1,000, gRPC rejects calls at random
    # with CANCELLED and no reason; the limits of rpc/ reject them with a reason.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    # What gRPC receives of a stream before the service reads it. Without these, it is what fits the
    # bandwidth-delay product that gRPC measures, and at least 4 MiB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    # The server detects dead peers. Clients may ping as well, also between calls.
    ("grpc.keepalive_time_ms", 60 * 1000),
    ("grpc.keepalive_timeout_ms", 20 * 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10 * 1000),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
)

# Listeners per process. A call waits behind those that its listener has not accepted yet, so more
# listeners mean shorter waits.
_LISTENERS = 16


def make_server(
    methods: grpc.GenericRpcHandler,
    limits: LimitsConfig,
    address: str,
    options: Options = OPTIONS,
) -> Server:
    """Create a server of `methods` that can listen on `address`.

    gRPC itself rejects only requests of more than twice JOBS_MAX_REQUEST_BYTES, because its error
    has no reason and no line in the log. The pipeline rejects requests between the two sizes.
    """
    share_port = can_share_port(address)
    options = (
        *options,
        ("grpc.max_receive_message_length", receive_bytes(limits.max_request_bytes)),
        ("grpc.max_concurrent_streams", limits.max_connection_streams),
        ("grpc.so_reuseport", int(share_port)),
    )
    servers = [
        grpc.aio.server(handlers=[methods], options=options)
        for _ in range(_LISTENERS if share_port else 1)
    ]
    return cast("Server", Listeners(servers))


@contextmanager
def bind(
    server: Server,
    address: str,
    make_credentials: Callable[[], grpc.ServerCredentials] | None,
    *,
    reserve: bool,
    setting: str = "JOBS_LISTEN",
) -> Iterator[str]:
    """Bind the server to `address`; yields the address with the assigned port.

    With `reserve`, other services cannot bind the port within the block. Without it, a second
    service would share the port unnoticed. Raises ListenError, which names the `setting`.
    """
    if is_unix_path(address):
        check_unix_path_is_free(address)
    reserve = reserve and can_share_port(address)
    with reserve_port(address, setting) if reserve else nullcontext(address) as bound:
        try:
            if make_credentials:
                # Listeners take a factory of credentials where grpc.aio.Server takes credentials.
                credentials: Any = make_credentials
                port = server.add_secure_port(bound, credentials)
            else:
                port = server.add_insecure_port(bound)
        except RuntimeError:
            raise ListenError(address, setting) from None
        yield bound if is_unix_path(bound) else f"{bound.rpartition(':')[0]}:{port}"
