"""`jobs-grpc whoami`: shows the caller that the server has authenticated."""

import argparse
import shutil
import textwrap
from collections.abc import Iterator

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.formatting import format_moment
from jobs_grpc.cli.output import print_message
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable

_LABEL_WIDTH = 17


def add_command(commands: Subparsers) -> None:
    add_client_command(commands, "whoami", _whoami)


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
        lines = textwrap.wrap(escape_unprintable(value), width)
        for line in lines:
            print(f"{label:<{_LABEL_WIDTH}}{line}")
            label = ""


def _fields(caller: pb.GetCallerResponse, utc: bool) -> Iterator[tuple[str, str]]:
    yield "tenant", caller.tenant_id
    yield "user", caller.user_id or "-"
    if caller.device_id:
        yield "device", caller.device_id
    yield "roles", " ".join(caller.roles)
    if caller.HasField("token_expires_at"):
        yield "token expires", format_moment(caller.token_expires_at, utc)
    by_service: dict[str, list[str]] = {}
    for method in caller.methods:
        service, _, name = method.rpartition(".")
        by_service.setdefault(service.rpartition(".")[2], []).append(name)
    for service, names in sorted(by_service.items(), reverse=True):
        yield service, " ".join(names)
