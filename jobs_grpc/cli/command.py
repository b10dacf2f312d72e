"""Adds commands that call the server, with the options that they share."""

import argparse
import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeAlias

from google.protobuf.message import Message

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import connect
from jobs_grpc.cli.contexts import SETTINGS
from jobs_grpc.cli.fields import Fields, add_fields
from jobs_grpc.cli.output import TEXT_FORMATS, add_output_options
from jobs_grpc.cli.parser import CONNECTION, Parser

_CONNECTION_HELP = """\
The options of commands that call a server. An option overrides its variable,
and the variable overrides the context (see `jobs-grpc context --help`).
`jobs-grpc context show` prints what commands use, and where it is set.
"""
_CONNECTION_EXAMPLES = """\
examples:
  jobs-grpc list --server 127.0.0.1:50051 --tenant demo
  JOBS_TENANT=demo jobs-grpc list
  jobs-grpc list --server jobs.example.com:443 --tls --token-file ~/.token
"""

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
RunClient: TypeAlias = Callable[[argparse.Namespace, Any], Awaitable[None]]

# The fields that an argument in the usage of a command sets, and its help.
_ARGUMENTS: Fields = {
    "JOB": ("job_id", "ID of the job"),
    "DEVICE": ("device_id", "ID of the device"),
    "WEBHOOK": ("webhook_id", "ID of the webhook"),
}


def add_client_command(
    commands: Subparsers,
    usage: str,
    run: RunClient,
    request: type[Message] | None = None,
    fields: Fields | None = None,
    **options: Any,
) -> argparse.ArgumentParser:
    """Add a command that calls a service. For the parameters, see add_server_command.

    The second parameter of `run` is a client, of the class in its annotation.
    """
    _, client, *_ = run.__annotations__.values()

    @wraps(run)
    def run_client(args: argparse.Namespace) -> None:
        async def main() -> None:
            async with connect(args, client=client) as opened:
                await run(args, opened)

        asyncio.run(main())

    return add_server_command(commands, usage, run_client, request, fields, **options)


def add_server_command(
    commands: Subparsers,
    usage: str,
    run: Callable[[argparse.Namespace], None],
    request: type[Message] | None = None,
    fields: Fields | None = None,
    *,
    formats: tuple[str, ...] = TEXT_FORMATS,
    own_timeout: tuple[float | None, str] | None = None,
    **options: Any,
) -> argparse.ArgumentParser:
    """Add a command that connects to the server itself, with their common options.

    `own_timeout`: the default and the help of --timeout, if it is not that of each call.
    """
    parser = add_local_command(commands, usage, run, request, fields, **options)
    add_output_options(parser, formats)
    group = parser.add_argument_group(
        CONNECTION, "--server, --tenant, --token-file, --tls …: see `jobs-grpc help connection`"
    )
    _add_connection_options(group, parser if own_timeout else group, *(own_timeout or ()))
    return parser


def add_local_command(
    commands: Subparsers,
    usage: str,
    run: Callable[[argparse.Namespace], None],
    request: type[Message] | None = None,
    fields: Fields | None = None,
    **options: Any,
) -> argparse.ArgumentParser:
    """Add a command without the options of the connection. `options` are those of the parser.

    `usage` is its name and its arguments. With a `request`, the arguments JOB, DEVICE and WEBHOOK
    and the `fields` set its fields. The paragraphs of the docstring of `run` are the summary,
    optionally more explanation, and the examples. Under `python -OO`, there are no docstrings.
    """
    name, _, positional = usage.partition(" ")
    summary, *others = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    parser = commands.add_parser(
        name,
        help=summary[:1].lower() + summary[1:].removesuffix("."),
        description="\n".join([summary, *others[:-1]]),
        usage=" ".join(filter(None, ("%(prog)s", positional, "[options]"))),
        # An indented line continues an example.
        examples=re.split(r"\n(?! )", others[-1]) if others else (),
        **options,
    )
    parser.set_defaults(run=run)
    if request:
        named = {word: field for word, field in _ARGUMENTS.items() if word in positional.split()}
        add_fields(parser, request, {**named, **(fields or {})})
    return parser


def connection_help() -> str:
    parser = argparse.ArgumentParser(
        usage="jobs-grpc COMMAND [options]",
        description=_CONNECTION_HELP,
        epilog=_CONNECTION_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    _add_connection_options(parser, parser)
    return parser.format_help()


def _add_connection_options(
    group: "argparse._ActionsContainer",
    timeouts: "argparse._ActionsContainer",
    timeout: float | None = 90.0,
    timeout_help: str = "timeout of each call with its retries (default: 90)",
) -> None:
    """Add the options to `group`, and --timeout to `timeouts`."""
    group.add_argument("--context", metavar="NAME", help="context to use ($JOBS_CONTEXT)")
    add_target_options(group)
    timeouts.add_argument(
        "--timeout", type=arguments.seconds, default=timeout, metavar="SECONDS", help=timeout_help
    )


def add_target_options(group: "argparse._ActionsContainer", *, stored: bool = False) -> None:
    """Add the options of a context, whose help names no variables, or those that override it."""
    for setting in SETTINGS:
        help_text = setting.help
        if setting.variable and not stored:
            default = f"; default: {setting.default}" if setting.default else ""
            help_text += f" (${setting.variable}{default})"
        kind: dict[str, Any] = {"metavar": setting.metavar}
        if setting.name == "server":
            kind["type"] = arguments.server_address
        if setting.name == "tls":
            kind = {"action": argparse.BooleanOptionalAction}
        group.add_argument(f"--{setting.name.replace('_', '-')}", help=help_text, **kind)
