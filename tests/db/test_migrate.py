"""Migrating: what it makes, what it keeps, and when it refuses."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from jobs_grpc.db.migrate import MigrationError, RequestRole, migrate
from jobs_grpc.db.readiness import NotIsolated
from tests.support.health import wait_until_healthy
from tests.support.postgres import Postgres
from tests.support.server import running_server, starting_server

EVERYTHING = ["applied migration 0001 jobs", "applied views and functions"]


@dataclass(frozen=True)
class Unmigrated:
    """A database without anything of ours, and a role that is not made yet."""

    postgres: Postgres
    name: str
    role: RequestRole
    owner: asyncpg.Connection

    @property
    def owner_dsn(self) -> str:
        """As the cluster's owner."""
        return self.postgres.dsn(self.name)

    @property
    def request_dsn(self) -> str:
        """As the request role."""
        return self.postgres.dsn(self.name, self.role)


@pytest.fixture
async def fresh(cluster: tuple[Postgres, str]) -> AsyncIterator[Unmigrated]:
    """Not migrated."""
    postgres, _ = cluster
    async with postgres.database() as name, postgres.unused_role(name) as role:
        owner = await asyncpg.connect(postgres.dsn(name))
        yield Unmigrated(postgres, name, role, owner)
        await owner.close()


async def test_a_fresh_database_gets_everything(fresh: Unmigrated) -> None:
    done = await migrate(fresh.owner_dsn, fresh.role)

    assert done == [EVERYTHING[0], f"created role {fresh.role.name}", EVERYTHING[1]]
    async with running_server(fresh.request_dsn) as server:
        assert not (await server.operator("any").list()).jobs


async def test_the_second_time_does_nothing_and_says_nothing(fresh: Unmigrated) -> None:
    await migrate(fresh.owner_dsn, fresh.role)
    state = (
        "SELECT xmin::text, version, checksum FROM jobs.schema_migrations"
        " UNION ALL SELECT xmin::text, 0, checksum FROM jobs.schema_code"
        " UNION ALL SELECT prosrc, oid::int, proacl::text FROM pg_proc"
        " WHERE pronamespace = 'jobs'::regnamespace ORDER BY 2"
    )
    before = await fresh.owner.fetch(state)

    assert await migrate(fresh.owner_dsn, fresh.role) == []

    assert await fresh.owner.fetch(state) == before


async def test_of_two_at_once_one_does_the_work(fresh: Unmigrated) -> None:
    done = await asyncio.gather(
        migrate(fresh.owner_dsn, fresh.role), migrate(fresh.owner_dsn, fresh.role)
    )

    assert sorted(map(len, done)) == [0, 3]


async def test_another_request_role_is_added(fresh: Unmigrated) -> None:
    await migrate(fresh.owner_dsn, fresh.role)
    async with fresh.postgres.unused_role(fresh.name) as second:
        await migrate(fresh.owner_dsn, second)

        async with running_server(fresh.postgres.dsn(fresh.name, second)) as server:
            assert not (await server.operator("any").list()).jobs


async def test_an_edited_migration_that_has_landed_is_refused(fresh: Unmigrated) -> None:
    await migrate(fresh.owner_dsn, fresh.role)
    await fresh.owner.execute("UPDATE jobs.schema_migrations SET checksum = 'other'")

    with pytest.raises(MigrationError, match="migration 0001 jobs was applied with different SQL"):
        await migrate(fresh.owner_dsn, fresh.role)


async def test_functions_of_another_version_are_replaced(fresh: Unmigrated) -> None:
    await migrate(fresh.owner_dsn, fresh.role)
    await fresh.owner.execute(
        "DROP FUNCTION jobs.cancel_job; UPDATE jobs.schema_code SET checksum = 'another version'"
    )

    assert await migrate(fresh.owner_dsn, fresh.role) == ["applied views and functions"]

    assert await fresh.owner.fetchval("SELECT to_regproc('jobs.cancel_job') IS NOT NULL")


