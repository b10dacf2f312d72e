"""Adds commands that call the server, with the options that they share."""

import argparse
import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeAlias

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import connect
from jobs_grpc.cli.contexts import SETTINGS
from jobs_grpc.cli.output import add_output_options
from jobs_grpc.cli.parser import CONNECTION, Subparsers
from jobs_grpc.client import JobsClient

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

RunClient: TypeAlias = Callable[[argparse.Namespace, Any], Awaitable[None]]


def add_client_command(
    commands: Subparsers, usage: str, run: RunClient, *, client: Any = JobsClient, **options: Any
) -> argparse.ArgumentParser:
    """Add a command that calls a service. `options` are those of add_server_command.

    `client` is the class of the second argument of `run`: JobsClient, FleetClient or EventsClient.
    """

    @wraps(run)
    def run_client(args: argparse.Namespace) -> None:
        async def main() -> None:
            async with connect(args, client=client) as opened:
                await run(args, opened)

        asyncio.run(main())

    return add_server_command(commands, usage, run_client, **options)


def add_server_command(
    commands: Subparsers,
    usage: str,
    run: Callable[[argparse.Namespace], None],
    *,
    formats: tuple[str, ...] = ("text", "json", "jsonl"),
    own_timeout: tuple[float | None, str] | None = None,
) -> argparse.ArgumentParser:
    """Add a command that connects to the server itself, with their common options.

    `own_timeout`: the default and the help of --timeout, if it is not that of each call.
    """
    parser = add_local_command(commands, usage, run)
    add_output_options(parser, formats)
    group = parser.add_argument_group(
        CONNECTION, "--server, --tenant, --token-file, --tls …: see `jobs-grpc help connection`"
    )
    _add_connection_options(group)
    if own_timeout:
        _add_timeout(parser, *own_timeout)
    else:
        _add_timeout(group)
    return parser


def add_local_command(
    commands: Subparsers, usage: str, run: Callable[[argparse.Namespace], None], **options: Any
) -> argparse.ArgumentParser:
    """Add a command without the options of the connection. `options` are those of the parser.

    `usage` is its name and its arguments. The paragraphs of the docstring of `run` are its summary,
    optionally its description, and its examples. Under `python -OO`, there are no docstrings.
    """
    name, _, positional = usage.partition(" ")
    summary, *others = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    parser = commands.add_parser(
        name,
        help=summary[:1].lower() + summary[1:].removesuffix("."),
        description="\n".join(others[:-1]) or summary,
        usage=" ".join(filter(None, ("%(prog)s", positional, "[options]"))),
        # An indented line continues an example.
        examples=re.split(r"\n(?! )", others[-1]) if others else (),
        **options,
    )
    parser.set_defaults(run=run)
    return parser


def connection_help() -> str:
    """Explain the options of the connection."""
    parser = argparse.ArgumentParser(
        usage="jobs-grpc COMMAND [options]",
        description=_CONNECTION_HELP,
        epilog=_CONNECTION_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    _add_connection_options(parser)
    _add_timeout(parser)
    return parser.format_help()


def _add_connection_options(group: "argparse._ActionsContainer") -> None:
    group.add_argument("--context", metavar="NAME", help="context to use ($JOBS_CONTEXT)")
    add_target_options(group)


def _add_timeout(
    group: "argparse._ActionsContainer",
    default: float | None = 90.0,
    help_text: str = "timeout of each call with its retries (default: 90)",
) -> None:
    group.add_argument(
        "--timeout", type=arguments.seconds, default=default, metavar="SECONDS", help=help_text
    )


def add_target_options(group: "argparse._ActionsContainer", *, stored: bool = False) -> None:
    """Add the options of a context, or those that override it.

    If the options are `stored` in a context, their help names no variables.
    """

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
