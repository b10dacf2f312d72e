"""What a migration creates, what it keeps, and when it fails."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.migrate import MigrationError, RequestRole, migrate
from jobs_grpc.db.readiness import NotIsolated, NotReady, check_ready, missing_table_privileges
from jobs_grpc.db.tenant_tables import TENANT_TABLES
from tests.db.platform_tables import PLATFORM_POLICIES, PLATFORM_TABLES
from tests.support.database import Database, new_database
from tests.support.health import wait_until_healthy
from tests.support.postgres import Postgres, connect, connected
from tests.support.server import running_server, starting_server

BEFORE_CODE = [f"applied migration {m.label}" for m in schema.migrations() if not m.after_code]
CODE = "applied views and functions"
OWN = "the device tables are the service's own"
PLATFORM = "the device tables are managed by the platform"
DISTRIBUTED = f"distributed by tenant_id: {', '.join(TENANT_TABLES)}"
VIEWS = [name for name, sql in schema.code().items() if "CREATE OR REPLACE VIEW" in sql]
AFTER_CODE = [f"applied migration {m.label}" for m in schema.migrations() if m.after_code]


@dataclass(frozen=True)
class Target(Database):
    """A database, and a request role that does not exist yet."""

    postgres: Postgres

    @property
    def distributed(self) -> list[str]:
        """What `migrate` also reports on Citus."""
        return [DISTRIBUTED] if self.postgres.citus_nodes else []

    async def migrate(self, **options: Any) -> list[str]:
        return await migrate(self.owner_dsn, self.role, **options)

    def new_role(self) -> AbstractAsyncContextManager[RequestRole]:
        return self.postgres.unused_role(self.name)

    async def create_logins(self, *roles: RequestRole) -> None:
        for role in roles:
            await self.owner.execute(f"CREATE ROLE {role.name} LOGIN PASSWORD '{role.password}'")


@asynccontextmanager
async def new_target(postgres: Postgres, template: str | None = None) -> AsyncIterator[Target]:
    async with new_database(postgres, template, new_role=True) as database:
        yield Target(database.owner_dsn, database.request_dsn, database.owner, postgres=postgres)


@pytest.fixture
async def empty(cluster: tuple[Postgres, str]) -> AsyncIterator[Target]:
    """A new empty database, and a role that does not exist."""
    async with new_target(cluster[0]) as target:
        yield target


@pytest.fixture
async def migrated(cluster: tuple[Postgres, str]) -> AsyncIterator[Target]:
    async with new_target(*cluster) as target:
        await target.migrate()
        yield target


async def list_jobs(dsn: str) -> None:
    async with running_server(dsn) as server:
        assert not (await server.operator("any").list()).jobs


async def test_migrate_applies_everything_to_an_empty_database(empty: Target) -> None:
    done = await empty.migrate()

    code = [*empty.distributed, CODE]
    assert done == [OWN, *BEFORE_CODE, f"created role {empty.role.name}", *code, *AFTER_CODE]
    await list_jobs(empty.request_dsn)


async def test_migrate_changes_nothing_the_second_time(migrated: Target) -> None:
    state = (
        "SELECT xmin::text, version, checksum FROM jobs.migrations"
        " UNION ALL SELECT xmin::text, 0, checksum FROM jobs.schema_code"
        " UNION ALL SELECT prosrc, oid::int, proacl::text FROM pg_proc"
        " WHERE pronamespace = 'jobs'::regnamespace ORDER BY 2"
    )
    before = await migrated.owner.fetch(state)

    assert await migrated.migrate() == []

    assert await migrated.owner.fetch(state) == before


async def test_one_of_two_concurrent_migrations_applies_everything(empty: Target) -> None:
    done = await asyncio.gather(empty.migrate(), empty.migrate())

    code = [*empty.distributed, CODE]
    assert sorted(map(len, done)) == [
        0,
        len([OWN, *BEFORE_CODE, "created role", *code, *AFTER_CODE]),
    ]


async def test_migrate_creates_a_second_request_role(migrated: Target) -> None:
    async with migrated.new_role() as second:
        await migrate(migrated.owner_dsn, second)

        await list_jobs(migrated.postgres.dsn(migrated.name, second))


async def test_migrate_fails_when_an_applied_migration_was_edited(migrated: Target) -> None:
    await migrated.owner.execute("UPDATE jobs.migrations SET checksum = 'other'")

    with pytest.raises(
        MigrationError, match="migration 0001 schema was applied with different SQL"
    ):
        await migrated.migrate()


async def test_migrate_replaces_functions_of_another_version(migrated: Target) -> None:
    await migrated.owner.execute(
        "DROP FUNCTION jobs.cancel_job; UPDATE jobs.schema_code SET checksum = 'another version'"
    )

    assert await migrated.migrate() == ["applied views and functions"]

    assert await migrated.owner.fetchval("SELECT to_regproc('jobs.cancel_job') IS NOT NULL")


@pytest.mark.slow
@pytest.mark.single_node("Citus chooses which transaction of a deadlock ends")
async def test_migrate_gives_way_to_a_call_with_which_it_deadlocks(migrated: Target) -> None:
    reports: list[str] = []
    await migrated.owner.execute("UPDATE jobs.schema_code SET checksum = 'another version'")
    call = await connect(migrated.owner_dsn)
    # PostgreSQL ends the session that notices the deadlock, unless a lock times out before.
    await call.execute("SET deadlock_timeout = '1min'")

    async with call.transaction():
        await call.execute("SELECT FROM jobs.jobs_with_release")
        migrating = asyncio.create_task(migrated.migrate(report=reports.append))
        # It has locked the other views.
        await migrated.wait_for_blocked_sessions(1)
        await call.execute("SELECT FROM jobs.job_page")
        await migrated.owner.execute("SELECT FROM jobs.job_page")  # Other calls go on.
    await call.close()

    assert await migrating == ["applied views and functions"]
    assert set(reports) == {"waiting for calls that use the same tables or views"}


async def test_migrate_replaces_views_beside_one_of_another_role(migrated: Target) -> None:
    async with migrated.new_role() as other:
        await migrated.owner.execute(
            f"CREATE ROLE {other.name}; CREATE VIEW jobs.report AS SELECT FROM jobs.job_states;"
            f"ALTER VIEW jobs.report OWNER TO {other.name};"
            "UPDATE jobs.schema_code SET checksum = 'another version'"
        )

        assert (await migrated.migrate())[-1] == CODE
        await migrated.owner.execute("DROP VIEW jobs.report")


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO jobs.schema_code (checksum) VALUES ('a later version')",
        "INSERT INTO jobs.migrations (version, name, checksum) VALUES (9999, 'later', '');"
        "UPDATE jobs.schema_code SET checksum = 'a later version'",
    ],
)
async def test_migrate_keeps_functions_of_a_newer_version(migrated: Target, change: str) -> None:
    """As when the old version migrates again during an upgrade."""
    await migrated.owner.execute(f"DROP FUNCTION jobs.cancel_job; {change}")

    done = await migrated.migrate()

    assert done == ["kept the views and functions of a newer version"]
    assert await migrated.owner.fetchval("SELECT to_regproc('jobs.cancel_job') IS NULL")


@pytest.mark.slow
async def test_migrate_adds_a_last_column_to_each_view_and_removes_it(
    migrated: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = schema.code()
    monkeypatch.setattr(schema, "code_checksum", schema.code_checksum.__wrapped__)
    # Each version has no new columns of the version before it.
    for views in (VIEWS[::2], VIEWS[1::2], VIEWS[:1]):
        changed = {}
        for view in views:
            columns, clause, rest = re.split(r"(\nFROM |\nWHERE )", original[view], maxsplit=1)
            changed[view] = f"{columns},\n    1 AS new_in_{view}{clause}{rest}"
        monkeypatch.setattr(schema, "code", lambda changed=changed: {**original, **changed})

        assert await migrated.migrate() == ["applied views and functions"]

        last_columns = await migrated.owner.fetch(
            "SELECT DISTINCT ON (table_name) table_name, column_name"
            " FROM information_schema.columns WHERE table_schema = 'jobs' AND table_name = ANY ($1)"
            " ORDER BY table_name, ordinal_position DESC",
            views,
        )
        assert {row[0]: row[1] for row in last_columns} == {v: f"new_in_{v}" for v in views}


_VIEWS_AND_FUNCTIONS = """
    SELECT oid::regprocedure::text AS name, pg_get_functiondef(oid) AS definition FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace
    UNION ALL
    SELECT viewname::text, definition FROM pg_views WHERE schemaname = 'jobs'
    ORDER BY 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "earlier",
    [
        # Other parameters: of a function that views use, too.
        "CREATE FUNCTION jobs.cancel_job(p_tenant_id text, p_job_id text) RETURNS void"
        " LANGUAGE sql AS ''",
        "CREATE FUNCTION jobs.is_expired_at(p_expires_at timestamptz) RETURNS boolean LANGUAGE sql"
        " IMMUTABLE RETURN true; DROP VIEW jobs.job_states CASCADE;"
        "CREATE VIEW jobs.job_states AS SELECT jobs.is_expired_at(NULL)",
        # Other results.
        "DROP FUNCTION jobs.cancel_job; CREATE FUNCTION jobs.cancel_job(p_tenant_id text,"
        " p_job_id text, p_reason text, p_force boolean) RETURNS integer LANGUAGE sql RETURN 1",
        # Other names of parameters.
        "DROP FUNCTION jobs.cancel_job; CREATE FUNCTION jobs.cancel_job(p_tenant_id text,"
        " p_job text, p_reason text, p_force boolean) RETURNS void LANGUAGE sql AS ''",
        # Other columns of a view that a view and functions use.
        "DROP VIEW jobs.job_details CASCADE; CREATE VIEW jobs.job_details AS SELECT 1 AS other;"
        "CREATE FUNCTION jobs.get_jobs(p_tenant_id text, p_job_ids text[])"
        " RETURNS SETOF jobs.job_details LANGUAGE sql AS 'SELECT 1'",
    ],
)
async def test_migrate_replaces_views_and_functions_that_do_not_fit(
    migrated: Target, earlier: str
) -> None:
    before = await migrated.owner.fetch(_VIEWS_AND_FUNCTIONS)
    await migrated.owner.execute(earlier)
    await migrated.owner.execute("DELETE FROM jobs.schema_code")

    assert (await migrated.migrate())[-1] == CODE

    assert await migrated.owner.fetch(_VIEWS_AND_FUNCTIONS) == before
    await list_jobs(migrated.request_dsn)


