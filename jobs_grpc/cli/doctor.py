"""`jobs-grpc doctor`: reports what would keep a server from working."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_local_command
from jobs_grpc.cli.errors import CliError
from jobs_grpc.cli.output import print_lines
from jobs_grpc.cli.serve import add_setting_options, read_config
from jobs_grpc.cli.tables import Column, print_table
from jobs_grpc.dev.environment import settings_with_database
from jobs_grpc.doctor import Finding, Status, examine
from jobs_grpc.doctor.counts import MAX_EXECUTIONS

_EPILOG = """\
exit codes:
  0    no errors, but possibly warnings
  1    an error; with --strict, an error or a warning
  2    invalid arguments or settings
"""

_COLUMNS: tuple[Column[Any], ...] = (
    *(Column("check"), Column("status")),
    Column("finding", min_width=30, wraps=True),
)


def add_command(commands: Subparsers) -> None:
    parser = add_local_command(
        commands,
        "doctor",
        _doctor,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_setting_options(parser)
    helps = {
        "--json": "print the findings as JSON",
        "--strict": "exit with 1 also on warnings",
        "--max-executions N": "recount jobs with at most N executions in total: those that are not "
        f"finished, then the newest (default: {MAX_EXECUTIONS:,})",
    }
    arguments.add_options(parser, helps, N=arguments.row_limit)
    parser.set_defaults(max_executions=MAX_EXECUTIONS)


def _doctor(args: argparse.Namespace) -> None:
    """Report what would keep a server from working.

    Examines what `serve` needs, with the same settings: this host, certificates and
    keys, the database, and how late background work is. Changes nothing; the server
    may run or not. Without JOBS_DATABASE_URL, examines a running `jobs-grpc dev`.

    jobs-grpc doctor
    jobs-grpc doctor --strict --json
    """
    environ = settings_with_database("JOBS_DATABASE_URL")
    findings = asyncio.run(examine(read_config(args, environ), args.max_executions))
    if args.json:
        report = {"version": version("jobs-grpc"), "findings": list(map(asdict, findings))}
        print(json.dumps(report, indent=2))
    else:
        _print_table(findings)
    counts = {status: sum(f.status == status for f in findings) for status in Status}
    errors, warnings = counts[Status.ERROR], counts[Status.WARNING]
    if errors or (warnings and args.strict):
        raise CliError(f"errors: {errors}, warnings: {warnings}")


def _print_table(findings: Sequence[Finding]) -> None:
    """Print a table, and below it the remedies, whole lines that can be copied."""
    print_table(_COLUMNS, ((f.check, f.status, f.detail) for f in findings))
    remedies = [f"{f.check}: {f.remedy}" for f in findings if f.remedy]
    if remedies:
        print_lines("", "To fix:", *(f"  {remedy}" for remedy in remedies))
