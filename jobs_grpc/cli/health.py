"""`jobs-grpc health`: the health check of containers and of probes that use TLS."""

import argparse
import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.cli.command import add_server_command
from jobs_grpc.cli.connection import Target, resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode, call_error
from jobs_grpc.cli.output import print_message
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client.errors import from_rpc_error


def add_command(commands: Subparsers) -> None:
    timeout = (5.0, "timeout of the check (default: 5)")
    add_server_command(commands, "health", _health, own_timeout=timeout)


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
        stub = connection.stub(health_pb2_grpc.HealthStub)
        try:
            response: health_pb2.HealthCheckResponse = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=seconds
            )
        except grpc.aio.AioRpcError as e:
            raise call_error(from_rpc_error(e), target.server) from None
    return response