async def test_migrate_keeps_functions_that_fit(empty: Target) -> None:
    """A function that is dropped and created again loses its privileges."""
    oids = "SELECT oid FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace ORDER BY 1"
    await empty.migrate()
    before = await empty.owner.fetch(oids)
    await empty.owner.execute("DELETE FROM jobs.schema_code")

    await empty.migrate()

    assert await empty.owner.fetch(oids) == before


@pytest.mark.slow
async def test_migrate_keeps_the_privileges_of_other_roles_on_a_view_that_it_creates_again(
    migrated: Target,
) -> None:
    async with migrated.new_role() as second:
        await migrate(migrated.owner_dsn, second)
        await migrated.owner.execute(
            "ALTER VIEW jobs.job_states RENAME COLUMN job_id TO other;DELETE FROM jobs.schema_code"
        )

        await migrated.migrate()

        await list_jobs(migrated.postgres.dsn(migrated.name, second))


_ACLS = """
    SELECT relacl::text[] FROM pg_class WHERE oid = 'jobs.job_states'::regclass
    UNION ALL SELECT attacl::text[] FROM pg_attribute
    WHERE attrelid = 'jobs.job_states'::regclass AND attname = 'job_id'
    UNION ALL SELECT proacl::text[] FROM pg_proc WHERE oid = 'jobs.get_jobs'::regproc
"""


