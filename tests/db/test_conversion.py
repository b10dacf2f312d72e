"""`migrate` converts databases that the last version with the earlier numbers has migrated."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db import schema
from jobs_grpc.db.conversion import LAST_COMMIT, ConversionError, convert
from jobs_grpc.db.migrate import MigrationError, RequestRole, migrate
from tests.support.database import Database, new_database
from tests.support.postgres import Postgres, connected
from tests.support.schema_dump import dump_schema
from tests.support.server import running_server
from tests.upgrade.earlier_version import NoHistoryError, extract

pytestmark = pytest.mark.slow

_FUNCTIONS = (
    "SELECT oid::regprocedure::text, pg_get_function_result(oid), prosrc, proconfig::text"
    " FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace ORDER BY 1"
)
_MIGRATIONS = "SELECT version, name, checksum FROM jobs.migrations ORDER BY 1"

_REQUEST = {"document_type": "reboot", "target_all": True}
_CRITERION = {
    "basis": "FINISHED",
    "count": 1,
    "scope": "JOB",
    "action": "PAUSE",
    "statuses": ["FAILED"],
    "min_finished": 0,
    "failure_codes": ["E1"],
}
_STAGES = {"rollout": {"stages": [{"display_name": ""}]}}
_CREATE = "SELECT FROM jobs.create_job('t', $1, $2, '{}', 'olivia', 100, NULL, 24)"
_FAIL = """
    SELECT FROM jobs.update_executions(
        't', 0, ARRAY['retried', 'retried'], '{f,f}', '{d00001,d00002}', '{FAILED,FAILED}',
        '{NULL,NULL}', '{NULL,NULL}', '{NULL,NULL}', '{NULL,NULL}', '{f,f}', '{E2,E2}')
