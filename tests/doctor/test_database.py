"""What the doctor finds when the database cannot be used, or is not as it should be."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.conversion import FIRST_CHECKSUM
from jobs_grpc.db.migrate import migrate
from jobs_grpc.db.schema import Migration
from jobs_grpc.doctor import cleanup, connection, database
from tests.doctor.conftest import Doctor
from tests.support.database import new_database
from tests.support.postgres import PASSWORD, Postgres, connected
from tests.support.proxy import running_proxy

pytestmark = pytest.mark.slow

NEEDS_DATABASE = (
    "clock cluster schema isolation privileges device-tables connections pool dead-rows slots"
)


async def _migrate(doctor: Doctor, manager: Literal["platform"] | None = None) -> None:
    database = doctor.database
    await migrate(database.owner_dsn, database.role, device_tables_manager=manager)


async def test_doctor_reports_versions_when_all_is_well(doctor: Doctor) -> None:
    await doctor.expect("version", "OK", "jobs-grpc *")
    await doctor.expect("database", "OK", "PostgreSQL *")
    await doctor.expect(f"{NEEDS_DATABASE} ids maintenance", "OK")


async def test_doctor_skips_checks_of_the_database_when_nothing_listens(doctor: Doctor) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{reserved.getsockname()[1]}/jobs"

        remedy = "start PostgreSQL, or correct the address in JOBS_DATABASE_URL"
        unreachable = "*can't connect: *"
        await doctor.expect("database", "ERROR", unreachable, remedy, JOBS_DATABASE_URL=url)
        skipped = "needs the database"
        await doctor.expect(NEEDS_DATABASE, "SKIPPED", skipped, JOBS_DATABASE_URL=url)


async def test_doctor_reports_database_that_does_not_respond(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    async with running_proxy(doctor.database.request_dsn) as proxy:
        proxy.freeze()
        detail = "can't connect: no response in time"
        await doctor.expect("database", "ERROR", detail, JOBS_DATABASE_URL=proxy.dsn)


async def test_doctor_reports_role_or_database_that_does_not_exist(doctor: Doctor) -> None:
    role = doctor.database.request_dsn.replace(doctor.role, "no_such_role")
    remedy = "*correct the user or password in JOBS_DATABASE_URL*"
    await doctor.expect("database", "ERROR", "*no_such_role*", remedy, JOBS_DATABASE_URL=role)

    name = urlunsplit(urlsplit(doctor.database.request_dsn)._replace(path="/no_such_database"))
    remedy = "*create the database*"
    await doctor.expect("database", "ERROR", "*no_such_database*", remedy, JOBS_DATABASE_URL=name)


async def test_doctor_reports_database_that_the_role_cannot_use(fresh: Doctor) -> None:
    name = fresh.database.name
    for damage, repair, detail, remedy in (
        (
            f"ALTER ROLE {fresh.role} SET default_transaction_read_only = on",
            f"ALTER ROLE {fresh.role} RESET default_transaction_read_only",
            "*read-only*",
            "*primary*",
        ),
        (
            f"ALTER ROLE {fresh.role} CONNECTION LIMIT 0",
            f"ALTER ROLE {fresh.role} CONNECTION LIMIT -1",
            "*too many connections*",
            "*raise max_connections or the CONNECTION LIMIT*",
        ),
        (
            f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC",
            f"GRANT CONNECT ON DATABASE {name} TO PUBLIC",
            "*permission denied*",
            "*GRANT CONNECT*",
        ),
    ):
        await fresh.owner.execute(damage)
        await fresh.expect("database", "ERROR", detail, remedy)
        await fresh.owner.execute(repair)


def test_version_below_15_is_a_problem() -> None:
    assert database.version_problem(140022) == "version 15 or newer is needed"
    assert database.version_problem(150000) is None


@pytest.mark.parametrize(("seconds", "direction"), [(90.0, "ahead of"), (-90.0, "behind")])
async def test_doctor_reports_difference_of_the_clocks(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, seconds: float, direction: str
) -> None:
    """Only this host's clock can be set in a test."""
    import time

    shifted = SimpleNamespace(time=lambda: time.time() + seconds, perf_counter=time.perf_counter)
    monkeypatch.setattr(database, "time", shifted)

    detail = f"*s {direction} PostgreSQL*"
    found = await doctor.expect("clock", "WARNING", detail, "*synchronize the clocks*")

    assert 85 < float(found.detail.split()[3]) < 95


