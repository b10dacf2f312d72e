"""What a migration distributes over a Citus cluster, and when it fails there."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from jobs_grpc.db import citus, schema
from jobs_grpc.db.migrate import MigrationError, migrate
from jobs_grpc.db.pg_errors import is_shard_moved
from jobs_grpc.db.readiness import isolation_problems
from jobs_grpc.db.tenant_tables import TENANT_TABLES
from tests.db.platform_tables import PLATFORM_POLICIES, PLATFORM_TABLES
from tests.support.database import Database, new_database
from tests.support.postgres import PASSWORD, Postgres, connect, execute_on_node
from tests.support.server import running_server

pytestmark = [pytest.mark.citus, pytest.mark.slow]

TABLES = "SELECT table_name::text, citus_table_type FROM citus_tables"


@pytest.fixture
async def postgres(cluster: tuple[Postgres, str]) -> Postgres:
    return cluster[0]


@pytest.fixture
async def empty(postgres: Postgres) -> AsyncIterator[Database]:
    """A database with the extension, and a request role that does not exist yet."""
    async with new_database(postgres, new_role=True) as database:
        yield database


@pytest.fixture
async def plain(postgres: Postgres) -> AsyncIterator[Database]:
    """A database without the extension, and a request role that does not exist yet."""
    async with new_database(postgres, "template1", new_role=True) as database:
        yield database


async def _migrate(database: Database, *, require_citus: bool = False) -> list[str]:
    return await migrate(database.owner_dsn, database.role, require_citus=require_citus)


async def _kinds(database: Database) -> dict[str, str]:
    return {
        row["table_name"].removeprefix("public."): row["citus_table_type"]
        for row in await database.owner.fetch(TABLES)
    }


async def _on_each_node(database: Database, sql: str) -> set[str]:
    rows = await database.owner.fetch("SELECT * FROM run_command_on_all_nodes($1)", sql)
    return {row["result"] for row in rows}


def _without_schema(tables: tuple[str, ...]) -> set[str]:
    return {table.removeprefix("public.") for table in tables}


async def test_tables_with_a_tenant_are_distributed_and_co_located(empty: Database) -> None:
    await _migrate(empty)

    kinds = await _kinds(empty)
    references = {"jobs.migrations", "jobs.schema_code", "jobs.device_tables"}
    distributed = {name for name, kind in kinds.items() if kind == "distributed"}
    assert distributed == _without_schema(TENANT_TABLES)
    assert {name for name, kind in kinds.items() if kind == "reference"} == references
    groups = "SELECT DISTINCT colocation_id FROM citus_tables WHERE citus_table_type <> 'reference'"
    assert len(await empty.owner.fetch(groups)) == 1


async def test_delegated_functions_run_on_the_node_of_their_tenant(empty: Database) -> None:
    await _migrate(empty)

    functions = await empty.owner.fetch(
        """
        SELECT p.proname, d.distribution_argument_index, d.colocationid = jobs.colocationid AS here
        FROM pg_proc p
        JOIN pg_dist_partition jobs ON jobs.logicalrelid = 'jobs.jobs'::regclass
        LEFT JOIN pg_dist_object d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        WHERE p.pronamespace = 'jobs'::regnamespace
        """
    )
    delegated = {row["proname"] for row in functions if row["distribution_argument_index"] == 0}
    assert delegated == set(schema.delegated_functions())
    assert all(row["here"] for row in functions if row["proname"] in delegated)
    names = "SELECT string_agg(proname, ' ' ORDER BY proname) FROM pg_proc"
    of_jobs = f"{names} WHERE pronamespace = 'jobs'::regnamespace"
    assert await _on_each_node(empty, of_jobs) == {
        " ".join(sorted(f["proname"] for f in functions))
    }
    generic = "SELECT count(*) FROM pg_proc WHERE proconfig::text LIKE '%force_generic_plan%'"
    assert await _on_each_node(empty, generic) == {"0"}


async def test_existing_database_is_distributed_with_its_rows(
    postgres: Postgres, plain: Database
) -> None:
    assert "distributed" not in " ".join(await _migrate(plain))
    tenants = [f"tenant-{number}" for number in range(10)]
    async with running_server(plain.request_dsn) as server:
        for tenant in tenants:
            await plain.add_devices(tenant, 3, group="pumps")
            await server.operator(tenant).create(job_id="j", target_group_id="pumps")
            await server.device(tenant, "d00001").start("j")
    await postgres.create_citus(plain.name)

    tables = ", ".join(TENANT_TABLES)
    assert await _migrate(plain) == [f"distributed by tenant_id: {tables}"]

    assert await plain.owner.fetchval("SELECT count(*) FROM jobs.job_executions") == 30
    # No invisible row is left on the coordinator.
    sizes = "SELECT sum(pg_relation_size(logicalrelid)) FROM pg_dist_partition"
    assert await plain.owner.fetchval(sizes) == 0
    async with running_server(plain.request_dsn) as server:
        for tenant in tenants:
            job = await server.operator(tenant).get("j")
            counts = job.execution_counts
            assert (counts.queued, counts.in_progress) == (2, 1)
    assert await _migrate(plain) == []


async def test_failed_distribution_changes_nothing_and_can_be_repeated(
    postgres: Postgres, plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs_grpc.db.migrate._ATTEMPTS", 1)
    await _migrate(plain)
    await postgres.create_citus(plain.name)
    blocker = await connect(plain.owner_dsn)
    async with blocker.transaction():
        await blocker.execute("LOCK TABLE public.device_state IN ROW EXCLUSIVE MODE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await _migrate(plain)
    await blocker.close()
    assert await _kinds(plain) == {}

    assert len(await _migrate(plain)) == 1

    assert _without_schema(TENANT_TABLES) <= set(await _kinds(plain))


async def test_later_migration_changes_a_distributed_database(
    empty: Database, add_migration: Callable[[str], None]
) -> None:
    await _migrate(empty)
    add_migration(
        "ALTER TABLE jobs.jobs ADD COLUMN note text, ADD COLUMN count integer;\n"
        "ALTER TABLE jobs.job_progress ADD COLUMN note text;\n"
        "ALTER TABLE jobs.jobs ADD CONSTRAINT jobs_note_check CHECK (note <> '') NOT VALID;"
    )

    assert await _migrate(empty) == ["applied migration 9001 test", "applied views and functions"]

    columns = "SELECT count(*) FROM jobs.jobs j JOIN jobs.job_progress p USING (tenant_id, note)"
    assert await empty.owner.fetchval(columns) == 0
    argument = "SELECT min(distribution_argument_index) FROM pg_dist_object"
    assert await empty.owner.fetchval(argument) == 0
    generic = "SELECT count(*) FROM pg_proc WHERE proconfig::text LIKE '%force_generic_plan%'"
    assert await _on_each_node(empty, generic) == {"0"}


async def test_later_migration_builds_an_index_on_all_shards(
    empty: Database, add_migration: Callable[[str], None]
) -> None:
    await _migrate(empty)
    add_migration(
        "-- outside a transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS test_index"
        " ON jobs.jobs (tenant_id, cancel_reason);"
    )

    await _migrate(empty)

    shards = await empty.owner.fetch(
        "SELECT DISTINCT result FROM run_command_on_shards('jobs.jobs', $1)",
        "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = '%s'::regclass"
        " HAVING count(*) FILTER (WHERE indexrelid::regclass::text LIKE 'jobs.test_index_%%') = 1",
    )
    assert [row["result"] for row in shards] == ["t"]


async def test_tables_of_the_platform_with_another_collation_become_reference_tables(
    empty: Database,
) -> None:
    await empty.owner.execute(
        f"""
        {PLATFORM_TABLES}
        {PLATFORM_POLICIES}
        INSERT INTO device_state VALUES ('acme', 'pump');
        INSERT INTO device_group_members VALUES ('acme', 'pumps', 'pump');
        """
    )

    changes = await _migrate(empty)

    assert [line for line in changes if "reference table" in line] == [
        f"public.{name} is now a reference table, with a copy on every node: it can't be"
        ' distributed, because tenant_id is not text COLLATE "C" or is missing in a unique key'
        for name in ("device_state", "device_group_members")
    ]
    async with running_server(empty.request_dsn) as server:
        response = await server.operator("acme").create(target_group_id="pumps")
        assert response.execution_count == 1


async def test_migrate_names_the_call_when_another_role_owns_a_device_table(
    postgres: Postgres, empty: Database
) -> None:
    name = empty.name
    async with postgres.unused_role(name) as platform, postgres.unused_role(name) as owner:
        await empty.owner.execute(f"CREATE ROLE {platform.name}")
        await empty.owner.execute(
            f"CREATE ROLE {owner.name} LOGIN PASSWORD '{PASSWORD}' CREATEROLE"
        )
        for dsn in postgres.dsns(name):
            await execute_on_node(dsn, f"GRANT CREATE ON DATABASE {name} TO {owner.name}")
        await empty.owner.execute(f"GRANT CREATE ON SCHEMA public TO {owner.name}")
        await empty.owner.execute("CREATE TABLE device_state (tenant_id text, device_id text)")
        await empty.owner.execute(f"ALTER TABLE device_state OWNER TO {platform.name}")
        role = empty.role
        with pytest.raises(MigrationError) as raised:
            await migrate(postgres.dsn(name, owner), role)

        call = str(raised.value).partition("run ")[2].partition(";")[0]
        assert call == "SELECT create_reference_table('public.device_state')"
        await empty.owner.execute(call)
        await migrate(postgres.dsn(name, owner), role)

        assert (await _kinds(empty))["device_state"] == "reference"


async def test_request_role_exists_on_all_nodes(empty: Database) -> None:
    """Also if it was created before the extension."""
    role = empty.role
    await execute_on_node(empty.owner_dsn, f"CREATE ROLE {role.name} LOGIN PASSWORD '{PASSWORD}'")

    await _migrate(empty)

    exists = f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{role.name}'"
    assert await _on_each_node(empty, exists) == {"t"}


async def test_migrate_prints_the_nodes_on_which_it_grants_privileges(
    postgres: Postgres, empty: Database
) -> None:
    """On a new node, the request role has no privileges on views."""
    await _migrate(empty)
    role = empty.role.name
    worker_dsn = postgres.dsns(empty.name)[1]
    await execute_on_node(worker_dsn, f"REVOKE SELECT ON jobs.job_details FROM {role}")

    assert await _migrate(empty) == [
        f"granted {role} the privileges on views on node {postgres.citus_nodes[1]}"
    ]

    allowed = f"SELECT has_table_privilege('{role}', 'jobs.job_details', 'SELECT')"
    assert await _on_each_node(empty, allowed) == {"t"}
    assert await _migrate(empty) == []


async def test_session_without_a_tenant_gets_an_error_instead_of_no_rows(empty: Database) -> None:
    """The remaining statements of a call run in such a session if its shard moves."""
    await _migrate(empty)
    request = await asyncpg.connect(empty.request_dsn)

    for table in TENANT_TABLES:
        with pytest.raises(asyncpg.UndefinedObjectError, match=r'parameter "app\.tenant_id"') as e:
            await request.fetch(f"SELECT * FROM {table} WHERE tenant_id = 'acme'")
        assert is_shard_moved(e.value)
    await request.close()


async def test_migrate_fails_without_the_extension_only_if_it_is_required(plain: Database) -> None:
    with pytest.raises(MigrationError, match=r"^the database has no extension citus: run CREATE"):
        await _migrate(plain, require_citus=True)

    assert await plain.owner.fetchval("SELECT to_regnamespace('jobs') IS NULL")
    await _migrate(plain)


async def test_migrate_fails_on_a_worker(postgres: Postgres, empty: Database) -> None:
    with pytest.raises(
        MigrationError, match=r"^this is a worker of Citus: JOBS_OWNER_DATABASE_URL"
    ):
        await migrate(postgres.dsns(empty.name)[1], empty.role)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("DELETE FROM pg_dist_node WHERE groupid = 0", "citus_set_coordinator_host"),
        ("UPDATE pg_dist_node SET shouldhaveshards = false", "no node for shards: add workers"),
        ("UPDATE pg_dist_node SET metadatasynced = false WHERE groupid = 1", "metadata of Citus"),
        ("UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = 1", "node [^ ]*:1: failed to conn"),
    ],
)
async def test_migrate_fails_when_the_cluster_is_not_ready(
    empty: Database, change: str, problem: str
) -> None:
    await empty.owner.execute(change)

    with pytest.raises(MigrationError, match=problem) as raised:
        await _migrate(empty)

    assert "\n" not in str(raised.value)
    assert await empty.owner.fetchval("SELECT to_regnamespace('jobs') IS NULL")


async def test_migrate_fails_when_citus_is_too_old(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(citus, "_MIN_VERSION", 99)

    with pytest.raises(MigrationError, match=r"^Citus [^ ]+ is too old: upgrade it to 99 or newer"):
        await _migrate(empty)


async def test_check_finds_what_does_not_isolate_tenants_on_a_worker(
    postgres: Postgres, empty: Database
) -> None:
    await _migrate(empty)
    role = empty.role.name
    worker_dsn = postgres.dsns(empty.name)[1]
    worker = await asyncpg.connect(worker_dsn)
    shard = await worker.fetchval(
        "SELECT shard_name(logicalrelid, shardid) FROM pg_dist_shard"
        " WHERE logicalrelid = 'jobs.jobs'::regclass"
        " AND to_regclass(shard_name(logicalrelid, shardid)) IS NOT NULL LIMIT 1"
    )
    await execute_on_node(
        worker_dsn,
        "SET citus.enable_manual_changes_to_shards = on",
        f"ALTER TABLE {shard} DISABLE ROW LEVEL SECURITY",
        f"ALTER ROLE {role} BYPASSRLS",
    )
    request = await asyncpg.connect(empty.request_dsn)

    problems = await isolation_problems(request)

    node = f"node {postgres.citus_nodes[1]}"
    assert [problem for problem, _ in problems] == [
        f"{node}: role {role} has BYPASSRLS",
        f"{node}: table {shard} has no row-level security",
    ]
    for _, remedy in problems:
        await worker.execute(remedy.removeprefix(f"on {postgres.citus_nodes[1]}: "))
    assert await isolation_problems(request) == []
    await request.close()
    await worker.close()


async def test_check_finds_a_restrictive_policy_that_does_not_isolate_tenants(
    empty: Database,
) -> None:
    """On the nodes it is permissive. They get it again from the coordinator if a shard moves."""
    await _migrate(empty)
    role = empty.role.name
    await empty.owner.execute("CREATE POLICY open ON jobs.jobs AS RESTRICTIVE USING (true)")
    request = await asyncpg.connect(empty.request_dsn)

    [(problem, remedy)] = await isolation_problems(request)

    assert (
        problem == f"policy open on table jobs.jobs may show role {role} the rows of other tenants"
    )
    await empty.owner.execute(remedy)
    assert await isolation_problems(request) == []
    await request.close()


async def test_node_that_does_not_respond_is_isolated(empty: Database) -> None:
    """It shows no rows."""
    await _migrate(empty)
    request = await asyncpg.connect(empty.request_dsn)
    await empty.owner.execute("UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = 1")

    assert await isolation_problems(request) == []
    await request.close()
