"""`jobs-grpc whoami` and `health`: ask the server who the caller is, and whether it serves."""

import argparse
import asyncio
import shutil
import textwrap
from collections.abc import Iterator

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.cli.command import Subparsers, add_client_command, add_server_command
from jobs_grpc.cli.connection import Target, resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode, call_error
from jobs_grpc.cli.formatting import format_moment
from jobs_grpc.cli.output import print_message
from jobs_grpc.client import JobsClient
from jobs_grpc.client.errors import from_rpc_error
from jobs_grpc.text import escape_unprintable


def add_command(commands: Subparsers) -> None:
    add_client_command(commands, "whoami", _whoami)
    timeout = (5.0, "timeout of the check (default: 5)")
    add_server_command(commands, "health", _health, own_timeout=timeout)


_LABEL_WIDTH = 17


async def _whoami(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Show who the server says you are, and which calls you may make.

    jobs-grpc whoami
    jobs-grpc whoami --context prod --json
    """
    caller = await jobs.caller()
    if args.output != "text":
        print_message(caller, args.output)
        return
    width = max(shutil.get_terminal_size().columns - _LABEL_WIDTH, 20)
    for label, value in _fields(caller, args.utc):
        for line in textwrap.wrap(escape_unprintable(value), width):
            print(f"{label:<{_LABEL_WIDTH}}{line}")
            label = ""


def _fields(caller: pb.GetCallerResponse, utc: bool) -> Iterator[tuple[str, str]]:
    yield "tenant", caller.tenant_id
    yield "user", caller.user_id or "-"
    if caller.device_id:
        yield "device", caller.device_id
    yield "roles", " ".join(caller.roles)
    if caller.HasField("credential_expires_at"):
        yield "access expires", format_moment(caller.credential_expires_at, utc)
    by_service: dict[str, list[str]] = {}
    for method in caller.methods:
        service, _, name = method.rpartition(".")
        by_service.setdefault(service.rpartition(".")[2], []).append(name)
    for service, names in sorted(by_service.items(), reverse=True):
        yield service, " ".join(names)


def _health(args: argparse.Namespace) -> None:
    """Ask the server whether it serves calls.

    jobs-grpc health
    jobs-grpc health --server jobs.example.com:443 --tls --timeout 2
    """
    response = asyncio.run(_check(resolve_target(args), args.timeout))
    if args.output != "text":
        print_message(response, args.output)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    if status != "SERVING":
        raise CliError(f"the server reports {status}", ExitCode.UNAVAILABLE)
    if args.output == "text":
        print(status)


async def _check(target: Target, seconds: float) -> health_pb2.HealthCheckResponse:
    async with target.connection() as connection:
        request = health_pb2.HealthCheckRequest()
        check = connection.stub(health_pb2_grpc.HealthStub).Check
        try:
            response: health_pb2.HealthCheckResponse = await check(request, timeout=seconds)
        except grpc.aio.AioRpcError as e:
            raise call_error(from_rpc_error(e), target.server) from None
    return response