@pytest.mark.slow
async def test_migrate_restores_privileges_on_views_columns_and_functions(empty: Target) -> None:
    await empty.migrate()
    async with empty.new_role() as second:
        await migrate(empty.owner_dsn, second)
        await empty.owner.execute(
            f"GRANT SELECT ON jobs.job_states TO {second.name} WITH GRANT OPTION;"
            f"GRANT UPDATE (job_id, status) ON jobs.job_states TO {second.name} WITH GRANT OPTION;"
            "REVOKE ALL ON FUNCTION jobs.get_jobs FROM PUBLIC"
        )
        before = await empty.owner.fetch(_ACLS)
        await empty.owner.execute(
            # The view that is created again has no column "other", which the role may update.
            "ALTER VIEW jobs.job_states RENAME COLUMN status TO other;"
            "DROP FUNCTION jobs.get_jobs;"
            "CREATE FUNCTION jobs.get_jobs(p_tenant_id text) RETURNS void LANGUAGE sql AS '';"
            "REVOKE ALL ON FUNCTION jobs.get_jobs FROM PUBLIC;"
            f"GRANT EXECUTE ON FUNCTION jobs.get_jobs TO {second.name};"
            "DELETE FROM jobs.schema_code"
        )

        await empty.migrate()

        assert [sorted(row[0]) for row in await empty.owner.fetch(_ACLS)] == [
            sorted(row[0]) for row in before
        ]