async def test_doctor_reports_database_without_schema(
    cluster: tuple[Postgres, str], doctor: Doctor
) -> None:
    postgres, _ = cluster
    async with new_database(postgres) as empty:
        settings = {
            "JOBS_DATABASE_URL": empty.request_dsn,
            "JOBS_OWNER_DATABASE_URL": empty.owner_dsn,
        }
        absent = "the database has no tables of jobs-grpc"
        await doctor.expect("schema", "ERROR", absent, "*jobs-grpc migrate*", **settings)
        skipped = "needs the schema of this version"
        await doctor.expect("isolation privileges", "SKIPPED", skipped, **settings)
        await doctor.expect("maintenance", "SKIPPED", "needs the schema", **settings)

        await migrate(empty.owner_dsn, empty.role)
        await doctor.expect("schema isolation privileges maintenance", "OK", **settings)


async def test_doctor_reports_a_migration_that_was_not_applied(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = (*schema.migrations(), Migration(9001, "later", ""))
    monkeypatch.setattr("jobs_grpc.doctor.schema.migrations", lambda: later)

    detail = "migration 9001 later was not applied"
    await doctor.expect("schema", "ERROR", detail, "*jobs-grpc migrate*")


async def test_doctor_reports_schema_that_migrate_repairs(fresh: Doctor) -> None:
    for damage, detail in (
        (
            "UPDATE jobs.schema_code SET checksum = 'other'",
            "the views and functions of this version were not applied",
        ),
        (
            f"REVOKE SELECT ON jobs.migrations FROM {fresh.role}",
            "the request role can't read which migrations were applied",
        ),
    ):
        await fresh.owner.execute(damage)

        await fresh.expect("schema", "ERROR", detail, "*jobs-grpc migrate*")

        await fresh.expect("privileges", "SKIPPED")
        await _migrate(fresh)
        await fresh.expect("schema", "OK")


async def test_doctor_reports_migration_with_different_sql(fresh: Doctor) -> None:
    for checksum, detail, remedy in (
        ("x", "*0001 schema was applied with different SQL*", "*use another database*"),
        (
            FIRST_CHECKSUM,
            "*the database has the tables of an earlier version*",
            "*stop all servers*",
        ),
    ):
        change = "UPDATE jobs.migrations SET checksum = $1 WHERE version = 1"
        await fresh.owner.execute(change, checksum)

        await fresh.expect("schema", "ERROR", detail, remedy)


async def test_doctor_accepts_schema_of_a_newer_version(fresh: Doctor) -> None:
    await fresh.owner.execute(
        "INSERT INTO jobs.migrations (version, name, checksum) VALUES (9000, 'next', 'x')"
    )

    await fresh.expect("schema", "OK", "*newer version up to 9000*")


async def test_doctor_prints_the_sql_that_repairs_isolation_or_privileges(fresh: Doctor) -> None:
    for check, damage, detail in (
        ("isolation", "ALTER ROLE {role} BYPASSRLS", "has BYPASSRLS"),
        (
            "isolation",
            "ALTER TABLE jobs.jobs DISABLE ROW LEVEL SECURITY",
            "has no row-level security",
        ),
        ("isolation", "CREATE POLICY shows_all ON jobs.jobs USING (true)", "may show role"),
        ("privileges", "REVOKE UPDATE ON jobs.job_executions FROM {role}", "lacks a privilege"),
        ("privileges", "REVOKE SELECT ON public.device_state FROM {role}", "lacks a privilege"),
        ("privileges", "REVOKE INSERT ON jobs.job_failures FROM {role}", "lacks a privilege"),
        ("privileges", "REVOKE USAGE ON SCHEMA jobs FROM {role}", "lacks a privilege"),
    ):
        await fresh.owner.execute(damage.format(role=fresh.role))

        found = await fresh.expect(check, "ERROR", f"*{detail}*")

        if "SCHEMA" in damage:
            skipped = "needs privileges on the schemas"
            await fresh.expect("schema isolation", "SKIPPED", skipped)
        await fresh.owner.execute(found.remedy.rpartition("run: ")[2])
        await fresh.expect("schema isolation privileges", "OK")


async def test_doctor_reports_missing_isolation_of_the_owner_login(doctor: Doctor) -> None:
    found = await doctor.findings("isolation", JOBS_DATABASE_URL=doctor.database.owner_dsn)

    assert {finding.status for finding in found} == {"ERROR"}
    assert "JOBS_DATABASE_URL needs a separate login" in found[0].detail


async def test_doctor_runs_other_checks_when_one_fails(fresh: Doctor) -> None:
    await fresh.owner.execute("REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC")

    await fresh.expect("connections", "ERROR", "the check failed: permission denied for*")
    await fresh.expect("privileges", "OK")


async def _server_limit(owner: asyncpg.Connection) -> int:
    limit: int = await owner.fetchval(
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true)::int, 0)"
    )
    return limit


