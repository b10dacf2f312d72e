"""The service refuses a database in which row-level security would not hold it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from grpc import StatusCode

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.readiness import NotIsolated
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.health import is_healthy
from tests.support.postgres import Postgres
from tests.support.server import running_server, starting_server
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture
async def fresh(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    """A migrated database with a request role, both of the test's own."""
    postgres, template = cluster
    async with postgres.database(template) as name, postgres.unused_role(name) as role:
        owner = await asyncpg.connect(postgres.dsn(name))
        await migrate(postgres.dsn(name), role)
        yield Database(postgres.dsn(name), postgres.dsn(name, role), owner)
        await owner.close()


@pytest.fixture
async def other_role(cluster: tuple[Postgres, str], fresh: Database) -> AsyncIterator[str]:
    """Another role, which may own tables in the test's database."""
    postgres, _ = cluster
    database = await fresh.owner.fetchval("SELECT current_database()")
    async with postgres.unused_role(database) as role:
        await fresh.owner.execute(f"CREATE ROLE {role.name}")
        yield role.name


def _user(dsn: str) -> str:
    return RequestRole.of_dsn(dsn).name


async def _refusal(database: Database) -> str:
    """Start the service, which must refuse; what it said."""
    async with starting_server(database.request_dsn) as server:
        while not server.app.failed.done():
            assert not await is_healthy(server.channel)
            with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"):
                await server.operator("any").list()
        assert not await is_healthy(server.channel)
        with pytest.raises(NotIsolated) as raised:
            await server.app.failed
    return str(raised.value)


async def _mend(database: Database, refusal: str) -> None:
    """Run the SQL that the refusal says."""
    await database.owner.execute(refusal.partition("To fix it, run: ")[2])


async def _serves(database: Database) -> None:
    async with starting_server(database.request_dsn) as server:

        async def decided() -> bool:
            return server.app.failed.done() or await is_healthy(server.channel)

        await wait_until(decided)
        assert not server.app.failed.done(), server.app.failed.exception()
        assert not (await server.operator("any").list()).jobs


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [("SUPERUSER", "is a superuser"), ("BYPASSRLS", "has BYPASSRLS")],
)
async def test_a_role_that_sees_all_rows_is_refused(
    fresh: Database, attribute: str, problem: str
) -> None:
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(f"ALTER ROLE {role} {attribute}")

    refusal = await _refusal(fresh)

    assert f"role {role} {problem}" in refusal
    await _mend(fresh, refusal)
    await _serves(fresh)


async def test_a_member_of_the_owner_is_refused(fresh: Database, other_role: str) -> None:
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(
        f"ALTER TABLE jobs.jobs OWNER TO {other_role}; GRANT {other_role} TO {role}"
    )

    refusal = await _refusal(fresh)

    assert f"role {role} is a member of role {other_role}, which owns the tables" in refusal
    await _mend(fresh, refusal)
    await _serves(fresh)


async def test_a_member_of_a_superuser_is_refused(fresh: Database, other_role: str) -> None:
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(f"ALTER ROLE {other_role} SUPERUSER; GRANT {other_role} TO {role}")

    refusal = await _refusal(fresh)

    assert f"role {role} is a member of role {other_role}, which is a superuser" in refusal
    await _mend(fresh, refusal)
    await _serves(fresh)


async def test_a_member_at_second_hand_is_refused(fresh: Database, other_role: str) -> None:
    """Not only the roles that were granted to the login itself count."""
    role = _user(fresh.request_dsn)
    between = f"{role}_between"
    await fresh.owner.execute(
        f"ALTER ROLE {other_role} BYPASSRLS; CREATE ROLE {between};"
        f" GRANT {other_role} TO {between}; GRANT {between} TO {role}"
    )
    try:
        refusal = await _refusal(fresh)
        assert f"is a member of role {other_role}, which has BYPASSRLS" in refusal

        await _mend(fresh, refusal)
        await _serves(fresh)
    finally:
        await fresh.owner.execute(f"DROP ROLE {between}")


async def test_an_owner_of_tables_is_refused(fresh: Database) -> None:
    """The remedy makes another login, which a migration then lets in."""
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(f"ALTER TABLE jobs.job_progress OWNER TO {role}")

    refusal = await _refusal(fresh)

    assert f"role {role}" in refusal
    assert "owns the tables" in refusal
    assert "CREATE ROLE jobs_request LOGIN NOSUPERUSER NOBYPASSRLS" in refusal


@pytest.mark.parametrize("table", ["jobs.job_executions", "public.device_state"])
async def test_a_table_without_row_level_security_is_refused(fresh: Database, table: str) -> None:
    await fresh.owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")

    refusal = await _refusal(fresh)

    assert f"table {table.removeprefix('public.')} has no row-level security" in refusal
    await _mend(fresh, refusal)
    await _serves(fresh)


async def test_the_remedy_for_a_table_without_policy_makes_one(fresh: Database) -> None:
    """Without it, row-level security would hide every row."""
    await fresh.owner.execute(
        "ALTER TABLE public.device_state DISABLE ROW LEVEL SECURITY;"
        "DROP POLICY tenant_isolation ON public.device_state"
    )
    await fresh.add_devices("acme", 2)

    await _mend(fresh, await _refusal(fresh))

    async with running_server(fresh.request_dsn) as server:
        assert (await server.operator("acme").create(target_all=True)).execution_count == 2


async def test_all_problems_are_named_at_once(fresh: Database) -> None:
    await fresh.owner.execute(
        f"ALTER ROLE {_user(fresh.request_dsn)} BYPASSRLS;"
        " ALTER TABLE jobs.jobs DISABLE ROW LEVEL SECURITY"
    )

    refusal = await _refusal(fresh)

    assert "has BYPASSRLS" in refusal
    assert "table jobs.jobs has no row-level security" in refusal
    await _mend(fresh, refusal)
    await _serves(fresh)


async def test_a_service_whose_isolation_is_lost_stops_serving(fresh: Database) -> None:
    async with running_server(fresh.request_dsn) as server:
        await fresh.owner.execute("ALTER TABLE jobs.jobs DISABLE ROW LEVEL SECURITY")

        await asyncio.wait({server.app.failed}, timeout=TIMEOUT)

        with pytest.raises(NotIsolated):
            await server.app.failed
        assert not await is_healthy(server.channel)


async def test_a_superuser_that_switches_to_the_request_role_is_refused(fresh: Database) -> None:
    """What a connection may switch to, it may switch back from."""
    role = _user(fresh.request_dsn)
    separator = "&" if "?" in fresh.owner_dsn else "?"
    switched = replace(fresh, request_dsn=f"{fresh.owner_dsn}{separator}role={role}")

    assert "is a superuser" in await _refusal(switched)