@pytest.mark.single_node("the view of the administrator is on one node")
async def test_migrate_fails_when_a_foreign_view_depends_on_a_view_that_must_be_dropped(
    migrated: Target,
) -> None:
    await migrated.owner.execute(
        "CREATE VIEW public.report AS SELECT status FROM jobs.job_states;"
        "DELETE FROM jobs.schema_code"
    )
    assert await migrated.migrate() == ["applied views and functions"]
    await migrated.owner.execute(
        "ALTER VIEW jobs.job_states RENAME COLUMN job_id TO other;DELETE FROM jobs.schema_code"
    )

    with pytest.raises(
        MigrationError,
        match=r"^jobs\.job_states changes, and other objects depend on it: view report; drop them",
    ):
        await migrated.migrate()

    assert await migrated.owner.fetch("SELECT * FROM public.report") == []


@pytest.mark.single_node("the domain of the administrator is on one node")
@pytest.mark.parametrize("base", ["jobs.job_states", "jobs.job_states[]"])
async def test_migrate_fails_when_a_domain_depends_on_the_rows_of_a_view_that_must_be_dropped(
    migrated: Target, base: str
) -> None:
    await migrated.owner.execute(
        f"CREATE DOMAIN public.reported AS {base};"
        "ALTER VIEW jobs.job_states RENAME COLUMN job_id TO other;DELETE FROM jobs.schema_code"
    )

    with pytest.raises(MigrationError, match="objects depend on it: type reported; drop them"):
        await migrated.migrate()

    assert await migrated.owner.fetchval("SELECT to_regtype('public.reported') IS NOT NULL")


async def test_migrate_keeps_tables_rows_and_policies_of_the_platform(empty: Target) -> None:
    await empty.owner.execute(
        f"""
        {PLATFORM_TABLES}
        {PLATFORM_POLICIES}
        ALTER TABLE device_state ADD model text, ADD seen_at timestamptz;
        ALTER TABLE device_group_members ADD added_by text;
        INSERT INTO device_state VALUES ('acme', 'pump', 'P-9', '2026-01-01T00:00Z');
        INSERT INTO device_group_members VALUES ('acme', 'pumps', 'pump', 'olivia');
        """
    )
    shape = (
        "SELECT attrelid, attname, atttypid, attnotnull FROM pg_attribute WHERE attrelid IN"
        " ('device_state'::regclass, 'device_group_members'::regclass) ORDER BY attrelid, attnum"
    )
    policies = "SELECT * FROM pg_policies WHERE schemaname = 'public' ORDER BY tablename"
    rows = "SELECT * FROM device_state NATURAL JOIN device_group_members"
    before = [await empty.owner.fetch(sql) for sql in (shape, policies, rows)]

    await empty.migrate()

    assert [await empty.owner.fetch(sql) for sql in (shape, policies, rows)] == before
    async with running_server(empty.request_dsn) as server:
        response = await server.operator("acme").create(target_group_id="pumps")
        assert response.execution_count == 1


