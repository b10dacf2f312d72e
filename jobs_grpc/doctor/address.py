"""Checks JOBS_LISTEN: is the address usable, and what listens there?"""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.client.channel import NO_PROXY
from jobs_grpc.config import Config
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.server.sockets import (
    ListenError,
    check_unix_path_is_free,
    is_unix_path,
    reserve_port,
)

_CHECK = "address"
_TIMEOUT = 5.0

_SERVING = health_pb2.HealthCheckResponse.SERVING


async def check_address(config: Config) -> Finding:
    """Report whether the address is free or, without TLS, what the server there reports."""
    address = config.server.listen
    if _is_free(address):
        return Finding(_CHECK, Status.OK, f"{address} is free: no server listens there")
    if config.tls.cert:
        return Finding(
            _CHECK,
            Status.OK,
            f"{address} is in use; with TLS, run `jobs-grpc health` to check the server",
        )
    try:
        async with grpc.aio.insecure_channel(address, options=(NO_PROXY,)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
    except grpc.aio.AioRpcError as e:
        return Finding(
            _CHECK,
            Status.ERROR,
            f"{address} cannot be used, or the program that listens there does not respond to"
            f" health checks ({e.code().name})",
            "set JOBS_LISTEN to a free address of this host, or end the process that uses it",
        )
    if response.status != _SERVING:
        return Finding(
            _CHECK,
            Status.ERROR,
            f"the server on {address} reports NOT_SERVING",
            "fix the other errors; the log of the server has a line `not serving: …`",
        )
    return Finding(_CHECK, Status.OK, f"the server on {address} reports SERVING")


def _is_free(address: str) -> bool:
    """Whether a server could listen on the address now."""
    try:
        if is_unix_path(address):
            check_unix_path_is_free(address)
        else:
            with reserve_port(address):
                pass
    except ListenError:
        return False
    return True