async def test_doctor_reports_limits_of_connections_that_are_too_low(fresh: Doctor) -> None:
    name = fresh.database.name
    await fresh.owner.execute(
        f"ALTER ROLE {fresh.role} CONNECTION LIMIT 11; ALTER DATABASE {name} CONNECTION LIMIT 14"
    )

    found = await fresh.findings("connections")

    # Ten of the pool, one of the readiness check, one of last seen, and four of maintenance.
    assert [(finding.status, finding.detail) for finding in found] == [
        (
            "ERROR",
            "this server opens up to 12 connections; the CONNECTION LIMIT of the request role"
            " allows 11",
        ),
        (
            "ERROR",
            "this server opens up to 18 connections; the CONNECTION LIMIT of the database allows"
            " 14",
        ),
    ]
    assert "lower JOBS_POOL_MAX_SIZE (10) or JOBS_WORKERS (1)" in found[0].remedy


async def test_doctor_compares_what_the_server_opens_with_max_connections(
    doctor: Doctor, webhook_keys: Path
) -> None:
    limit = await _server_limit(doctor.owner)

    needed = 100 * 12 + 6
    detail = (
        f"this server opens up to {needed} connections; the max_connections of PostgreSQL allows"
        f" {limit}"
    )
    await doctor.expect("connections", "ERROR", detail, JOBS_WORKERS="100")
    # In addition to those without webhooks, four of the dispatcher.
    keys = {"JOBS_WEBHOOK_KEYS_FILE": str(webhook_keys)}
    await doctor.expect("connections", "OK", "this server opens up to 22 connections; *", **keys)
    # With one of the readiness check, one of last seen and six of maintenance, exactly the limit:
    # the owner's connection of this test is one too many.
    detail, remedy = "*others have *", "raise max_connections of PostgreSQL*"
    size = {"JOBS_POOL_MAX_SIZE": f"{limit - 8}"}
    await doctor.expect("connections", "WARNING", detail, remedy, **size)


async def test_doctor_warns_when_all_connections_of_the_pool_are_busy(doctor: Doctor) -> None:
    async with connected(doctor.database.request_dsn) as waiter, doctor.owner.transaction():
        # No check of the doctor waits for this lock.
        lock = "SELECT pg_advisory_xact_lock(1)"
        await doctor.owner.execute(lock)
        task = asyncio.create_task(waiter.execute(lock))
        await doctor.database.wait_for_blocked_sessions(1)

        [found] = await doctor.findings("pool", JOBS_POOL_MAX_SIZE="1", JOBS_OWNER_DATABASE_URL="")

        await doctor.database.cancel_blocked_sessions()
        with pytest.raises(asyncpg.QueryCanceledError):
            await task
    assert found.status == "WARNING"
    assert found.detail.startswith(
        "connections of the request role: 1 open, 1 busy, 1 wait for a lock, longest: "
    )
    assert "pg_blocking_pids" in found.remedy