async def test_migrate_does_not_enable_row_level_security_on_tables_of_the_platform(
    empty: Target,
) -> None:
    """If the platform does not expect it, row-level security hides every row from it."""
    await empty.owner.execute("CREATE TABLE device_state (tenant_id text, device_id text)")

    await empty.migrate()

    table = "oid = 'public.device_state'::regclass AND NOT relrowsecurity"
    assert await empty.owner.fetchval(f"SELECT true FROM pg_class WHERE {table}")
    assert not await empty.owner.fetch(
        "SELECT FROM pg_policy WHERE polrelid = 'public.device_state'::regclass"
    )
    async with starting_server(empty.request_dsn) as server:
        with pytest.raises(NotIsolated, match="table device_state has no row-level security"):
            await server.app.failure


@pytest.mark.single_node("on Citus, the owner of the device tables distributes them first")
async def test_migrate_succeeds_when_another_role_owns_the_device_tables(empty: Target) -> None:
    """Only that role can grant SELECT to the request role; the server waits for it."""
    async with empty.new_role() as platform, empty.new_role() as owner:
        await empty.create_logins(empty.role, owner)
        await empty.owner.execute(
            f"CREATE ROLE {platform.name};GRANT CREATE ON DATABASE {empty.name} TO {owner.name}"
        )
        for table in ("device_state", "device_group_members"):
            await empty.owner.execute(
                f"CREATE TABLE {table} (tenant_id text, group_id text, device_id text);"
                f"ALTER TABLE {table} OWNER TO {platform.name};"
                f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
                f"CREATE POLICY own ON {table} USING (tenant_id = current_setting('app.tenant_id'))"
            )

        await migrate(empty.postgres.dsn(empty.name, owner), empty.role)

        async with starting_server(empty.request_dsn) as server:
            await empty.owner.execute(
                f"SET ROLE {platform.name};"
                f"GRANT SELECT ON device_state, device_group_members TO {empty.role.name};"
                "RESET ROLE"
            )
            await wait_until_healthy(server.channel)
            assert not (await server.operator("any").list()).jobs


async def writable_tables(empty: Target) -> list[str]:
    """Return the device tables into which the request role may write in every way."""
    rows = await empty.owner.fetch(
        """
        SELECT name FROM unnest('{device_group_members, device_state}'::text[]) AS name
        WHERE has_table_privilege($1, name, 'INSERT') AND has_table_privilege($1, name, 'UPDATE')
          AND has_table_privilege($1, name, 'DELETE')
        ORDER BY name
        """,
        empty.role.name,
    )
    return [row["name"] for row in rows]


@pytest.mark.parametrize(
    "tables", [PLATFORM_TABLES, PLATFORM_TABLES.partition("CREATE TABLE device_group_members")[0]]
)
async def test_device_tables_are_the_platforms_when_one_exists(empty: Target, tables: str) -> None:
    await empty.owner.execute(tables)

    done = await empty.migrate()

    assert done[0] == PLATFORM
    assert await writable_tables(empty) == []
    assert await empty.migrate() == []


async def test_device_tables_are_decided_again_when_the_first_migration_did_not_run(
    empty: Target,
) -> None:
    """A run that ends before the first migration, and a platform that then creates the tables."""
    await empty.owner.execute(schema.read_sql("bootstrap.sql"))
    await empty.owner.execute("INSERT INTO jobs.device_tables (is_own) VALUES (true)")
    await empty.owner.execute(PLATFORM_TABLES)

    assert (await empty.migrate())[0] == PLATFORM


