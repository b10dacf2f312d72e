"""What the client commands share: who calls which server, and how."""

import argparse
import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from fleet.jobs.v1 import jobs_pb2_grpc
from google.protobuf.message import Message

from jobs_grpc.cli import arguments, failures
from jobs_grpc.cli.failures import Failed
from jobs_grpc.config import DEFAULT_ADDRESS
from jobs_grpc.principal import IDENTIFIER_RULE, is_identifier

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_client_command(
    commands: "Commands", name: str, run: Any, text: str
) -> argparse.ArgumentParser:
    """A command that calls JobService, with the options that all of them take."""
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    environ = os.environ.get
    tenant = environ("JOBS_TENANT")
    parser.add_argument(
        "--tenant", default=tenant, required=not tenant, help="for whom to act [JOBS_TENANT]"
    )
    parser.add_argument(
        "--user", default=environ("JOBS_USER"), help="who acts [JOBS_USER, or the login name]"
    )
    parser.add_argument(
        "--server",
        default=environ("JOBS_SERVER") or DEFAULT_ADDRESS,
        type=arguments.server,
        metavar="HOST:PORT",
        help=f"or unix:PATH [JOBS_SERVER, or {DEFAULT_ADDRESS}]",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.timeout,
        default=60.0,
        metavar="SECONDS",
        help="a call at most [60]",
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Client:
    """JobService with the caller's metadata and timeout in every call."""

    stub: "jobs_pb2_grpc.JobServiceStub"
    with_caller: dict[str, Any]

    def call(self, method: str, request: Message) -> Any:
        """Call an RPC by its name."""
        return getattr(self.stub, method)(request, **self.with_caller)


def caller_metadata(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """What calls say of the caller that the command line names."""
    metadata = [("x-tenant-id", args.tenant)]
    if user := args.user or _login_name():
        metadata.append(("x-user-id", user))
    for key, value in metadata:
        if not is_identifier(value):
            raise Failed(f"{key} {IDENTIFIER_RULE}", failures.USAGE)
    return tuple(metadata)


@contextmanager
def connected(args: argparse.Namespace, *options: tuple[str, Any]) -> Iterator[Client]:
    """The server and the caller that the command line names, over a channel with `options`."""
    metadata = caller_metadata(args)
    with grpc.insecure_channel(args.server, options=options) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        yield Client(stub, {"metadata": metadata, "timeout": args.timeout})


def _login_name() -> str | None:
    """The name to act under if none was given; an account may have none, or an unfit one."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
    return name if is_identifier(name) else None
