"""The server does not serve if row-level security does not limit its login to one tenant."""

import asyncio
from dataclasses import replace

import pytest

from jobs_grpc.db.readiness import NotIsolated
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.health import is_healthy
from tests.support.server import running_server, starting_server
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.slow


async def _failed_start(database: Database) -> str:
    """Start the server, which must not serve; return its error."""
    async with starting_server(database.request_dsn) as server:
        while not server.app.failure.done():
            assert not await is_healthy(server.channel)
            await expect_error("DATABASE_UNAVAILABLE", server.operator("any").list())
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


_NO_RLS = "DISABLE ROW LEVEL SECURITY"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ("ALTER ROLE {role} SUPERUSER", ["role {role} is a superuser"]),
        ("ALTER ROLE {role} BYPASSRLS", ["role {role} has BYPASSRLS"]),
        (
            "ALTER TABLE jobs.jobs OWNER TO {other}; GRANT {other} TO {role}",
            ["role {role} is a member of role {other}, which owns the tables"],
        ),
        (
            "ALTER ROLE {other} SUPERUSER; GRANT {other} TO {role}",
            ["role {role} is a member of role {other}, which is a superuser"],
        ),
        (
            f"ALTER TABLE jobs.job_executions {_NO_RLS}",
            ["table jobs.job_executions has no row-level security"],
        ),
        (
            f"ALTER TABLE public.device_state {_NO_RLS}",
            ["table device_state has no row-level security"],
        ),
        (
            f"ALTER ROLE {{role}} BYPASSRLS; ALTER TABLE jobs.jobs {_NO_RLS}",
            ["has BYPASSRLS", "table jobs.jobs has no row-level security"],
        ),
    ],
)
async def test_start_fails_until_the_sql_of_the_error_has_run(
    fresh: Database, other_role: str, change: str, problems: list[str]
) -> None:
    role = fresh.role.name
    await fresh.owner.execute(change.format(role=role, other=other_role))

    error = await _failed_start(fresh)

    assert all(problem.format(role=role, other=other_role) in error for problem in problems)
    await _fix(fresh, error)
    await _check_serves(fresh)


async def test_start_fails_when_role_is_an_indirect_member(
    fresh: Database, other_role: str
) -> None:
    """The check also follows roles that are members of other roles."""
    role = fresh.role.name
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
    role = fresh.role.name
    await fresh.owner.execute(f"ALTER TABLE jobs.job_progress OWNER TO {role}")

    error = await _failed_start(fresh)

    assert f"role {role}" in error
    assert "owns the tables" in error
    assert "CREATE ROLE jobs_request LOGIN NOSUPERUSER NOBYPASSRLS" in error


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
    role = fresh.role.name
    separator = "&" if "?" in fresh.owner_dsn else "?"
    switched = replace(fresh, request_dsn=f"{fresh.owner_dsn}{separator}role={role}")

    assert "is a superuser" in await _failed_start(switched)
