"""What the doctor finds when the database cannot be used, or is not as it should be."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.conversion import FIRST_CHECKSUM
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.db.schema import Migration
from jobs_grpc.doctor import connection, database
from tests.doctor.conftest import PASSWORD, Doctor
from tests.support.database import Database
from tests.support.postgres import Postgres
from tests.support.proxy import running_proxy

pytestmark = pytest.mark.slow

NEEDS_DATABASE = (
    *("clock", "cluster", "schema", "isolation", "privileges", "device-tables"),
    *("connections", "pool"),
)


def _role(fresh: Database) -> str:
    return RequestRole.from_dsn(fresh.request_dsn).name


async def test_doctor_reports_versions_when_all_is_well(doctor: Doctor) -> None:
    [found] = await doctor("database")
    assert (found.status, found.detail[:11]) == ("OK", "PostgreSQL ")
    [found] = await doctor("version")
    assert (found.status, found.detail[:10]) == ("OK", "jobs-grpc ")
    for check in (*NEEDS_DATABASE, "maintenance", "ids"):
        [found] = await doctor(check)
        assert found.status == "OK", found


async def test_doctor_skips_checks_of_the_database_when_nothing_listens(doctor: Doctor) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{reserved.getsockname()[1]}/jobs"

        [found] = await doctor("database", JOBS_DATABASE_URL=url)

        assert (found.status, "can't connect: " in found.detail) == ("ERROR", True)
        assert found.remedy == "start PostgreSQL, or correct the address in JOBS_DATABASE_URL"
        for check in NEEDS_DATABASE:
            [skipped] = await doctor(check, JOBS_DATABASE_URL=url)
            assert (skipped.status, skipped.detail) == ("SKIPPED", "needs the database")


async def test_doctor_reports_database_that_does_not_respond(
    doctor: Doctor, fresh: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
    async with running_proxy(fresh.request_dsn) as proxy:
        proxy.freeze()
        [found] = await doctor("database", JOBS_DATABASE_URL=proxy.dsn)

    assert (found.status, found.detail) == ("ERROR", "can't connect: no response in time")


@pytest.mark.parametrize(
    ("part", "missing", "remedy"),
    [
        ("role", "no_such_role", "correct the user or password in JOBS_DATABASE_URL"),
        ("database", "no_such_database", "create the database"),
    ],
)
async def test_doctor_reports_role_or_database_that_does_not_exist(
    doctor: Doctor, fresh: Database, part: str, missing: str, remedy: str
) -> None:
    url = fresh.request_dsn.replace(_role(fresh), missing)
    if part == "database":
        url = urlunsplit(urlsplit(fresh.request_dsn)._replace(path=f"/{missing}"))

    [found] = await doctor("database", JOBS_DATABASE_URL=url)

    assert (found.status, missing in found.detail) == ("ERROR", True)
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("damage", "detail", "remedy"),
    [
        ("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC", "permission denied", "GRANT CONNECT"),
        (
            "ALTER ROLE {role} CONNECTION LIMIT 0",
            "too many connections",
            "raise max_connections or the CONNECTION LIMIT",
        ),
        ("ALTER ROLE {role} SET default_transaction_read_only = on", "read-only", "primary"),
    ],
)
async def test_doctor_reports_database_that_the_role_cannot_use(
    doctor: Doctor, fresh: Database, damage: str, detail: str, remedy: str
) -> None:
    name = await fresh.owner.fetchval("SELECT current_database()")
    await fresh.owner.execute(damage.format(role=_role(fresh), name=name))

    [found] = await doctor("database")

    assert (found.status, detail in found.detail) == ("ERROR", True)
    assert remedy in found.remedy


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

    [found] = await doctor("clock")

    assert found.status == "WARNING"
    assert f"s {direction} PostgreSQL" in found.detail
    assert 85 < float(found.detail.split()[3]) < 95
    assert "synchronize the clocks" in found.remedy


async def test_doctor_reports_database_without_schema(
    cluster: tuple[Postgres, str], doctor: Doctor
) -> None:
    postgres, _ = cluster
    async with postgres.database() as name:
        settings = {
            "JOBS_DATABASE_URL": postgres.dsn(name, postgres.role),
            "JOBS_OWNER_DATABASE_URL": postgres.dsn(name),
        }
        [found] = await doctor("schema", **settings)
        assert (found.status, found.detail) == ("ERROR", "the database has no tables of jobs-grpc")
        for check in ("isolation", "privileges"):
            [skipped] = await doctor(check, **settings)
            assert (skipped.status, skipped.detail) == (
                "SKIPPED",
                "needs the schema of this version",
            )
        [skipped] = await doctor("maintenance", **settings)
        assert (skipped.status, skipped.detail) == ("SKIPPED", "needs the schema")

        assert "jobs-grpc migrate" in found.remedy
        await migrate(postgres.dsn(name), postgres.role)
        for check in ("schema", "isolation", "privileges", "maintenance"):
            [repaired] = await doctor(check, **settings)
            assert repaired.status == "OK", repaired


async def test_doctor_reports_a_migration_that_was_not_applied(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = (*schema.migrations(), Migration(9001, "later", ""))
    monkeypatch.setattr("jobs_grpc.doctor.schema.migrations", lambda: later)

    [found] = await doctor("schema")

    assert (found.status, found.detail) == ("ERROR", "migration 9001 later was not applied")
    assert "jobs-grpc migrate" in found.remedy


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (
            "UPDATE jobs.schema_code SET checksum = 'other'",
            "the views and functions of this version were not applied",
        ),
        (
            "REVOKE SELECT ON jobs.migrations FROM {role}",
            "the request role can't read which migrations were applied",
        ),
    ],
)
async def test_doctor_reports_schema_that_migrate_repairs(
    doctor: Doctor, fresh: Database, damage: str, detail: str
) -> None:
    await fresh.owner.execute(damage.format(role=_role(fresh)))

    [found] = await doctor("schema")

    assert (found.status, found.detail) == ("ERROR", detail)
    assert "jobs-grpc migrate" in found.remedy
    [skipped] = await doctor("privileges")
    assert skipped.status == "SKIPPED"
    await migrate(fresh.owner_dsn, RequestRole.from_dsn(fresh.request_dsn))
    [found] = await doctor("schema")
    assert found.status == "OK"


@pytest.mark.parametrize(
    ("checksum", "detail", "remedy"),
    [
        ("x", "0001 schema was applied with different SQL", "use another database"),
        (FIRST_CHECKSUM, "the database has the tables of an earlier version", "stop all servers"),
    ],
)
async def test_doctor_reports_migration_with_different_sql(
    doctor: Doctor, fresh: Database, checksum: str, detail: str, remedy: str
) -> None:
    change = "UPDATE jobs.migrations SET checksum = $1 WHERE version = 1"
    await fresh.owner.execute(change, checksum)

    [found] = await doctor("schema")

    assert found.status == "ERROR"
    assert detail in found.detail
    assert remedy in found.remedy


async def test_doctor_accepts_schema_of_a_newer_version(doctor: Doctor, fresh: Database) -> None:
    await fresh.owner.execute(
        "INSERT INTO jobs.migrations (version, name, checksum) VALUES (9000, 'next', 'x')"
    )

    [found] = await doctor("schema")

    assert (found.status, "newer version up to 9000" in found.detail) == ("OK", True)


@pytest.mark.parametrize(
    ("check", "damage", "detail"),
    [
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
    ],
)
async def test_doctor_reports_missing_isolation_or_privilege_and_its_sql_repairs_it(
    doctor: Doctor, fresh: Database, check: str, damage: str, detail: str
) -> None:
    await fresh.owner.execute(damage.format(role=_role(fresh)))

    [found] = await doctor(check)

    assert (found.status, detail in found.detail) == ("ERROR", True)
    await fresh.owner.execute(found.remedy.rpartition("run: ")[2])
    for repaired in ("privileges", "schema", "isolation"):
        [found] = await doctor(repaired)
        assert found.status == "OK"


async def test_doctor_reports_missing_isolation_of_the_owner_login(
    doctor: Doctor, fresh: Database
) -> None:
    found = await doctor("isolation", JOBS_DATABASE_URL=fresh.owner_dsn)

    assert {finding.status for finding in found} == {"ERROR"}
    assert "JOBS_DATABASE_URL needs a separate login" in found[0].detail


async def test_doctor_skips_schema_when_role_may_not_use_it(
    doctor: Doctor, fresh: Database
) -> None:
    await fresh.owner.execute(f"REVOKE USAGE ON SCHEMA jobs FROM {_role(fresh)}")

    for check in ("schema", "isolation"):
        [skipped] = await doctor(check)
        assert (skipped.status, skipped.detail) == ("SKIPPED", "needs privileges on the schemas")


async def test_doctor_reports_a_check_that_fails_and_makes_the_others(
    doctor: Doctor, fresh: Database
) -> None:
    await fresh.owner.execute("REVOKE SELECT ON pg_catalog.pg_stat_activity FROM PUBLIC")

    [found] = await doctor("connections")

    assert found.status == "ERROR"
    assert found.detail.startswith("the check failed: permission denied for")
    [found] = await doctor("privileges")
    assert found.status == "OK"


async def _server_limit(owner: asyncpg.Connection) -> int:
    limit: int = await owner.fetchval(
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true)::int, 0)"
    )
    return limit


async def test_doctor_reports_limits_of_connections_that_are_too_low(
    doctor: Doctor, fresh: Database
) -> None:
    name = await fresh.owner.fetchval("SELECT current_database()")
    await fresh.owner.execute(
        f"ALTER ROLE {_role(fresh)} CONNECTION LIMIT 11; ALTER DATABASE {name} CONNECTION LIMIT 14"
    )

    found = await doctor("connections")

    # Ten of the pool, one of the readiness check, one of last seen, and four of maintenance.
    assert [(finding.status, finding.detail) for finding in found] == [
        (
            "ERROR",
            "this server opens up to 12 connections; the CONNECTION LIMIT of the request role"
            " allows 11",
        ),
        (
            "ERROR",
            "this server opens up to 16 connections; the CONNECTION LIMIT of the database allows"
            " 14",
        ),
    ]
    assert "lower JOBS_POOL_MAX_SIZE (10) or JOBS_WORKERS (1)" in found[0].remedy


async def test_doctor_compares_all_workers_with_max_connections(
    doctor: Doctor, fresh: Database
) -> None:
    limit = await _server_limit(fresh.owner)

    [found] = await doctor("connections", JOBS_WORKERS="100")

    needed = 100 * 12 + 4
    assert (found.status, found.detail) == (
        "ERROR",
        f"this server opens up to {needed} connections; the max_connections of PostgreSQL allows"
        f" {limit}",
    )


async def test_doctor_counts_the_connections_that_send_webhooks(
    doctor: Doctor, webhook_keys: Path
) -> None:
    [found] = await doctor("connections", JOBS_WEBHOOK_KEYS_FILE=str(webhook_keys))

    # In addition to those without webhooks, four of the dispatcher.
    assert found.detail.startswith("this server opens up to 20 connections; ")


async def test_doctor_warns_when_other_connections_leave_too_few(
    doctor: Doctor, fresh: Database
) -> None:
    # With one of the readiness check, one of last seen and four of maintenance, exactly the limit.
    pool_size = await _server_limit(fresh.owner) - 6

    # The owner's connection of this test is one too many.
    [found] = await doctor("connections", JOBS_POOL_MAX_SIZE=f"{pool_size}")

    assert (found.status, "others have " in found.detail) == ("WARNING", True)
    assert found.remedy.startswith("raise max_connections of PostgreSQL")


async def test_doctor_warns_when_all_connections_of_the_pool_are_busy(
    doctor: Doctor, fresh: Database
) -> None:
    waiter = await asyncpg.connect(fresh.request_dsn)
    async with fresh.owner.transaction():
        # No check of the doctor waits for this lock.
        lock = "SELECT pg_advisory_xact_lock(1)"
        await fresh.owner.execute(lock)
        task = asyncio.create_task(waiter.execute(lock))
        await fresh.wait_for_blocked_sessions(1)

        [found] = await doctor("pool", JOBS_POOL_MAX_SIZE="1", JOBS_OWNER_DATABASE_URL="")

        await fresh.cancel_blocked_sessions()
        with pytest.raises(asyncpg.QueryCanceledError):
            await task
    await waiter.close()
    assert found.status == "WARNING"
    assert found.detail.startswith(
        "connections of the request role: 1 open, 1 busy, 1 wait for a lock, longest: "
    )
    assert "pg_blocking_pids" in found.remedy


@pytest.mark.citus
async def test_doctor_reports_nodes_and_shards_of_a_cluster(
    doctor: Doctor, fresh: Database
) -> None:
    [found] = await doctor("cluster")
    assert (found.status, found.detail[:8]) == ("OK", "shards: ")

    worker = "(SELECT max(groupid) FROM pg_dist_node)"
    # Reference tables have a placement on every node already.
    await fresh.owner.execute(
        f"UPDATE pg_dist_placement SET groupid = 1 WHERE groupid = {worker} AND shardid NOT IN"
        " (SELECT shardid FROM pg_dist_placement WHERE groupid = 1)"
    )
    [found] = await doctor("cluster")
    assert (found.status, found.detail.rpartition(", ")[2][:5]) == ("WARNING", "0 on ")

    await fresh.owner.execute(f"UPDATE pg_dist_node SET nodeport = 1 WHERE groupid = {worker}")
    [found] = await doctor("cluster")
    assert (found.status, found.remedy) == ("ERROR", "start the node")


@pytest.mark.citus
async def test_doctor_reports_a_cluster_whose_tables_are_not_distributed(
    doctor: Doctor, fresh: Database
) -> None:
    await fresh.owner.execute("SELECT undistribute_table('jobs.jobs')")

    [found] = await doctor("cluster")

    assert (found.status, found.remedy) == ("ERROR", "run `jobs-grpc migrate`")


async def test_doctor_reports_who_manages_the_device_tables(
    doctor: Doctor, fresh: Database
) -> None:
    [found] = await doctor("device-tables")
    assert (found.status, found.detail.partition(":")[0]) == ("OK", "the service's own")

    role = RequestRole.from_dsn(fresh.request_dsn)
    await migrate(fresh.owner_dsn, role, device_tables_manager="platform")

    [found] = await doctor("device-tables")
    assert (found.status, found.detail.partition(":")[0]) == ("OK", "managed by the platform")


@pytest.mark.single_node("Citus refuses to change the type of tenant_id")
async def test_doctor_prints_the_indexes_that_tables_of_the_platform_lack(
    doctor: Doctor, fresh: Database
) -> None:
    await fresh.owner.execute(
        """
        UPDATE jobs.device_tables SET is_own = false;
        DROP INDEX public.device_group_members_by_device;
        ALTER TABLE device_state ALTER device_id TYPE text COLLATE "default";
        ALTER TABLE device_group_members ALTER device_id TYPE text COLLATE "default";
        """
    )

    manager, *excess_and_missing = await doctor("device-tables")
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
    assert [f.status for f in await doctor("device-tables")] == ["OK"]
