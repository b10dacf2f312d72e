"""`jobs-grpc migrate` and `recount`, which work on the database as its owner and are audited."""

import argparse
import json
import os
from contextlib import ExitStack
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_local_command
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.formatting import format_number
from jobs_grpc.cli.output import print_json, print_lines, progress_line
from jobs_grpc.cli.owner_audit import add_changes, add_tenant, audited, read_tenant
from jobs_grpc.cli.tables import Column, print_table
from jobs_grpc.config import read_dsn
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.recount import describe, recount_job, row_name
from jobs_grpc.dev.environment import settings_with_database
from jobs_grpc.server.signals import run_until_stop_signal


def add_command(commands: Subparsers) -> None:
    parser = add_local_command(commands, "migrate", _migrate)
    helps = {
        "--request-role NAME": "login that `serve` uses (default: the user of JOBS_DATABASE_URL, or"
        " jobs_request)",
        "--require-citus": "fail before any change if the database does not have the extension "
        "citus. If the database has it, migrate distributes the tables, also without this option",
    }
    arguments.add_options(parser, helps)
    parser.add_argument(
        "--device-tables",
        choices=("own", "platform"),
        help="who manages public.device_state and public.device_group_members: they are the "
        "service's own, and calls register and delete devices, or the platform manages them. The "
        "first run decides it: own if it creates both tables, otherwise platform. This option "
        "changes the decision",
    )
    parser = add_local_command(commands, "recount JOB", _recount, pb.GetJobRequest)
    add_tenant(parser, "tenant of the job")
    helps = {
        "--repair": "set the counts that differ, while no other call changes the job. Writes a line"
        " of the audit log to stderr, as JSON",
        "--json": "print what differs as JSON",
    }
    arguments.add_options(parser, helps)


def _migrate(args: argparse.Namespace) -> None:
    """Migrate the database and create the request role.

    The database is that of JOBS_OWNER_DATABASE_URL. The role has the user and password of
    JOBS_DATABASE_URL if that is set. Safe to run at any time, repeatedly, and while servers run.
    Writes a line of the audit log to stderr, as JSON.

    JOBS_OWNER_DATABASE_URL=postgresql://jobs_owner@db/jobs jobs-grpc migrate
    jobs-grpc migrate --request-role jobs_request
    """
    owner_dsn = read_dsn(os.environ, "JOBS_OWNER_DATABASE_URL")
    if args.request_role:
        role = RequestRole(args.request_role)
    elif os.environ.get("JOBS_DATABASE_URL"):
        role = RequestRole.from_dsn(read_dsn(os.environ, "JOBS_DATABASE_URL"))
    else:
        role = RequestRole()
    changes: list[str] = []
    # Also on SIGTERM, so that PostgreSQL ends an index build at once.
    with audited("migrate", owner_dsn, request_role=role.name) as audit:
        try:
            with progress_line() as report:
                migration = migrate(
                    *(owner_dsn, role, report),
                    require_citus=args.require_citus,
                    device_tables_manager=args.device_tables,
                    changes=changes,
                )
                run_until_stop_signal(migration)
        finally:  # changes before an error are committed
            add_changes(audit, changes)
    print_lines(*"\n".join(changes or ["the schema is current"]).split("\n"))


# Maximum number of unrepaired counts that the error message lists.
_MAX_NAMED = 3

_COLUMNS: tuple[Column[Any], ...] = (
    *(Column("table"), Column("key", min_width=12), Column("column")),
    *(Column("stored", is_number=True), Column("counted", is_number=True)),
)


def _recount(args: argparse.Namespace) -> None:
    """Compare the stored counts of a job with its executions.

    Uses the database of JOBS_OWNER_DATABASE_URL, or of a running `jobs-grpc dev`, and shows the
    counts that differ. The exit code is 0 if there are none, or if --repair has set all of them;
    otherwise 1.

    jobs-grpc recount update-1 --tenant acme
    jobs-grpc recount update-1 --tenant acme --repair
    """
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
        cells = (
            [row["table_name"], row_name(row) or "-", row["column_name"]]
            + [f"{row[name]:,}" for name in ("stored", "counted")]
            for row in differing
        )
        print_table(_COLUMNS, cells)
    else:
        print_lines(f"the counts of job {job_id} are correct")
    if remaining:
        counts = f"{format_number(len(remaining), 'count')} of job {job_id}"
        if not args.repair:
            raise CliError(f"wrong: {counts}; add --repair to correct the counts")
        named = "; ".join(map(describe, remaining[:_MAX_NAMED]))
        more = "; …" if len(remaining) > _MAX_NAMED else ""
        raise CliError(f"not repaired: {counts}: {named}{more}")