async def test_option_makes_device_tables_own_and_the_platforms_again(empty: Target) -> None:
    await empty.owner.execute(PLATFORM_TABLES)
    await empty.migrate()
    index = "SELECT to_regclass('public.device_group_members_by_device') IS NOT NULL"

    assert await empty.migrate(device_tables_manager="own") == [OWN]
    assert await writable_tables(empty) == ["device_group_members", "device_state"]
    assert await empty.owner.fetchval(index)
    assert await empty.migrate() == []

    assert await empty.migrate(device_tables_manager="platform") == [PLATFORM]
    assert await writable_tables(empty) == []


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (
            PLATFORM_TABLES.replace(
                "device_id text, PRIMARY", "device_id text, model text NOT NULL, PRIMARY"
            ),
            "column model of table public.device_state is NOT NULL without a default",
        ),
        (
            PLATFORM_TABLES.replace(
                "PRIMARY KEY (tenant_id, group_id", "UNIQUE (group_id, tenant_id"
            ),
            None,
        ),
        (
            PLATFORM_TABLES.replace(", PRIMARY KEY (tenant_id, device_id)", ""),
            "table public.device_state has no unique key (tenant_id, device_id)",
        ),
    ],
)
async def test_device_tables_are_own_only_when_calls_can_write_to_them(
    empty: Target, tables: str, problem: str | None
) -> None:
    await empty.owner.execute(tables)

    if problem is None:
        await empty.migrate(device_tables_manager="own")
    else:
        with pytest.raises(MigrationError, match=re.escape(problem)):
            await empty.migrate(device_tables_manager="own")


async def test_server_waits_for_privileges_on_own_device_tables(migrated: Target) -> None:
    await migrated.owner.execute(f"REVOKE DELETE ON device_state FROM {migrated.role.name}")

    async with connected(migrated.request_dsn) as request:
        with pytest.raises(NotReady, match=r"run: GRANT DELETE ON public\.device_state TO"):
            await check_ready(request)


async def test_server_waits_for_each_privilege_that_migrate_grants(migrated: Target) -> None:
    privileges = """
        SELECT table_name, privilege_type FROM information_schema.role_table_grants
        WHERE grantee = $1 AND table_schema = 'jobs' ORDER BY 1, 2
    """
    granted = await migrated.owner.fetch(privileges, migrated.role.name)
    await migrated.owner.execute(
        f"REVOKE ALL ON ALL TABLES IN SCHEMA jobs FROM {migrated.role.name}"
    )

    async with connected(migrated.request_dsn) as request:
        for remedy in await missing_table_privileges(request):
            await migrated.owner.execute(remedy)

    assert await migrated.owner.fetch(privileges, migrated.role.name) == granted


async def test_migrate_counts_the_devices_of_own_tables(migrated: Target) -> None:
    await migrated.owner.execute(
        "INSERT INTO public.device_state (tenant_id, device_id) VALUES ('a', '1'), ('a', '2')"
    )
    counts = "SELECT tenant_id, device_count FROM jobs.device_counts"
    assert await migrated.owner.fetch(counts) == []

    await migrated.migrate()
    assert [tuple(row) for row in await migrated.owner.fetch(counts)] == [("a", 2)]
    await migrated.migrate(device_tables_manager="platform")
    assert await migrated.owner.fetch(counts) == []


async def test_request_role_has_only_the_privileges_that_it_needs(migrated: Target) -> None:

    writes = await migrated.owner.fetch(
        """
        SELECT c.oid::regclass::text, p.privilege FROM pg_class c,
            unnest('{INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES}'::text[]) p(privilege)
        WHERE c.relnamespace IN ('jobs'::regnamespace, 'public'::regnamespace)
          AND c.relkind IN ('r', 'v', 'p') AND has_table_privilege($1, c.oid, p.privilege)
        ORDER BY 1, 2
        """,
        migrated.role.name,
    )

    tables = (
        *("jobs.job_criterion_counts", "jobs.job_executions", "jobs.job_failure_criteria"),
        *("jobs.job_failures", "jobs.job_labels", "jobs.job_progress", "jobs.job_stages"),
        "jobs.jobs",
    )
    # UpdateJob replaces criteria and labels.
    replaced = {"jobs.job_criterion_counts", "jobs.job_failure_criteria", "jobs.job_labels"}
    assert [tuple(row) for row in writes] == [
        *(
            (table, privilege)
            for table in (
                "device_group_members",
                "device_state",
                "jobs.continuous_jobs",
                "jobs.device_changes",
                "jobs.device_counts",
                "jobs.device_facts",
                "jobs.devices",
            )
            for privilege in ("DELETE", "INSERT", "UPDATE")
            if (table, privilege)
            not in (("jobs.device_changes", "UPDATE"), ("jobs.device_counts", "DELETE"))
        ),
        ("jobs.event_heads", "INSERT"),
        ("jobs.event_heads", "UPDATE"),
        ("jobs.event_queue", "DELETE"),
        ("jobs.event_queue", "INSERT"),
        ("jobs.events", "INSERT"),
        ("jobs.execution_attempts", "INSERT"),
        *(
            (table, privilege)
            for table in tables
            for privilege in ("DELETE", "INSERT", "UPDATE")
            if privilege != "DELETE" or table in replaced
            if privilege != "UPDATE" or table != "jobs.job_labels"
        ),
        *(("jobs.webhooks", privilege) for privilege in ("DELETE", "INSERT", "UPDATE")),
    ]
    creates = "SELECT has_schema_privilege($1, 'jobs', 'CREATE')"
    assert not await migrated.owner.fetchval(creates, migrated.role.name)