@pytest.mark.parametrize(
    "trace",
    [
        "INSERT INTO jobs.schema_code (checksum) VALUES ('a later version')",
        "INSERT INTO jobs.schema_migrations (version, name, checksum) VALUES (9999, 'later', '');"
        "UPDATE jobs.schema_code SET checksum = 'a later version'",
    ],
)
async def test_an_earlier_version_leaves_the_functions_of_a_later_one(
    fresh: Unmigrated, trace: str
) -> None:
    """In the middle of an upgrade, say, when a server of the old version starts anew."""
    await migrate(fresh.owner_dsn, fresh.role)
    await fresh.owner.execute(f"DROP FUNCTION jobs.cancel_job; {trace}")

    done = await migrate(fresh.owner_dsn, fresh.role)

    assert done == ["kept views and functions: a newer version applied its own"]
    assert await fresh.owner.fetchval("SELECT to_regproc('jobs.cancel_job') IS NULL")


async def test_a_platforms_tables_rows_and_policies_are_kept(fresh: Unmigrated) -> None:
    await fresh.owner.execute(
        """
        CREATE TABLE device_state (
            tenant_id text, device_id text, model text, seen_at timestamptz,
            PRIMARY KEY (tenant_id, device_id));
        CREATE TABLE device_group_members (
            tenant_id text, group_id text, device_id text, added_by text,
            PRIMARY KEY (tenant_id, group_id, device_id));
        ALTER TABLE device_state ENABLE ROW LEVEL SECURITY;
        ALTER TABLE device_group_members ENABLE ROW LEVEL SECURITY;
        CREATE POLICY platform ON device_state
            USING (tenant_id = current_setting('app.tenant_id'));
        CREATE POLICY platform ON device_group_members
            USING (tenant_id = current_setting('app.tenant_id'));
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
    before = [await fresh.owner.fetch(sql) for sql in (shape, policies, rows)]

    await migrate(fresh.owner_dsn, fresh.role)

    assert [await fresh.owner.fetch(sql) for sql in (shape, policies, rows)] == before
    async with running_server(fresh.request_dsn) as server:
        response = await server.operator("acme").create(target_group_id="pumps")
        assert response.execution_count == 1


async def test_row_level_security_of_a_platforms_table_is_left_to_the_platform(
    fresh: Unmigrated,
) -> None:
    """Switched on under a platform that does not know of it, it would hide every row."""
    await fresh.owner.execute("CREATE TABLE device_state (tenant_id text, device_id text)")

    await migrate(fresh.owner_dsn, fresh.role)

    table = "oid = 'public.device_state'::regclass AND NOT relrowsecurity"
    assert await fresh.owner.fetchval(f"SELECT true FROM pg_class WHERE {table}")
    assert not await fresh.owner.fetch(
        "SELECT FROM pg_policy WHERE polrelid = 'public.device_state'::regclass"
    )
    async with starting_server(fresh.request_dsn) as server:
        with pytest.raises(NotIsolated, match="table device_state has no row-level security"):
            await server.app.failed


async def test_a_platforms_tables_may_belong_to_somebody_else(fresh: Unmigrated) -> None:
    """Then the owner of ours can't let the request role read them, and says who must."""
    async with (
        fresh.postgres.unused_role(fresh.name) as platform,
        fresh.postgres.unused_role(fresh.name) as owner,
    ):
        await fresh.owner.execute(
            f"CREATE ROLE {platform.name}; CREATE ROLE {fresh.role.name} LOGIN PASSWORD 'secret';"
            f"CREATE ROLE {owner.name} LOGIN PASSWORD 'secret';"
            f"GRANT CREATE ON DATABASE {fresh.name} TO {owner.name}"
        )
        for table in ("device_state", "device_group_members"):
            await fresh.owner.execute(
                f"CREATE TABLE {table} (tenant_id text, group_id text, device_id text);"
                f"ALTER TABLE {table} OWNER TO {platform.name};"
                f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
                f"CREATE POLICY own ON {table} USING (tenant_id = current_setting('app.tenant_id'))"
            )

        await migrate(fresh.postgres.dsn(fresh.name, owner), fresh.role)

        async with starting_server(fresh.request_dsn) as server:
            await fresh.owner.execute(
                f"SET ROLE {platform.name};"
                f"GRANT SELECT ON device_state, device_group_members TO {fresh.role.name};"
                "RESET ROLE"
            )
            await wait_until_healthy(server.channel)
            assert not (await server.operator("any").list()).jobs


async def test_the_request_role_may_do_no_more_than_it_needs(fresh: Unmigrated) -> None:
    await migrate(fresh.owner_dsn, fresh.role)

    beyond = await fresh.owner.fetch(
        """
        SELECT c.oid::regclass::text, p.privilege FROM pg_class c,
            unnest('{INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES}'::text[]) p(privilege)
        WHERE c.relnamespace IN ('jobs'::regnamespace, 'public'::regnamespace)
          AND c.relkind IN ('r', 'v', 'p') AND has_table_privilege($1, c.oid, p.privilege)
        ORDER BY 1, 2
        """,
        fresh.role.name,
    )

    tables = ("jobs.job_executions", "jobs.job_progress", "jobs.jobs")
    assert [tuple(row) for row in beyond] == [
        ("jobs.execution_attempts", "INSERT"),
        *((t, p) for t in tables for p in ("INSERT", "UPDATE")),
    ]
    creates = "SELECT has_schema_privilege($1, 'jobs', 'CREATE')"
    assert not await fresh.owner.fetchval(creates, fresh.role.name)


async def test_an_owner_that_may_not_create_roles_is_told_the_sql(fresh: Unmigrated) -> None:
    async with fresh.postgres.unused_role(fresh.name) as owner:
        await fresh.owner.execute(
            f"CREATE ROLE {owner.name} LOGIN PASSWORD '{owner.password}';"
            f"ALTER DATABASE {fresh.name} OWNER TO {owner.name}"
        )
        owner_dsn = fresh.postgres.dsn(fresh.name, owner)

        with pytest.raises(MigrationError) as raised:
            await migrate(owner_dsn, fresh.role)

        sql = re.search(r"run: (.*); then migrate again", str(raised.value))
        assert sql
        assert f"PASSWORD '{fresh.role.password}'" not in sql[1]
        await fresh.owner.execute(sql[1].replace("…", str(fresh.role.password)))
        await migrate(owner_dsn, fresh.role)
        async with running_server(fresh.request_dsn) as server:
            assert not (await server.operator("any").list()).jobs


async def test_a_role_that_is_there_is_kept_as_it_is(fresh: Unmigrated) -> None:
    await fresh.owner.execute(f"CREATE ROLE {fresh.role.name} LOGIN PASSWORD 'other' CREATEDB")
    role = "SELECT * FROM pg_authid WHERE rolname = $1"
    before = await fresh.owner.fetchrow(role, fresh.role.name)

    assert await migrate(fresh.owner_dsn, fresh.role) == EVERYTHING

    assert await fresh.owner.fetchrow(role, fresh.role.name) == before


async def test_an_administrator_may_have_made_the_schema(fresh: Unmigrated) -> None:
    """For an owner that may create neither schemas nor, in public, tables."""
    async with fresh.postgres.unused_role(fresh.name) as owner:
        await fresh.owner.execute(
            f"CREATE ROLE {fresh.role.name} LOGIN PASSWORD 'secret';"
            f"CREATE ROLE {owner.name} LOGIN PASSWORD 'secret';"
            f"CREATE SCHEMA jobs AUTHORIZATION {owner.name};"
            "CREATE TABLE device_state (tenant_id text, device_id text);"
            "CREATE TABLE device_group_members (tenant_id text, group_id text, device_id text)"
        )

        done = await migrate(fresh.postgres.dsn(fresh.name, owner), fresh.role)

    assert done[:2] == EVERYTHING


async def test_the_owner_is_not_made_the_request_role(fresh: Unmigrated) -> None:
    owner = await fresh.owner.fetchval("SELECT current_user")

    with pytest.raises(MigrationError, match=f"^{owner} is the owner and can"):
        await migrate(fresh.owner_dsn, RequestRole(owner))

    assert await fresh.owner.fetchval("SELECT to_regnamespace('jobs') IS NULL")


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
def test_the_request_role_is_whom_the_dsn_names(dsn: str | None, role: RequestRole) -> None:
    assert RequestRole.of_dsn(dsn) == role
