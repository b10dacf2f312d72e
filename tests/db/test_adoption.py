"""`migrate` adopts databases that the last version with the earlier numbers has migrated."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.migrate import MigrationError, RequestRole, migrate
from tests.support.database import Database
from tests.support.postgres import Postgres, connect
from tests.support.schema_dump import dump_schema
from tests.upgrade.earlier_version import NoHistoryError, extract

pytestmark = [pytest.mark.slow, pytest.mark.single_node("the dump is of one node")]

_COMMIT = "f50e52f"

_FUNCTIONS = (
    "SELECT oid::regprocedure::text, pg_get_function_result(oid), prosrc, proconfig FROM pg_proc"
    " WHERE pronamespace = 'jobs'::regnamespace ORDER BY 1"
)


@pytest.fixture
async def earlier(
    request: pytest.FixtureRequest, cluster: tuple[Postgres, str], tmp_path: Path
) -> AsyncIterator[Database]:
    """A database that the earlier version has migrated up to the migration request.param."""
    try:
        code = extract(_COMMIT, tmp_path)
    except NoHistoryError as e:
        pytest.skip(f"no earlier version: {e}")
    for path in (code.folder / "jobs_grpc/db/sql/migrations").iterdir():
        if path.name > f"{request.param + 1:04}":
            path.unlink()
    postgres, _ = cluster
    async with postgres.database() as name, postgres.unused_role(name) as role:
        owner_dsn, request_dsn = postgres.dsn(name), postgres.dsn(name, role)
        await code.migrate(owner_dsn, request_dsn)
        owner = await connect(owner_dsn)
        yield Database(owner_dsn, request_dsn, owner)
        await owner.close()


async def _migrate(database: Database) -> list[str]:
    # "own": the same indexes and grants as in a new database.
    return await migrate(
        database.owner_dsn,
        RequestRole.from_dsn(database.request_dsn),
        device_tables_manager="own",
    )


@pytest.mark.parametrize(
    ("earlier", "adopted", "last"),
    [
        (15, "0015 drop_jobs_to_purge as 0001 jobs", 1),
        (16, "0016 add_allow_empty as 0002 add_allow_empty", 2),
        (17, "0017 add_default_expiry as 0003 add_default_expiry", 3),
    ],
    indirect=["earlier"],
)
async def test_adopted_database_equals_a_new_one(
    earlier: Database, database: Database, adopted: str, last: int
) -> None:
    done = await _migrate(earlier)

    # Sorted: some migrations are applied after the views and functions.
    assert sorted(done) == sorted(
        [
            "the device tables are the service's own",
            f"adopted migration {adopted}",
            *(f"applied migration {m.label}" for m in schema.migrations() if m.version > last),
            "applied views and functions",
        ]
    )
    # The earlier table of migrations stays, for servers of the earlier version.
    options = "--exclude-table=jobs.schema_migrations"
    assert await dump_schema(earlier.owner_dsn, options) == await dump_schema(database.owner_dsn)
    assert await earlier.owner.fetch(_FUNCTIONS) == await database.owner.fetch(_FUNCTIONS)
    assert await _migrate(earlier) == []


@pytest.mark.parametrize("earlier", [15], indirect=True)
@pytest.mark.parametrize(
    ("change", "label"),
    [
        ("DELETE FROM jobs.schema_migrations WHERE version > 9", "0009 add_failure_code_index"),
        ("UPDATE jobs.schema_migrations SET version = 18, name = 'x' WHERE version = 15", "0018 x"),
        ("UPDATE jobs.schema_migrations SET checksum = 'x'", "0015 drop_jobs_to_purge"),
    ],
)
async def test_other_earlier_databases_are_refused_by_name(
    earlier: Database, change: str, label: str
) -> None:
    await earlier.owner.execute(change)

    with pytest.raises(
        MigrationError, match=f"^the database is at migration {label} of an earlier"
    ):
        await _migrate(earlier)

    assert not await earlier.owner.fetch("SELECT FROM jobs.migrations")


@pytest.mark.parametrize("earlier", [14], indirect=True)
async def test_database_before_0015_is_refused_by_name(earlier: Database) -> None:
    with pytest.raises(MigrationError) as failure:
        await _migrate(earlier)

    assert str(failure.value) == (
        "the database is at migration 0014 add_deleted_jobs_index of an earlier version; this"
        " version continues from 0015, 0016 or 0017: run `jobs-grpc migrate` of commit"
        f" {_COMMIT} first"
    )


@pytest.mark.parametrize("earlier", [17], indirect=True)
async def test_job_that_violates_the_unchecked_constraint_is_named(earlier: Database) -> None:
    async with earlier.owner.transaction():
        await earlier.owner.execute("ALTER TABLE jobs.jobs DROP CONSTRAINT jobs_pause_check")
        await earlier.owner.execute(
            "INSERT INTO jobs.jobs (tenant_id, job_id, document_type, document_params, target_all,"
            " created_at, updated_at) VALUES ('t', 'j', 'reboot', '{}', true, now(), now())"
        )
        await earlier.owner.execute("UPDATE jobs.jobs SET paused_at = now()")
        await earlier.owner.execute(
            "ALTER TABLE jobs.jobs ADD CONSTRAINT jobs_pause_check"
            " CHECK ((paused_at IS NULL) = (pause_reason IS NULL)"
            " AND (paused_at IS NOT NULL OR paused_by IS NULL)) NOT VALID"
        )

    with pytest.raises(MigrationError, match=r"^job j of tenant t violates ") as error:
        await _migrate(earlier)
    assert "\n" not in str(error.value)
    assert not await earlier.owner.fetch("SELECT FROM jobs.migrations")

    await earlier.owner.execute("UPDATE jobs.jobs SET paused_at = NULL")
    assert (await _migrate(earlier))[0].startswith("adopted migration 0017")


@pytest.mark.parametrize("earlier", [17], indirect=True)
async def test_database_is_refused_when_its_last_migrations_are_incomplete(
    earlier: Database,
) -> None:
    """0015 was applied last, because it ran after views and functions."""
    await earlier.owner.execute("DELETE FROM jobs.schema_migrations WHERE version = 15")

    with pytest.raises(MigrationError, match=f"jobs-grpc migrate` of commit {_COMMIT} first$"):
        await _migrate(earlier)
