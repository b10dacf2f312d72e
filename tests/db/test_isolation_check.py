"""The server does not serve if row-level security does not limit its login to one tenant."""

import asyncio
from dataclasses import replace

import pytest
from grpc import StatusCode

from jobs_grpc.db.migrate import RequestRole
from jobs_grpc.db.readiness import NotIsolated
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.health import is_healthy
from tests.support.server import running_server, starting_server
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.slow


def _user(dsn: str) -> str:
    return RequestRole.from_dsn(dsn).name


async def _failed_start(database: Database) -> str:
    """Start the server, which must not serve; return its error."""
    async with starting_server(database.request_dsn) as server:
        while not server.app.failure.done():
            assert not await is_healthy(server.channel)
            with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"):
                await server.operator("any").list()
        assert not await is_healthy(server.channel)
        with pytest.raises(NotIsolated) as raised:
            await server.app.failure
    return str(raised.value)


async def _fix(database: Database, error: str) -> None:
    """Run the SQL that the error names."""
    await database.owner.execute(error.partition("To fix it, run: ")[2])


async def _check_serves(database: Database) -> None:
    """Start the server, which must serve calls."""
    async with starting_server(database.request_dsn) as server:

        async def decided() -> bool:
            return server.app.failure.done() or await is_healthy(server.channel)

        await wait_until(decided)
        assert not server.app.failure.done(), server.app.failure.exception()
        assert not (await server.operator("any").list()).jobs


@pytest.mark.parametrize(
    ("attribute", "problem"),
    [("SUPERUSER", "is a superuser"), ("BYPASSRLS", "has BYPASSRLS")],
)
async def test_start_fails_when_role_bypasses_row_level_security(
    fresh: Database, attribute: str, problem: str
) -> None:
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(f"ALTER ROLE {role} {attribute}")

    error = await _failed_start(fresh)

    assert f"role {role} {problem}" in error
    await _fix(fresh, error)
    await _check_serves(fresh)


async def test_start_fails_when_role_is_a_member_of_the_owner(
    fresh: Database, other_role: str
) -> None:
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(
        f"ALTER TABLE jobs.jobs OWNER TO {other_role}; GRANT {other_role} TO {role}"
    )

    error = await _failed_start(fresh)

    assert f"role {role} is a member of role {other_role}, which owns the tables" in error
    await _fix(fresh, error)
    await _check_serves(fresh)


async def test_start_fails_when_role_is_a_member_of_a_superuser(
    fresh: Database, other_role: str
) -> None:
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(f"ALTER ROLE {other_role} SUPERUSER; GRANT {other_role} TO {role}")

    error = await _failed_start(fresh)

    assert f"role {role} is a member of role {other_role}, which is a superuser" in error
    await _fix(fresh, error)
    await _check_serves(fresh)


async def test_start_fails_when_role_is_an_indirect_member(
    fresh: Database, other_role: str
) -> None:
    """The check also follows roles that are members of other roles."""
    role = _user(fresh.request_dsn)
    between = f"{role}_between"
    await fresh.owner.execute(
        f"ALTER ROLE {other_role} BYPASSRLS; CREATE ROLE {between};"
        f" GRANT {other_role} TO {between}; GRANT {between} TO {role}"
    )
    try:
        error = await _failed_start(fresh)
        assert f"is a member of role {other_role}, which has BYPASSRLS" in error

        await _fix(fresh, error)
        await _check_serves(fresh)
    finally:
        await fresh.owner.execute(f"DROP ROLE {between}")


async def test_start_fails_when_role_owns_a_table(fresh: Database) -> None:
    """The SQL in the error creates another login; the next migration grants it access."""
    role = _user(fresh.request_dsn)
    await fresh.owner.execute(f"ALTER TABLE jobs.job_progress OWNER TO {role}")

    error = await _failed_start(fresh)

    assert f"role {role}" in error
    assert "owns the tables" in error
    assert "CREATE ROLE jobs_request LOGIN NOSUPERUSER NOBYPASSRLS" in error


@pytest.mark.parametrize("table", ["jobs.job_executions", "public.device_state"])
async def test_start_fails_when_a_table_has_no_row_level_security(
    fresh: Database, table: str
) -> None:
    await fresh.owner.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")

    error = await _failed_start(fresh)

    assert f"table {table.removeprefix('public.')} has no row-level security" in error
    await _fix(fresh, error)
    await _check_serves(fresh)


async def test_remedy_creates_a_policy_when_the_table_has_none(fresh: Database) -> None:
    """Without a policy, row-level security would hide every row."""
    await fresh.owner.execute(
        "ALTER TABLE public.device_state DISABLE ROW LEVEL SECURITY;"
        "DROP POLICY tenant_isolation ON public.device_state"
    )
    await fresh.add_devices("acme", 2)

    await _fix(fresh, await _failed_start(fresh))

    async with running_server(fresh.request_dsn) as server:
        assert (await server.operator("acme").create(target_all=True)).execution_count == 2


async def test_error_names_all_problems(fresh: Database) -> None:
    await fresh.owner.execute(
        f"ALTER ROLE {_user(fresh.request_dsn)} BYPASSRLS;"
        " ALTER TABLE jobs.jobs DISABLE ROW LEVEL SECURITY"
    )

    error = await _failed_start(fresh)

    assert "has BYPASSRLS" in error
    assert "table jobs.jobs has no row-level security" in error
    await _fix(fresh, error)
    await _check_serves(fresh)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE jobs.jobs DISABLE ROW LEVEL SECURITY",
        "CREATE POLICY open ON public.device_state USING (true)",
    ],
)
async def test_server_stops_serving_when_isolation_is_lost(fresh: Database, change: str) -> None:
    async with running_server(fresh.request_dsn) as server:
        await fresh.owner.execute(change)

        await asyncio.wait({server.app.failure}, timeout=TIMEOUT)

        with pytest.raises(NotIsolated):
            await server.app.failure
        assert not await is_healthy(server.channel)


async def test_start_fails_when_a_superuser_switches_to_the_request_role(fresh: Database) -> None:
    """Such a connection can switch back to the superuser."""
    role = _user(fresh.request_dsn)
    separator = "&" if "?" in fresh.owner_dsn else "?"
    switched = replace(fresh, request_dsn=f"{fresh.owner_dsn}{separator}role={role}")

    assert "is a superuser" in await _failed_start(switched)
