"""`jobs-grpc migrate`: the schema of this version, and the request role."""

import argparse
import asyncio
import os
from typing import TYPE_CHECKING

from jobs_grpc.cli.output import printable
from jobs_grpc.config import read_dsn
from jobs_grpc.db.migrate import RequestRole, migrate

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_commands(commands: "Commands") -> None:
    """Add `migrate`."""
    parser = commands.add_parser(
        "migrate",
        help="bring the database of JOBS_OWNER_DATABASE_URL to this version",
        description="Bring the database of JOBS_OWNER_DATABASE_URL to this version, and create "
        "the request role if it is missing: the user (and password) of JOBS_DATABASE_URL if "
        "that is set. Can be run at any time, also twice, also while servers run.",
    )
    parser.add_argument(
        "--request-role",
        metavar="NAME",
        help="the login that `serve` will use [that of JOBS_DATABASE_URL, or jobs_request]",
    )
    parser.set_defaults(run=_migrate)


def _migrate(args: argparse.Namespace) -> None:
    owner_dsn = read_dsn(os.environ, "JOBS_OWNER_DATABASE_URL")
    if args.request_role:
        role = RequestRole(args.request_role)
    elif os.environ.get("JOBS_DATABASE_URL"):
        role = RequestRole.of_dsn(read_dsn(os.environ, "JOBS_DATABASE_URL"))
    else:
        role = RequestRole()
    done = asyncio.run(migrate(owner_dsn, role))
    for line in "\n".join(done or ["the schema is current"]).split("\n"):
        print(printable(line))
