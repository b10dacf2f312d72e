"""Runs the command `jobs-grpc`: its list of commands, their errors and exit codes."""

import argparse
import functools
import os
import signal
import sys
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from typing import NoReturn

# gRPC reads these when it is imported, so they are set before the imports below. Starting
# PostgreSQL forks, and gRPC's fork handlers would only log that they are disabled. The commands
# report failed calls themselves.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from jobs_grpc.cli.command import Subparsers, connection_help
from jobs_grpc.cli.errors import EXIT_CODES_HELP, CliError, UsageError, to_cli_error
from jobs_grpc.cli.output import print_json, wants_json
from jobs_grpc.cli.parser import Parser
from jobs_grpc.text import escape_unprintable

__all__ = ["main", "run"]

# The commands by their group in the help, with the module that adds each: NAME or NAME=MODULE.
_GROUPS = {
    "jobs": "create preview=targets list=list_jobs get watch update pause=control resume=control"
    " cancel retry=control delete=cancel failures=diagnose attempts=executions explain=diagnose"
    " history=diagnose timeline export=get",
    "rollouts": "advance=control approve=control reject=control",
    "devices": "fleet devices device=executions notices groups=list_jobs labels=fleet simulate",
    "events": "events webhooks",
    "server": "dev serve migrate=maintain doctor recount=maintain health=whoami",
    "command line": "context whoami completion help=",
}
_PAIRS = {title: [w.partition("=") for w in words.split()] for title, words in _GROUPS.items()}
_MODULES = {
    name: module or name
    for pairs in _PAIRS.values()
    for name, separator, module in pairs
    if module or not separator
}


def main() -> NoReturn:
    if "_ARGCOMPLETE" in os.environ:
        from jobs_grpc.cli.completion import complete

        complete(_parser())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Escape characters that the locale's encoding does not have.
            stream.reconfigure(errors="backslashreplace")
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        args = _shared_parser("".join(argv[:1])).parse_args(argv)
        if sys.stdout is None:
            # The next file that is opened would get descriptor 1, and our output would go there.
            raise CliError("standard output is closed; redirect it to /dev/null instead")
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        # A command for several jobs reports each that failed.
        errors = e.exceptions if isinstance(e, ExceptionGroup) else [e]
        exit_codes = []
        for error in map(to_cli_error, errors):
            if error is None:
                raise
            exit_codes.append(error.exit_code)
            _print_error(error, as_json=wants_json(argv))
        return exit_codes[0]
    return 0


def _print_error(error: CliError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": error.as_dict()}, indent=None, file=sys.stderr)
        return
    name = "jobs-grpc"
    if isinstance(error, UsageError):
        print(error.usage, end="", file=sys.stderr)
        name = f"{error.program}: error"
    lines = f"{name}: {error}".split("\n")
    print("\n".join(map(escape_unprintable, lines)), file=sys.stderr)


def _parser(name: str = "") -> Parser:
    """Return the parser of one command, or of all commands if there is none of this name."""
    parser = Parser(
        prog="jobs-grpc",
        usage="%(prog)s COMMAND [options]",
        description="Multi-tenant jobs for device fleets.\n"
        "Use `jobs-grpc COMMAND --help` for the options of a command.",
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("jobs-grpc"))
    commands = parser.add_commands()
    # An import of all commands takes a second.
    modules = [_MODULES[name]] if name in _MODULES else dict.fromkeys(_MODULES.values())
    for module in modules:
        import_module(f"jobs_grpc.cli.{module}").add_command(commands)
    if name not in _MODULES:
        _add_help(commands, parser)
        parser.group_commands({title: [n for n, *_ in pairs] for title, pairs in _PAIRS.items()})
    return parser


# Tests run many commands in one process. Completion builds its own parser, because argcomplete
# changes it.
_shared_parser = functools.cache(_parser)


def _add_help(commands: Subparsers, program: Parser) -> None:
    def show(args: argparse.Namespace) -> None:
        if args.topic == ["connection"]:
            print(connection_help(), end="")
        else:
            program.parse_args([*args.topic, "--help"])

    parser = commands.add_parser(
        "help",
        help="explain a command, or the options of the connection",
        examples=("jobs-grpc help connection", "jobs-grpc help webhooks create"),
    )
    parser.add_argument(
        "topic", nargs="*", metavar="COMMAND", help="a command, or `connection` (default: all)"
    )
    parser.set_defaults(run=show)