@pytest.mark.citus
async def test_doctor_reports_nodes_and_shards_of_a_cluster(fresh: Doctor) -> None:
    await fresh.expect("cluster", "OK", "shards: *")

    worker = "(SELECT max(groupid) FROM pg_dist_node)"
    # Reference tables have a placement on every node already.
    await fresh.owner.execute(
        f"UPDATE pg_dist_placement SET groupid = 1 WHERE groupid = {worker} AND shardid NOT IN"
        " (SELECT shardid FROM pg_dist_placement WHERE groupid = 1)"
    )
    await fresh.expect("cluster", "WARNING", "*, 0 on *")

    await fresh.owner.execute(f"UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = {worker}")
    await fresh.expect("cluster", "ERROR", remedy="start the node")


@pytest.mark.citus
async def test_doctor_reports_a_cluster_whose_tables_are_not_distributed(fresh: Doctor) -> None:
    await fresh.owner.execute("SELECT undistribute_table('jobs.jobs')")

    await fresh.expect("cluster", "ERROR", remedy="run `jobs-grpc migrate`")


async def test_doctor_reports_who_manages_the_device_tables(fresh: Doctor) -> None:
    await fresh.expect("device-tables", "OK", "the service's own:*")

    await _migrate(fresh, "platform")

    await fresh.expect("device-tables", "OK", "managed by the platform:*")


@pytest.mark.single_node("Citus refuses to change the type of tenant_id")
async def test_doctor_prints_the_indexes_that_tables_of_the_platform_lack(fresh: Doctor) -> None:
    await fresh.owner.execute(
        """
        UPDATE jobs.device_tables SET is_own = false;
        DROP INDEX public.device_group_members_by_device;
        ALTER TABLE device_state ALTER device_id TYPE text COLLATE "default";
        ALTER TABLE device_group_members ALTER device_id TYPE text COLLATE "default";
        """
    )

    manager, *excess_and_missing = await fresh.findings("device-tables")
    remedies = [f.remedy.partition("run: ")[2] for f in excess_and_missing]

    assert manager.status == "OK"
    assert {f.status for f in excess_and_missing} == {"WARNING"}
    assert len([r for r in remedies if r.startswith("REVOKE ")]) == 6
    indexes = sorted(r for r in remedies if r.startswith("CREATE "))
    assert indexes == [
        "CREATE INDEX CONCURRENTLY ON public.device_group_members"
        ' (tenant_id, device_id COLLATE "C");',
        "CREATE INDEX CONCURRENTLY ON public.device_group_members"
        ' (tenant_id, group_id COLLATE "C", device_id COLLATE "C");',
        'CREATE INDEX CONCURRENTLY ON public.device_state (tenant_id, device_id COLLATE "C");',
    ]
    for remedy in remedies:
        await fresh.owner.execute(remedy)
    assert [f.status for f in await fresh.findings("device-tables")] == ["OK"]


@pytest.mark.single_node("the doctor asks the coordinator only")
async def test_doctor_names_the_transaction_that_keeps_dead_rows(
    fresh: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "_MAX_TRANSACTIONS", -1)
    monkeypatch.setattr(cleanup, "_MAX_SECONDS", -1.0)
    holder = f"the session {fresh.owner.get_server_pid()} of the role *"
    ends = f"*SELECT pg_terminate_backend({fresh.owner.get_server_pid()});*"
    async with connected(fresh.database.owner_dsn) as admin, fresh.owner.transaction():
        await fresh.owner.execute("SELECT pg_current_xact_id()")

        await fresh.expect("dead-rows", "WARNING", f"{holder} last * transactions: *", ends)
        await admin.execute(f"GRANT pg_read_all_stats TO {fresh.role}")
        await fresh.expect("dead-rows", "WARNING", f"{holder} last * s, * transactions: *", ends)

    await fresh.expect("dead-rows", "OK")


@pytest.mark.single_node("the doctor asks the coordinator only")
async def test_doctor_names_the_slot_that_keeps_wal(
    fresh: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = fresh.database.name
    await fresh.owner.execute("SELECT pg_create_physical_replication_slot($1, true)", slot)
    try:
        await fresh.expect("slots", "OK")

        monkeypatch.setattr(cleanup, "_MAX_WAL_BYTES", -1)

        remedy = f"*SELECT pg_drop_replication_slot('{slot}');*"
        await fresh.expect("slots", "WARNING", f"*slot {slot} keeps *nothing reads it*", remedy)
    finally:
        await fresh.owner.execute("SELECT pg_drop_replication_slot($1)", slot)
