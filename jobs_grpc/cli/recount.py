"""`jobs-grpc recount`: compares the stored counts of a job with its executions."""

import argparse
import json
from contextlib import ExitStack
from typing import Any

import asyncpg

from jobs_grpc.cli import arguments
from jobs_grpc.cli.dev import settings_with_database
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.formatting import format_number
from jobs_grpc.cli.output import print_json
from jobs_grpc.cli.owner_audit import add_changes, add_tenant, audited, read_tenant
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.tables import TableColumn, print_table
from jobs_grpc.config import read_dsn
from jobs_grpc.db.recount import describe, recount_job, row_name
from jobs_grpc.server.signals import run_until_stop_signal
from jobs_grpc.text import escape_unprintable

# How many counts an error names that a repair does not set.
_MAX_NAMED = 3

_COLUMNS = (
    TableColumn("TABLE"),
    TableColumn("KEY", min_width=12),
    TableColumn("COLUMN"),
    TableColumn("STORED", is_number=True),
    TableColumn("COUNTED", is_number=True),
)


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "recount",
        help="compare the stored counts of a job with its executions",
        description="Count the executions of a job in the database of JOBS_OWNER_DATABASE_URL, or "
        "of a running `jobs-grpc dev`, and show the stored counts that differ. The exit code is 0 "
        "if there are none, or if --repair has set all of them; otherwise 1.",
        examples=(
            "jobs-grpc recount update-1 --tenant acme",
            "jobs-grpc recount update-1 --tenant acme --repair",
        ),
    )
    arguments.add_job(parser)
    add_tenant(parser, "tenant of the job")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="set the counts that differ, while no other call changes the job. Writes a line of the"
        " audit log to stderr, as JSON",
    )
    parser.add_argument("--json", action="store_true", help="print what differs as JSON")
    parser.set_defaults(run=_recount)


def _recount(args: argparse.Namespace) -> None:
    setting = "JOBS_OWNER_DATABASE_URL"
    owner_dsn = read_dsn(settings_with_database(setting), setting)
    tenant, job_id = read_tenant(args), args.job_id
    with ExitStack() as stack:
        audit: dict[str, Any] = {}
        if args.repair:
            fields = {"tenant": tenant, "job_id": job_id}
            audit = stack.enter_context(audited("recount --repair", owner_dsn, **fields))
        recounted = recount_job(owner_dsn, tenant, job_id, repair=args.repair)
        found = run_until_stop_signal(recounted)
        if found is None:
            raise CliError(f"job {job_id} not found in tenant {tenant}", ExitCode.NOT_FOUND)
        differing, remaining = found
        add_changes(audit, [describe(row) for row in differing if row not in remaining])
    if args.json:
        print_json({"counts": [dict(row) | {"key": json.loads(row["key"])} for row in differing]})
    elif differing:
        print_table(_COLUMNS, map(_cells, differing))
    else:
        print(f"the counts of job {escape_unprintable(job_id)} are correct")
    if remaining:
        counts = f"{format_number(len(remaining), 'count')} of job {job_id}"
        if not args.repair:
            raise CliError(f"wrong: {counts}; add --repair to correct the counts")
        named = "; ".join(map(describe, remaining[:_MAX_NAMED]))
        more = "; …" if len(remaining) > _MAX_NAMED else ""
        raise CliError(f"not repaired: {counts}: {named}{more}")


def _cells(row: asyncpg.Record) -> list[str]:
    numbers = (f"{row[column]:,}" for column in ("stored", "counted"))
    return [row["table_name"], row_name(row) or "-", row["column_name"], *numbers]
