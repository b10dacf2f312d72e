"""Checks of a Citus cluster: its nodes, and the tenants' shards on each."""

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.db import citus
from jobs_grpc.doctor.connection import fetch_one
from jobs_grpc.doctor.finding import Finding, Status


async def check_cluster(connection: asyncpg.Connection, config: Config) -> list[Finding]:
    """Report nodes that do not respond or have no shards, and tables that are not distributed."""
    if not await citus.is_installed(connection):
        return [Finding("cluster", Status.OK, "the database is on one node")]
    if failed := await citus.failed_nodes(connection, "SELECT true"):
        return [Finding("cluster", Status.ERROR, failed, "start the node")]
    cluster = await fetch_one(connection, "cluster")
    if not cluster["distributed"]:
        detail = "the database has the extension citus, but the tables are not distributed"
        return [Finding("cluster", Status.ERROR, detail, "run `jobs-grpc migrate`")]
    shards = dict(zip(cluster["nodes"], cluster["shards"], strict=True))
    detail = "shards: " + ", ".join(f"{count} on {node}" for node, count in shards.items())
    if min(shards.values()) * 2 < max(shards.values()):
        remedy = "as the owner, run: SELECT citus_rebalance_start();"
        return [Finding("cluster", Status.WARNING, detail, remedy)]
    return [Finding("cluster", Status.OK, detail)]
