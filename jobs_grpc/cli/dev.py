"""`jobs-grpc dev`: everything on this machine, from nothing."""

import argparse
import asyncio
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from jobs_grpc.cli.errors import Failed
from jobs_grpc.cli.serve import serve
from jobs_grpc.config import DEFAULT_ADDRESS, Config
from jobs_grpc.db.migrate import MigrationError, RequestRole, migrate
from jobs_grpc.dev import demo_fleet as fleet
from jobs_grpc.dev import embedded_postgres
from jobs_grpc.server.signals import interrupting

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands

_DATABASE = "jobs"

# A member of the first group.
_DEMO_DEVICE = "device-0003"


def add_commands(commands: "Commands") -> None:
    """Add `dev`."""
    parser = commands.add_parser(
        "dev",
        help="start an embedded PostgreSQL with a demo fleet, and serve on it",
        description="Start an embedded PostgreSQL, migrate it, load a demo fleet (tenant "
        "'demo': 1,000 devices in three groups) and serve. Data is kept in a folder of the "
        "user's, or in JOBS_DATA_DIR. The settings of `serve` apply, but for JOBS_DATABASE_URL "
        "and JOBS_OWNER_DATABASE_URL.",
    )
    parser.set_defaults(run=_dev)


def _dev(args: argparse.Namespace) -> None:
    role = RequestRole()
    data_dir = Path(
        os.environ.get("JOBS_DATA_DIR") or embedded_postgres.default_data_dir()
    ).absolute()
    # Checked before anything is started; the DSN follows when there is a server.
    placeholder = {"JOBS_DATABASE_URL": "postgresql://", "JOBS_OWNER_DATABASE_URL": ""}
    Config.from_env(os.environ | placeholder)
    print(f"Starting PostgreSQL in {data_dir} …", file=sys.stderr)
    with interrupting(), embedded_postgres.running(data_dir) as cluster:
        try:
            asyncio.run(_prepare(cluster, role))
        except MigrationError as e:
            raise Failed(f"{e}. To begin anew, move {data_dir} away or set JOBS_DATA_DIR") from None
        dsns = {
            "JOBS_DATABASE_URL": cluster.dsn(_DATABASE, role.name),
            "JOBS_OWNER_DATABASE_URL": cluster.dsn(_DATABASE),
        }
        config = Config.from_env(os.environ | dsns)
        serve(
            config,
            on_serving=lambda address: print(_greeting(address, cluster, config), flush=True),
        )
    print("PostgreSQL has stopped; the data is kept.", file=sys.stderr)


async def _prepare(cluster: embedded_postgres.Cluster, role: RequestRole) -> None:
    connection = await asyncpg.connect(cluster.dsn("postgres"))
    try:
        await connection.execute(f"CREATE DATABASE {_DATABASE}")
    except asyncpg.DuplicateDatabaseError:
        pass
    finally:
        await connection.close()
    await migrate(cluster.dsn(_DATABASE), role)
    await fleet.load_demo_fleet(cluster.dsn(_DATABASE))


def _greeting(address: str, cluster: embedded_postgres.Cluster, config: Config) -> str:
    groups = ", ".join(fleet.DEMO_GROUPS)
    return "\n".join(
        [
            "",
            f"Serving on {address}; tenant {fleet.DEMO_TENANT!r} has 1,000 devices in the"
            f" groups {groups}.",
            *_calls(address, config),
            "",
            f"Data: {cluster.data_dir}",
            f"SQL:  psql {shlex.quote(cluster.dsn(_DATABASE))}",
            "Ctrl-C stops.",
            "",
        ]
    )


def _calls(address: str, config: Config) -> list[str]:
    if config.auth.mode != "metadata" or config.tls.cert:
        # What to show depends on keys that the user has.
        return ["Authenticator need TLS or a token: docs/authentication.md has calls to try."]

    def grpcurl(method: str, **request: object) -> str:
        body = shlex.quote(json.dumps(request))
        return (
            f"  grpcurl -plaintext -H 'x-tenant-id: {fleet.DEMO_TENANT}' -d {body}"
            f" {address} fleet.jobs.v1.JobService/{method}"
        )

    command = shlex.quote(sys.argv[0])
    server = f" --server {address}" if address != DEFAULT_ADDRESS else ""
    return [
        "In another terminal:",
        "",
        grpcurl(
            "CreateJob",
            job_id="try-1",
            document_type="reboot",
            document_params={"delay_seconds": 5},
            target_group_id=fleet.DEMO_GROUPS[0],
        ),
        grpcurl("ListJobs", status="IN_PROGRESS", limit=10),
        grpcurl("GetJob", job_id="try-1", executions_limit=5),
        grpcurl("ListJobExecutions", job_id="try-1", status="QUEUED", limit=5),
        grpcurl("CancelExecution", job_id="try-1", device_id=_DEMO_DEVICE),
        grpcurl("RetryExecutions", job_id="try-1", statuses=["REJECTED"]),
        grpcurl("ListExecutionAttempts", job_id="try-1", device_id=_DEMO_DEVICE),
        grpcurl("CancelJob", job_id="try-1", reason="just trying"),
        grpcurl("DeleteJob", job_id="try-1"),
        "",
        "The same without grpcurl:",
        "",
        f"  {command} create --tenant demo{server} --type reboot --device device-0001",
        f"  {command} list --tenant demo{server}",
    ]
