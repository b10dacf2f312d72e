"""`jobs-grpc health`: the health check of containers and of probes that use TLS."""

import argparse
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.cli.connection import add_client_command, channel_credentials
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.output import print_json
from jobs_grpc.client.channel import NO_PROXY

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `health`."""
    parser = add_client_command(
        commands,
        "health",
        _health,
        usage="",
        summary="ask the server whether it serves calls",
        timeout=5.0,
        timeout_help="timeout of the check (default: 5)",
    )
    parser.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help="name to expect in the server's certificate instead of the host in --server",
    )


def _health(args: argparse.Namespace) -> None:
    credentials = channel_credentials(args)
    options: list[tuple[str, Any]] = [NO_PROXY]
    if args.tls_server_name:
        options.append(("grpc.ssl_target_name_override", args.tls_server_name))
    with (
        grpc.secure_channel(args.server, credentials, options=options)
        if credentials
        else grpc.insecure_channel(args.server, options=options)
    ) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        response = stub.Check(health_pb2.HealthCheckRequest(), timeout=args.timeout)
    if args.json:
        print_json(response)
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    if status != "SERVING":
        raise CliError(f"the server reports {status}", ExitCode.UNAVAILABLE)
    if not args.json:
        print(status)
