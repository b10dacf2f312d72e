"""A new connection knows the types of all calls, and looks them up fast."""

from pathlib import Path
from typing import Any

from jobs_grpc.db.connection_pool import prepare_connection
from jobs_grpc.db.readiness import check_ready
from tests.support.database import Database
from tests.support.postgres import connected

FUNCTIONS = Path(__file__).parents[2] / "jobs_grpc" / "db" / "sql" / "functions" / "api"
CALLED = sorted(path.stem for path in FUNCTIONS.glob("*.sql"))
# Part of the query with which asyncpg looks up types.
LOOK_UP = "typeinfo_tree"


async def test_no_call_looks_up_types(database: Database) -> None:
    queries: list[str] = []
    async with connected(database.request_dsn) as connection:
        await prepare_connection(connection)
        functions = await database.owner.fetch(
            "SELECT proname, pronargs FROM pg_proc"
            " WHERE pronamespace = 'jobs'::regnamespace AND proname = ANY ($1)",
            CALLED,
        )
        connection.add_query_logger(lambda query: queries.append(query.query))
        for name, count in functions:
            parameters = ", ".join(f"${n}" for n in range(1, count + 1))
            await connection.prepare(f"SELECT * FROM jobs.{name}({parameters})")
        looked_up = [query for query in queries if LOOK_UP in query]
        # The log contains look-ups.
        await connection.prepare("SELECT NULL::pg_catalog.inet[]")

    assert [row["proname"] for row in functions]
    assert not looked_up
    assert any(LOOK_UP in query for query in queries)


async def test_readiness_check_looks_up_no_types(database: Database) -> None:
    queries: list[str] = []
    async with connected(database.request_dsn) as connection:
        connection.add_query_logger(lambda query: queries.append(query.query))
        await check_ready(connection)

    assert queries
    assert not [query for query in queries if LOOK_UP in query]


async def test_new_connection_keeps_no_setting(database: Database) -> None:
    async with connected(database.request_dsn) as connection:
        await prepare_connection(connection)
        setting: Any = await connection.fetchval(
            "SELECT current_setting('citus.override_table_visibility', true)"
        )

    # PostgreSQL itself does not know it; Citus has it on.
    assert setting in (None, "", "on")
