"""`jobs-grpc migrate`: migrates the database and creates the request role."""

import argparse
import os

from jobs_grpc.cli.output import progress_line
from jobs_grpc.cli.owner_audit import add_changes, audited
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.config import read_dsn
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.server.signals import run_until_stop_signal
from jobs_grpc.text import escape_unprintable


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "migrate",
        help="migrate the database and create the request role",
        description="Migrate the database of JOBS_OWNER_DATABASE_URL to this version. Create the "
        "request role if it is missing, with the user and password of JOBS_DATABASE_URL if that "
        "is set. Safe to run at any time, repeatedly, and while servers run. Writes a line of the "
        "audit log to stderr, as JSON.",
        examples=(
            "JOBS_OWNER_DATABASE_URL=postgresql://jobs_owner@db/jobs jobs-grpc migrate",
            "jobs-grpc migrate --request-role jobs_request",
        ),
    )
    parser.add_argument(
        "--request-role",
        metavar="NAME",
        help="login that `serve` uses (default: the user of JOBS_DATABASE_URL, or jobs_request)",
    )
    parser.add_argument(
        "--require-citus",
        action="store_true",
        help="fail before any change if the database does not have the extension citus. If the "
        "database has it, migrate distributes the tables, also without this option",
    )
    parser.add_argument(
        "--device-tables",
        choices=("own", "platform"),
        help="who manages public.device_state and public.device_group_members: they are the "
        "service's own, and calls register and delete devices, or the platform manages them. The "
        "first run decides it: own if it creates both tables, otherwise platform. This option "
        "changes the decision",
    )
    parser.set_defaults(run=_migrate)


def _migrate(args: argparse.Namespace) -> None:
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
                run_until_stop_signal(
                    migrate(
                        owner_dsn,
                        role,
                        report,
                        require_citus=args.require_citus,
                        device_tables_manager=args.device_tables,
                        changes=changes,
                    )
                )
        finally:  # changes before an error are committed
            add_changes(audit, changes)
    for line in "\n".join(changes or ["the schema is current"]).split("\n"):
        print(escape_unprintable(line))
