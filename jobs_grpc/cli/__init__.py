"""The command `jobs-grpc`."""

import argparse
import os
import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import NoReturn

# Starting PostgreSQL forks; gRPC's fork handlers would only print that they did nothing.
# And what it logs, its callers are told as well. Read when grpc is imported, hence before
# the imports below.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from jobs_grpc.cli import changes, client, dev, devices, migrate, serve, simulate, watch
from jobs_grpc.cli.errors import Failed, explain
from jobs_grpc.cli.output import printable

__all__ = ["main", "run"]

_EXIT_CODES = """\
exit codes:
  0  done
  1  failed for another reason
  2  the arguments or the request are wrong
  3  no such job or device
  4  refused in the present state: taken, empty, running, over
  5  server or database unavailable, overloaded or too slow
  6  the caller is not known, or may not do this
"""


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Whatever the locale's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        if sys.stdout is None:
            # What is opened next would take its place, and get what others print.
            raise Failed("standard output is closed; send it to /dev/null instead")
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has had enough, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as e:
        failed = e if isinstance(e, Failed) else explain(e)
        if failed is None:
            raise
        if sys.stderr is not None:
            lines = f"jobs-grpc: {failed}".split("\n")
            print("\n".join(map(printable, lines)), file=sys.stderr)
        return failed.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs-grpc",
        description="A multi-tenant fleet jobs service.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("jobs-grpc"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (dev, serve, migrate, devices, client, changes, watch, simulate):
        module.add_commands(commands)
    return parser