@pytest.mark.slow
@pytest.mark.single_node("on Citus, the owner needs CREATE on the database of each node")
async def test_error_has_the_sql_when_owner_may_not_create_roles(empty: Target) -> None:
    async with empty.new_role() as owner:
        await empty.create_logins(owner)
        await empty.owner.execute(f"ALTER DATABASE {empty.name} OWNER TO {owner.name}")
        owner_dsn = empty.postgres.dsn(empty.name, owner)

        with pytest.raises(MigrationError) as raised:
            await migrate(owner_dsn, empty.role)

        sql = re.search(r"run: (.*); then migrate again", str(raised.value))
        assert sql
        assert f"PASSWORD '{empty.role.password}'" not in sql[1]
        await empty.owner.execute(sql[1].replace("…", str(empty.role.password)))
        await migrate(owner_dsn, empty.role)
        await list_jobs(empty.request_dsn)


async def test_migrate_keeps_an_existing_role_unchanged(empty: Target) -> None:
    await empty.owner.execute(f"CREATE ROLE {empty.role.name} LOGIN PASSWORD 'other' CREATEDB")
    role = "SELECT * FROM pg_authid WHERE rolname = $1"
    before = await empty.owner.fetchrow(role, empty.role.name)

    done = await empty.migrate()

    assert done == [OWN, *BEFORE_CODE, *empty.distributed, CODE, *AFTER_CODE]

    assert await empty.owner.fetchrow(role, empty.role.name) == before


@pytest.mark.single_node("on Citus, the owner needs CREATE on the database of each node")
async def test_migrate_succeeds_when_an_administrator_created_the_schema(empty: Target) -> None:
    """The owner may not create schemas, nor tables in public."""
    async with empty.new_role() as owner:
        await empty.create_logins(empty.role, owner)
        await empty.owner.execute(
            f"CREATE SCHEMA jobs AUTHORIZATION {owner.name};"
            "CREATE TABLE device_state (tenant_id text, device_id text);"
            "CREATE TABLE device_group_members (tenant_id text, group_id text, device_id text)"
        )

        done = await migrate(empty.postgres.dsn(empty.name, owner), empty.role)

    assert [line for line in done if line.startswith("applied")] == [
        *BEFORE_CODE,
        CODE,
        *AFTER_CODE,
    ]


async def test_migrate_fails_when_the_request_role_is_the_owner(empty: Target) -> None:
    owner = await empty.owner.fetchval("SELECT current_user")

    with pytest.raises(MigrationError, match=f"^{owner} is the owner and can"):
        await migrate(empty.owner_dsn, RequestRole(owner))

    assert await empty.owner.fetchval("SELECT to_regnamespace('jobs') IS NULL")


@pytest.mark.parametrize(
    ("dsn", "role"),
    [
        (None, RequestRole("jobs_request", None)),
        ("postgresql://u%20ser@h/d", RequestRole("u ser", None)),
        ("postgresql://u:p%40ss@h/d", RequestRole("u", "p@ss")),
        ("postgresql:///d?host=/run&user=u%20ser", RequestRole("u ser", None)),
        ("postgresql:///d?user=u&password=p%40ss", RequestRole("u", "p@ss")),
        ("postgresql://u@h/d?user=other&password=p", RequestRole("u", "p")),
    ],
)
def test_request_role_comes_from_the_dsn(dsn: str | None, role: RequestRole) -> None:
    assert RequestRole.from_dsn(dsn) == role
