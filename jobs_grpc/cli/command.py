"""Adds commands that call the server, with the options that they share."""

import argparse
import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeAlias

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import VARIABLES, connect
from jobs_grpc.cli.output import add_output_options
from jobs_grpc.cli.parser import CONNECTION, Subparsers
from jobs_grpc.client import JobsClient
from jobs_grpc.config import DEFAULT_ADDRESS

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

    `usage` is its name and its arguments. The docstring of `run` is its description, and examples
    that follow an empty line. Under `python -OO`, there are no docstrings.
    """
    name, _, positional = usage.partition(" ")
    summary, _, examples = inspect.cleandoc(run.__doc__ or "").partition("\n\n")
    parser = commands.add_parser(
        name,
        help=summary[:1].lower() + summary[1:].removesuffix("."),
        description=summary,
        usage=" ".join(filter(None, ("%(prog)s", positional, "[options]"))),
        # An indented line continues an example.
        examples=re.split(r"\n(?! )", examples) if examples else (),
    )
    add_output_options(parser, formats)
    group = parser.add_argument_group(
        CONNECTION, "--server, --tenant, --token-file, --tls …: see `jobs-grpc help connection`"
    )
    _add_connection_options(group)
    if own_timeout:
        _add_timeout(parser, *own_timeout)
    else:
        _add_timeout(group)
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

    def help_text(text: str, *names: str, default: str = "") -> str:
        variables = " or ".join(f"${VARIABLES[name]}" for name in names)
        return text if stored else f"{text} ({variables}{default})"

    group.add_argument(
        "--server",
        type=arguments.server_address,
        metavar="ADDRESS",
        help=help_text("HOST:PORT or unix:PATH", "server", default=f"; default: {DEFAULT_ADDRESS}"),
    )
    group.add_argument(
        "--tenant",
        metavar="ID",
        help=help_text("tenant to act for", "tenant", default="; default: that in the token"),
    )
    group.add_argument(
        "--user",
        metavar="ID",
        help=help_text(
            "user to act as", "user", default="; default: the user in the token, or the login name"
        ),
    )
    group.add_argument(
        "--roles",
        metavar="ROLE,…",
        help=help_text(
            "roles to act with, if the server does not use tokens",
            "roles",
            default="; default: those that the server gives to all",
        ),
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help=help_text("file with the token", "token_file", "token"),
    )
    group.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        help="use TLS; --ca, --cert and --key imply it",
    )
    for name, text in (
        ("ca", "CA certificates of the server, PEM"),
        ("cert", "client certificate, PEM"),
        ("key", "private key of the client certificate, PEM"),
    ):
        group.add_argument(f"--{name}", metavar="FILE", help=help_text(text, name))
    group.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help="name in the server's certificate, if it is not the host of --server",
    )
