"""The command `jobs-grpc`."""

import argparse
import os
import sys
from importlib.metadata import version
from typing import NoReturn

# Starting PostgreSQL forks; gRPC's fork handlers would only print that they did nothing.
# Read when grpc is imported, hence before the imports below.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from jobs_grpc.cli import client, dev, devices, migrate, serve
from jobs_grpc.cli.failures import Failed, explain

__all__ = ["main", "run"]

_EXIT_CODES = """\
exit codes:
  0  done
  1  failed for another reason
  2  the arguments or the request are wrong
  3  no such job or device
  4  refused in the present state: taken, empty, not cancelable
  5  server or database unavailable, overloaded or too slow
  6  the caller is not known
"""


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
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
        print(f"jobs-grpc: {failed}", file=sys.stderr)
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
    for module in (dev, serve, migrate, devices, client):
        module.add_commands(commands)
    return parser
