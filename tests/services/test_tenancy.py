"""Tenancy: callers are identified, and tenants are isolated from each other."""

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.postgres import connected
from tests.support.rpcs import list_rpcs
from tests.support.server import Server
from tests.support.world import World

TABLES_AND_VIEWS = (
    "jobs.jobs",
    "jobs.job_progress",
    "jobs.job_executions",
    "jobs.execution_attempts",
    "jobs.job_states",
    "jobs.job_details",
    "jobs.execution_states",
    "public.device_state",
    "public.device_group_members",
)

# Calls of API functions, which get the statement that sets the tenant in the same way, for $1.
CALLS = (
    """SELECT * FROM jobs.create_job(
        $1, 'k', '{"document_type": "x", "target_all": true}', '{}', NULL, 9, 9, 24
    )""",
    "SELECT * FROM jobs.get_job($1, 'j', 10)",
    "SELECT * FROM jobs.retry_executions($1, 'j', '{REJECTED}', NULL, false, 9)",
    "SELECT * FROM jobs.changed_pending_fingerprints_of_tenants(ARRAY[$1], '{foreign}', '{11}',"
    " '{1}')",
    "SELECT * FROM jobs.changed_job_fingerprints_of_tenants(ARRAY[$1], '{j}', '{0}')",
    "SELECT * FROM jobs.list_watched_executions($1, '{foreign}', '{11}', 1000)",
    "SELECT * FROM jobs.delete_job($1, 'canceled')",
    "SELECT * FROM jobs.cancel_job($1, 'j', 'no', true)",
)

ONE_NODE = pytest.mark.single_node("Citus does not send a session's settings to other nodes")


@pytest.fixture
async def other(database: Database, server: Server) -> Operator:
    """An operator of another tenant, with the device "foreign" in the group "g".

    It has the jobs "j", "retried" and "canceled".
    """
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, ["foreign"], group="g")
    await operator.create(job_id="j", target_all=True)
    await create_retried_job(operator, "retried")
    await operator.create(job_id="canceled", target_all=True)
    await operator.cancel("canceled")
    return operator


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    async with connected(database.request_dsn) as connection:
        yield connection


async def create_retried_job(operator: Operator, job_id: str) -> None:
    """Create a job for all devices and bring each execution to its second attempt."""
    await operator.create(job_id=job_id, target_all=True)
    for execution in (await operator.get(job_id)).executions:
        await operator.cancel_execution(job_id, execution.device_id)
    await operator.retry(job_id, "REJECTED")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "TENANT_REQUIRED"),
        ([("x-user-id", "olivia")], "TENANT_REQUIRED"),
        ([("x-tenant-id-bin", b"t")], "TENANT_REQUIRED"),
        ([("x-tenant-id", "a"), ("x-tenant-id", "b")], "DUPLICATE_METADATA"),
        ([("x-tenant-id", "a"), ("x-tenant-id", "a")], "DUPLICATE_METADATA"),
        ([("x-tenant-id", "a"), ("x-user-id", "u"), ("x-user-id", "v")], "DUPLICATE_METADATA"),
        ([("x-tenant-id", "")], "INVALID_METADATA"),
        ([("x-tenant-id", "x" * 257)], "INVALID_METADATA"),
        ([("x-tenant-id", "a"), ("x-user-id", "")], "INVALID_METADATA"),
        ([("x-tenant-id", "a"), ("x-user-id", "x" * 257)], "INVALID_METADATA"),
    ],
)
async def test_call_is_rejected_when_its_caller_is_missing_or_ambiguous(
    server: Server, metadata: list[tuple[str, str]], reason: str
) -> None:
    await expect_error(reason, server.caller(*metadata).get_caller())


async def test_every_call_checks_the_caller_before_the_request(server: Server) -> None:
    for rpc in await list_rpcs(server.channel):
        result = await rpc.call(server.channel, rpc.new_request())
        assert result.failure.reason == "TENANT_REQUIRED", rpc.path


async def test_longest_tenant_and_user_are_accepted(database: Database, server: Server) -> None:
    operator = server.operator(uuid.uuid4().hex.ljust(256, "~"), user="u" * 256)
    await database.add_devices(operator.tenant, 1)

    await operator.create(job_id="j", target_all=True)

    job = await operator.get("j")
    assert job.tenant_id == operator.tenant
    assert job.created_by == "u" * 256


async def test_page_token_of_another_tenant_is_useless(operator: Operator, other: Operator) -> None:
    await other.create(job_id="k", target_all=True)
    jobs = (await other.list(limit=1)).next_page_token
    executions = (await other.get("j", executions_limit=0)).next_executions_page_token

    assert not (await operator.list(page_token=jobs)).jobs
    await expect_error("JOB_NOT_FOUND", operator.executions("j", page_token=executions))


@ONE_NODE
async def test_request_role_sees_only_the_rows_of_the_current_tenant(
    world: World, other: Operator, session: asyncpg.Connection
) -> None:
    await world.add_devices(["own"], group="g")
    await create_retried_job(world.operator, "j")

    async def tenants() -> set[tuple[str, ...]]:
        """The tenants of the rows that the session sees of a table, for each table."""
        return {
            tuple(row[0] for row in await session.fetch(f"SELECT DISTINCT tenant_id FROM {table}"))
            for table in TABLES_AND_VIEWS
        }

    assert await tenants() == {()}
    async with session.transaction():
        await session.execute("SELECT set_config('app.tenant_id', $1, true)", world.tenant)
        assert await tenants() == {(world.tenant,)}
    assert await tenants() == {()}


@pytest.mark.parametrize("table", ["jobs.jobs", "jobs.job_progress", "jobs.job_executions"])
@ONE_NODE
async def test_request_role_cannot_write_rows_of_another_tenant(
    tenant: str, other: Operator, session: asyncpg.Connection, table: str
) -> None:
    async with session.transaction():
        await session.execute("SELECT set_config('app.tenant_id', $1, true)", tenant)
        update = f"UPDATE {table} SET job_id = 'changed' WHERE tenant_id = $1"
        assert await session.execute(update, other.tenant) == "UPDATE 0"
    await session.execute("SELECT set_config('app.tenant_id', $1, false)", other.tenant)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await session.execute(f"UPDATE {table} SET tenant_id = $1", tenant)


@ONE_NODE
async def test_calls_reset_the_tenant(other: Operator, session: asyncpg.Connection) -> None:
    for call in CALLS:
        await session.fetch(call, other.tenant)

        setting = await session.fetchval("SELECT current_setting('app.tenant_id', true)")
        assert setting == "", call
        assert await session.fetchval("SELECT count(*) FROM jobs.jobs") == 0, call
