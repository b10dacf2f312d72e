"""Distributes the tables and functions over the nodes of a Citus cluster.

A tenant's rows are on one node, and calls of the tenant run there. docs/operations/citus.md
explains it.
"""

import json
from collections.abc import Sequence
from functools import cache

import asyncpg

from jobs_grpc.db import schema
from jobs_grpc.db.tenant_tables import TENANT_TABLES

# The oldest major version that the tests have run on.
_MIN_VERSION = 13

# Every node has a copy of them.
_REFERENCE_TABLES = ("jobs.migrations", "jobs.schema_code", "jobs.device_tables")


class ClusterError(Exception):
    """The cluster cannot hold the schema. The message says why, and what to do."""


async def is_installed(connection: asyncpg.Connection) -> bool:
    """Return whether the database has the extension citus."""
    installed: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
    )
    return installed


async def check_cluster(connection: asyncpg.Connection) -> None:
    """Raise ClusterError if this is not the coordinator of a cluster whose nodes all respond."""
    [cluster] = await connection.fetch(schema.read_sql("citus/cluster.sql"))
    version: str = cluster["version"]
    problem = None
    if int(version.partition(".")[0]) < _MIN_VERSION:
        problem = f"Citus {version} is too old: upgrade it to {_MIN_VERSION} or newer on all nodes"
    elif not cluster["is_coordinator"]:
        problem = "this is a worker of Citus: JOBS_OWNER_DATABASE_URL must name the coordinator"
    elif not cluster["has_coordinator"]:
        problem = (
            "the coordinator of Citus is not in its metadata: run SELECT"
            " citus_set_coordinator_host('HOST', PORT), with the address for the other nodes"
        )
    elif not cluster["shard_nodes"]:
        problem = (
            "Citus has no node for shards: add workers with SELECT citus_add_node('HOST', PORT)"
        )
    elif cluster["without_metadata"]:
        nodes = ", ".join(cluster["without_metadata"])
        problem = f"{nodes}: no metadata of Citus; run SELECT start_metadata_sync_to_all_nodes()"
    elif failed := await failed_nodes(connection, "SELECT true"):
        problem = f"{failed}: start the node, then migrate again"
    if problem:
        raise ClusterError(problem)


async def failed_nodes(connection: asyncpg.Connection, command: str) -> str:
    """Run a command on all nodes; return those on which it does not return true, and why."""
    rows = await connection.fetch(schema.read_sql("citus/failed_nodes.sql"), command)
    return "; ".join(f"node {row['node']}: {row['result'] or 'no result'}" for row in rows)


async def nodes_without_privileges(connection: asyncpg.Connection, role: str) -> list[str]:
    """Return the nodes on which the role may not read all views.

    On a new node, Citus grants the privileges on tables and functions, but not those on views.
    """
    quoted = await connection.fetchval("SELECT quote_literal($1)", role)
    command = schema.read_sql("citus/can_read_views.sql").replace("{role}", quoted)
    rows = await connection.fetch(schema.read_sql("citus/failed_nodes.sql"), command)
    return [f"node {row['node']}" for row in rows]


async def create_role(connection: asyncpg.Connection, name: str, create: str) -> None:
    """Run `create` on the nodes that have no role `name`.

    Citus creates roles on all nodes, but only those that were created after the extension. Raises
    ClusterError if a node does not let the owner create it.
    """
    quoted = await connection.fetchval("SELECT quote_literal($1)", name)
    exists = f"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = {quoted})"  # noqa: S608
    if not await failed_nodes(connection, exists):
        return
    await connection.execute(
        "SELECT run_command_on_all_nodes($1)",
        "DO $do$ BEGIN SET LOCAL citus.enable_ddl_propagation TO off;"
        f" IF NOT ({exists}) THEN {create}; END IF; END $do$",
    )
    if failed := await failed_nodes(connection, exists):
        raise ClusterError(f"{failed}: as an administrator of the node, create the role {name}")


async def distribute_tables(connection: asyncpg.Connection) -> list[str]:
    """Distribute the tables by tenant_id, with their rows. Return one line per change.

    Also create the types on all nodes. Runs in a transaction of the caller. Raises ClusterError if
    a table of the platform stands in the way.
    """
    # The functions and grants of the same transaction need one connection per node.
    await connection.execute("SET LOCAL citus.multi_shard_modify_mode = 'sequential'")
    # First: a record type is created in a session that does not see the enums of its fields if this
    # transaction has created them.
    await _distribute_types(connection)
    tables = await _tables(connection)
    local = [table for table in tables if table["kind"] == "local"]
    _check_platform_tables(tables)
    await _require_tenant(connection)
    anchor = next((t["name"] for t in tables if t["kind"] == "distributed"), "default")
    distributed = []
    changes = []
    for table in local:
        name = table["name"]
        if name in _REFERENCE_TABLES:
            await connection.execute("SELECT create_reference_table($1::text::regclass)", name)
        elif not table["can_be_distributed"]:
            await connection.execute("SELECT create_reference_table($1::text::regclass)", name)
            changes.append(_IS_REFERENCE_TABLE.format(name=name))
        else:
            await connection.execute(
                "SELECT create_distributed_table($1::text::regclass, 'tenant_id',"
                " colocate_with => $2)",
                name,
                anchor,
            )
            anchor = name if anchor == "default" else anchor
            distributed.append(name)
    tables = await _tables(connection)
    _check_colocation(tables)
    for table in tables:
        if table["has_local_rows"] and table["is_own"]:
            await connection.execute(
                "SELECT truncate_local_data_after_distributing_table($1::text::regclass)",
                table["name"],
            )
    if distributed:
        changes.insert(0, f"distributed by tenant_id: {', '.join(distributed)}")
    return changes