"""


@pytest.fixture(scope="module")
async def template(
    cluster: tuple[Postgres, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, RequestRole]]:
    """The name of a database that the earlier version has migrated, and its request role."""
    try:
        code = extract(LAST_COMMIT, tmp_path_factory.mktemp("earlier"))
    except NoHistoryError as e:
        pytest.skip(f"no earlier version: {e}")
    postgres, _ = cluster
    async with postgres.database() as name, postgres.unused_role(name) as role:
        try:
            await code.migrate(postgres.dsn(name), postgres.dsn(name, role))
        except AssertionError:  # On Citus, it fails to count devices, before its last migration.
            if not postgres.citus_nodes:
                raise
        await postgres.make_template(name)
        yield name, role
        await postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.fixture
async def earlier(
    cluster: tuple[Postgres, str], template: tuple[str, RequestRole]
) -> AsyncIterator[Database]:
    (postgres, _), (original, role) = cluster, template
    async with new_database(postgres, original, role) as database:
        yield database


async def _migrate(database: Database) -> list[str]:
    return await migrate(database.owner_dsn, database.role)


async def test_converted_database_equals_a_new_one(earlier: Database, fresh: Database) -> None:
    # As in a database that the earlier version has adopted.
    await earlier.owner.execute("CREATE TABLE jobs.schema_migrations (version integer, name text)")
    await earlier.owner.execute("INSERT INTO jobs.schema_migrations VALUES (17, 'add_expiry')")
    # As a function whose file was removed.
    await earlier.owner.execute("CREATE FUNCTION jobs.f() RETURNS void LANGUAGE sql AS ''")

    migrations = schema.migrations()[1:]
    assert await _migrate(earlier) == [
        "converted migration 0035 add_device_counts to 0001 schema",
        *(f"applied migration {m.label}" for m in migrations if not m.after_code),
        "applied views and functions",
        *(f"applied migration {m.label}" for m in migrations if m.after_code),
    ]

    assert await dump_schema(earlier.owner_dsn) == await dump_schema(fresh.owner_dsn)
    for rows in (_FUNCTIONS, _MIGRATIONS):
        assert await earlier.owner.fetch(rows) == await fresh.owner.fetch(rows)
    assert await _migrate(earlier) == []


async def test_converted_jobs_trip_and_equal_repeated_requests(earlier: Database) -> None:
    """Jobs whose criteria have no counts yet run, or are completed; one job has none."""
    requests = {
        "running": _REQUEST | {"failure_criteria": [_CRITERION]},
        "staged": _REQUEST | _STAGES | {"failure_criteria": [_CRITERION | {"scope": "STAGE"}]},
        "retried": _REQUEST | {"failure_criteria": [_CRITERION]},
        "repeated": _REQUEST | {"expires_in_hours": 24},
    }
    await earlier.add_devices("t", 2)
    for job_id, request in requests.items():
        await earlier.owner.execute(_CREATE, job_id, json.dumps(request))
    await earlier.owner.execute(_FAIL)
    # As the first servers stored it.
    await earlier.owner.execute("UPDATE jobs.jobs SET request = request - 'target_all'")
    counts = "SELECT job_id, criterion, stage, failures FROM jobs.job_criterion_counts ORDER BY 1"
    assert await earlier.owner.fetch(counts) == []

    await _migrate(earlier)

    zeros = [("retried", 0, -1, 0), ("running", 0, -1, 0), ("staged", 0, 0, 0)]
    assert [tuple(row) for row in await earlier.owner.fetch(counts)] == zeros
    stored = await earlier.owner.fetch("SELECT job_id, request::text FROM jobs.jobs")
    assert {row["job_id"]: json.loads(row["request"]) for row in stored} == requests
    async with running_server(earlier.request_dsn) as server:
        operator, device = server.operator("t"), server.device("t", "d00001")
        assert (await operator.get("retried")).status == pb.Job.COMPLETED
        await operator.retry("retried", pb.JobExecution.FAILED)
        repeated = await operator.create(job_id="repeated", target_all=True)
        assert repeated.execution_count == 2
        for job_id in requests.keys() - {"repeated"}:
            await device.update(job_id, pb.JobExecution.FAILED, failure_code="E1")
            job = await operator.get(job_id)
            assert (job.status, job.pause.cause) == (pb.Job.PAUSED, pb.Pause.FAILURE_CRITERION)
    assert await earlier.recount() == []


async def test_converted_rows_have_the_names_of_today(earlier: Database) -> None:
    await earlier.add_devices("t", 1)
    await earlier.owner.execute(_CREATE, "j", json.dumps(_REQUEST))
    types = ["job.approved", "job.paused"]
    await earlier.owner.execute(
        "SELECT FROM jobs.create_webhook('t', 'w', 'https://a', '', $1, 'k')", types
    )
    await earlier.owner.execute(_CREATE, "queued", json.dumps(_REQUEST))
    await earlier.owner.execute("UPDATE jobs.events SET type = 'job.approved'")
    await earlier.owner.execute("UPDATE jobs.event_queue SET type = 'job.approved'")
    await earlier.owner.execute("UPDATE jobs.job_executions SET end_cause = 'DEVICE_REMOVED'")
    await earlier.owner.execute("""
        INSERT INTO jobs.execution_attempts (tenant_id, job_id, device_id, execution_number,
            version, status, queued_at, last_updated_at, end_cause)
        SELECT tenant_id, job_id, device_id, number, 1, 'REJECTED', now(), now(), cause
        FROM jobs.job_executions,
            unnest(ARRAY[1, 2], ARRAY['DEVICE_REMOVED', 'TIMEOUT']) AS a (number, cause)
        WHERE job_id = 'j'
    """)

    await _migrate(earlier)

    renamed = await earlier.owner.fetchrow("""
        SELECT (SELECT array_agg(type) FROM jobs.events) AS events,
               (SELECT array_agg(type) FROM jobs.event_queue) AS queued,
               (SELECT types FROM jobs.webhooks) AS types,
               (SELECT array_agg(DISTINCT end_cause) FROM jobs.job_executions) AS end_causes,
               (SELECT array_agg(end_cause ORDER BY execution_number)
                FROM jobs.execution_attempts) AS attempts
    """)
    approved, deleted = "job.stage_approved", "DEVICE_DELETED"
    assert renamed is not None
    assert tuple(renamed) == (
        *([approved], [approved], [approved, "job.paused"]),
        *([deleted], [deleted, "TIMEOUT"]),
    )


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ("DELETE FROM jobs.migrations WHERE version > 34", "0034 index_webhooks_by_tenant"),
        ("DELETE FROM jobs.migrations WHERE version = 19", "0035 add_device_counts"),
        ("UPDATE jobs.migrations SET checksum = 'x' WHERE version = 9", "0035 add_device_counts"),
        ("INSERT INTO jobs.migrations VALUES (36, 'other', '')", "0036 other"),
        (
            "DELETE FROM jobs.migrations;"
            "CREATE TABLE jobs.schema_migrations AS SELECT 17 AS version, 'add_expiry' AS name",
            "0017 add_expiry",
        ),
    ],
)
async def test_other_earlier_databases_are_refused_by_name(
    earlier: Database, change: str, label: str
) -> None:
    await earlier.owner.execute(change)
    before = await earlier.owner.fetch(_MIGRATIONS)

    with pytest.raises(MigrationError) as failure:
        await _migrate(earlier)

    assert str(failure.value) == (
        f"the database is at migration {label} of an earlier version; this version continues from"
        " 0035, with all migrations before it: run `jobs-grpc migrate` of commit"
        f" {LAST_COMMIT} first"
    )
    assert await earlier.owner.fetch(_MIGRATIONS) == before


async def test_conversion_is_refused_while_a_server_is_connected(earlier: Database) -> None:
    async with connected(earlier.request_dsn):
        with pytest.raises(MigrationError, match="stop all servers, back up the database"):
            await _migrate(earlier)
    await earlier.wait_for_idle_sessions()

    assert (await _migrate(earlier))[0].startswith("converted migration 0035")


async def test_an_owner_that_is_no_superuser_sees_the_sessions_of_servers(
    earlier: Database,
) -> None:
    async with connected(earlier.request_dsn):
        await earlier.owner.execute("SET ROLE pg_read_all_data")
        with pytest.raises(ConversionError, match="sessions of"):
            await convert(earlier.owner, earlier.role.name)


async def test_conversion_that_fails_changes_nothing(earlier: Database) -> None:
    before = await dump_schema(earlier.owner_dsn)
    await earlier.owner.execute("CREATE VIEW public.report AS SELECT default_expiry FROM jobs.jobs")

    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await _migrate(earlier)

    await earlier.owner.execute("DROP VIEW public.report")
    assert await dump_schema(earlier.owner_dsn) == before
