"""The isolation check proves by the policies that a request sees one tenant, without any rows."""

import asyncpg
import pytest

from jobs_grpc.db.readiness import NotIsolated, check_ready
from jobs_grpc.db.tenant_tables import TENANT_TABLES
from tests.support.database import Database
from tests.support.postgres import connected

pytestmark = pytest.mark.single_node("Citus does not send a session's settings to other nodes")


OURS = "tenant_id = nullif(current_setting('app.tenant_id', true), '')"

UNSAFE = {
    "everything": ("jobs.jobs", "USING (true)"),
    "everything to SELECT": ("jobs.job_executions", "FOR SELECT USING (true)"),
    "everything to the role": ("jobs.job_progress", "TO {role} USING (true)"),
    "everything to a role of the role": ("jobs.jobs", "TO {group} USING (true)"),
    "everything to INSERT": ("jobs.jobs", "FOR INSERT WITH CHECK (true)"),
    "everything to writes": ("jobs.execution_attempts", f"USING ({OURS}) WITH CHECK (true)"),
    "everything without a tenant": (
        "jobs.jobs",
        f"USING ({OURS} OR nullif(current_setting('app.tenant_id', true), '') IS NULL)",
    ),
    "one tenant": ("public.device_state", "USING (tenant_id = 'shared')"),
    "everything to DELETE": ("public.device_state", "FOR DELETE USING (true)"),
    "everything to INSERT of memberships": (
        "public.device_group_members",
        "FOR INSERT WITH CHECK (true)",
    ),
    "another column": (
        "public.device_group_members",
        "USING (group_id = current_setting('app.tenant_id', true))",
    ),
}

SAFE = {
    "restrictive": ("jobs.jobs", "AS RESTRICTIVE USING (true)"),
    "for another role": ("jobs.jobs", "TO {other} USING (true)"),
    "required setting": (
        "public.device_state",
        "USING (tenant_id = current_setting('app.tenant_id'))",
    ),
    "optional setting": (
        "public.device_state",
        "USING (tenant_id = current_setting('app.tenant_id', true))",
    ),
    "no expression": ("jobs.jobs", "FOR SELECT"),
}


async def _check(database: Database) -> None:
    async with connected(database.request_dsn) as request:
        await check_ready(request)


async def _error(database: Database) -> str:
    with pytest.raises(NotIsolated) as raised:
        await _check(database)
    return str(raised.value)


async def _fix(database: Database, error: str) -> None:
    await database.owner.execute(error.partition("To fix it, run: ")[2])


async def _create_policy(database: Database, other_role: str, table: str, policy: str) -> str:
    """Create a policy named "open" and return the name of the request role."""
    role = database.role.name
    if "{group}" in policy:
        await database.owner.execute(f"GRANT {other_role} TO {role}")
    policy = policy.format(role=role, group=other_role, other=other_role)
    await database.owner.execute(f"CREATE POLICY open ON {table} {policy}")
    return role


async def _visible_rows(database: Database, tenant: str | None) -> int:
    """Count the rows of all tables that the request role sees."""
    async with connected(database.request_dsn) as request:
        if tenant is not None:
            await request.execute("SELECT set_config('app.tenant_id', $1, false)", tenant)
        return sum([await request.fetchval(f"SELECT count(*) FROM {t}") for t in TENANT_TABLES])


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSAFE)
async def test_check_fails_when_a_policy_may_show_other_tenants(
    fresh: Database, other_role: str, name: str
) -> None:
    table, policy = UNSAFE[name]
    role = await _create_policy(fresh, other_role, table, policy)

    error = await _error(fresh)
    await _fix(fresh, error)
    await _check(fresh)

    shown_table = table.removeprefix("public.")
    assert (
        f"policy open on table {shown_table} may show role {role} the rows of other tenants"
        in error
    )
    await fresh.add_devices("shared", 2, group="acme")
    await fresh.owner.fetch(
        "SELECT jobs.create_job('shared', 'j', '{\"document_type\": \"x\", \"target_all\": true}',"
        " '{}', NULL, 10, NULL, 24)"
    )
    # Two devices, two memberships, a job, its progress, its event and two executions.
    assert await _visible_rows(fresh, "shared") == 9
    assert await _visible_rows(fresh, "acme") == 0
    assert await _visible_rows(fresh, "") == 0
    assert await _visible_rows(fresh, None) == 0


async def test_request_role_writes_only_devices_of_its_tenant(fresh: Database) -> None:
    """The device tables are own, so the request role may write to them."""
    await fresh.add_devices("shared", 2, group="g")
    tables = ("device_state", "device_group_members")
    before = [await fresh.owner.fetch(f"SELECT * FROM {table}") for table in tables]
    async with connected(fresh.request_dsn) as request:
        await request.execute("SELECT set_config('app.tenant_id', 'acme', false)")
        for table, values in zip(tables, ("'shared', 'x'", "'shared', 'g', 'x'"), strict=True):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                await request.execute(f"INSERT INTO {table} VALUES ({values})")
            for statement in (f"UPDATE {table} SET device_id = 'x'", f"DELETE FROM {table}"):
                assert (await request.execute(statement)).endswith(" 0")

    assert [await fresh.owner.fetch(f"SELECT * FROM {table}") for table in tables] == before


@pytest.mark.parametrize("name", SAFE)
async def test_check_passes_when_policies_isolate_tenants(
    fresh: Database, other_role: str, name: str
) -> None:
    await _create_policy(fresh, other_role, *SAFE[name])

    await _check(fresh)


async def test_check_passes_when_tenant_id_is_varchar(fresh: Database) -> None:
    await fresh.owner.execute(
        "DROP POLICY tenant_isolation ON device_group_members;"
        "ALTER TABLE device_group_members ALTER tenant_id TYPE varchar(64);"
        f"CREATE POLICY platform ON device_group_members USING ({OURS})"
    )

    await _check(fresh)


async def test_fix_replaces_its_own_policy_when_that_was_changed(
    fresh: Database, other_role: str
) -> None:
    role = await _create_policy(fresh, other_role, "jobs.jobs", "USING (true)")
    await _fix(fresh, await _error(fresh))

    await fresh.owner.execute("DROP POLICY open ON jobs.jobs")
    await _check(fresh)
    await fresh.owner.execute(
        "CREATE POLICY open ON jobs.jobs USING (true);"
        f"ALTER POLICY tenant_isolation_{role} ON jobs.jobs USING (true)"
    )

    await _fix(fresh, await _error(fresh))
    await _check(fresh)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            "VIEW jobs.job_states RESET (security_invoker)",
            "view jobs.job_states shows the rows of all tenants",
        ),
        (
            "FUNCTION jobs.get_jobs SECURITY DEFINER",
            "function jobs.get_jobs(text,text[]) may show the rows of all tenants",
        ),
    ],
)
async def test_check_fails_when_a_view_or_function_has_the_rights_of_its_owner(
    fresh: Database, change: str, problem: str
) -> None:
    await fresh.owner.execute(f"ALTER {change}")

    error = await _error(fresh)
    await _fix(fresh, error)
    await _check(fresh)

    assert problem in error