async def distribute_functions(connection: asyncpg.Connection) -> None:
    """Let calls run on the node of their tenant. Runs in a transaction of the caller."""
    functions = await connection.fetch(
        schema.read_sql("citus/functions.sql"), list(schema.delegated_functions())
    )
    for function in functions:
        signature = function["signature"]
        for change in function["changes"]:
            await connection.execute(f"ALTER FUNCTION {signature} {change}")
        if not function["must_be_distributed"]:
            continue
        if function["argument"]:
            await connection.execute(
                "SELECT create_distributed_function($1::text::regprocedure, $2,"
                " colocate_with => 'jobs.jobs')",
                signature,
                function["argument"],
            )
        else:
            await connection.execute(
                "SELECT create_distributed_function($1::text::regprocedure)", signature
            )


async def isolation_problems(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    """Return why a node would show the role of the connection other tenants' rows.

    Each with the SQL that fixes it. A node that does not respond shows no rows. Raises ClusterError
    if the check fails on a node.
    """
    problems = []
    for row in await connection.fetch(schema.read_sql("citus/isolation.sql"), _isolation_check()):
        node = row["node"]
        if row["success"]:
            problems += [
                (f"node {node}: {problem}", f"on {node}: {_ON_THIS_NODE}; {remedy}")
                for problem, remedy in json.loads(row["result"])
            ]
        elif not row["result"].startswith("failed to connect"):
            raise ClusterError(f"node {node} can't check the isolation of tenants: {row['result']}")
    return problems


@cache
def _isolation_check() -> str:
    """Return checks/isolation.sql for run_command_on_all_nodes, which takes no parameters."""
    tables = "ARRAY[" + ", ".join(f"'{table}'" for table in TENANT_TABLES) + "]"
    shards = (
        f"{tables} || ARRAY(SELECT shard_name(logicalrelid, shardid, false) FROM pg_dist_shard"  # noqa: S608
        f" WHERE logicalrelid = ANY (ARRAY(SELECT to_regclass(t) FROM unnest({tables}) AS t)))"
    )
    check = schema.read_sql("checks/isolation.sql").replace("$1::text[]", shards)
    return schema.read_sql("citus/isolation_on_node.sql").replace("{check}", check)


_ON_THIS_NODE = (
    "SET citus.enable_ddl_propagation = off; SET citus.enable_manual_changes_to_shards = on"
)

_IS_REFERENCE_TABLE = (
    "{name} is now a reference table, with a copy on every node: it can't be distributed, because"
    ' tenant_id is not text COLLATE "C" or is missing in a unique key'
)


async def _tables(connection: asyncpg.Connection) -> Sequence[asyncpg.Record]:
    rows: Sequence[asyncpg.Record] = await connection.fetch(
        schema.read_sql("citus/table_distribution.sql"), [*_REFERENCE_TABLES, *TENANT_TABLES]
    )
    return rows


async def _require_tenant(connection: asyncpg.Connection) -> None:
    """Make policies raise an error instead of showing no rows if the tenant is not set."""
    policies = await connection.fetch(schema.read_sql("citus/policies.sql"), list(TENANT_TABLES))
    for policy in policies:
        await connection.execute(
            f"ALTER POLICY tenant_isolation ON {policy['name']}"
            " USING (tenant_id = current_setting('app.tenant_id'))"
        )


async def _distribute_types(connection: asyncpg.Connection) -> None:
    """Create the types that are older than the extension on all nodes.

    Citus does so for the types in the signature of a new function.
    """
    for row in await connection.fetch(schema.read_sql("citus/types.sql")):
        name = row["name"]
        await connection.execute(
            f"CREATE FUNCTION jobs.distribute_type({name}) RETURNS void LANGUAGE sql AS ''"
        )
        await connection.execute(f"DROP FUNCTION jobs.distribute_type({name})")


def _check_platform_tables(tables: Sequence[asyncpg.Record]) -> None:
    for table in tables:
        name = table["name"]
        if table["kind"] == "local" and not table["is_own"]:
            call = (
                f"create_distributed_table('{name}', 'tenant_id')"
                if table["can_be_distributed"]
                else f"create_reference_table('{name}')"
            )
            raise ClusterError(
                f"table {name} belongs to another role: as its owner, run SELECT {call};"
                " then migrate again"
            )


def _check_colocation(tables: Sequence[asyncpg.Record]) -> None:
    jobs = next(table for table in tables if table["name"] == "jobs.jobs")
    for table in tables:
        if table["kind"] == "reference" or table["colocation_id"] == jobs["colocation_id"]:
            continue
        raise ClusterError(
            f"table {table['name']} is distributed, but not co-located with jobs.jobs: as its"
            f" owner, run SELECT undistribute_table('{table['name']}'); then migrate again"
        )
