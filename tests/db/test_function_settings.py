"""Settings that functions must have, and functions that must have none."""

from importlib.resources import files

from tests.support.database import Database

_API = files("jobs_grpc.db").joinpath("sql/functions/api")
_INTERNAL = files("jobs_grpc.db").joinpath("sql/functions/internal")

_ENTRY_FUNCTIONS_WITHOUT_SEARCH_PATH = """
    SELECT proname FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND NOT proname = ANY ($1)
      AND ('search_path=pg_catalog, pg_temp' = ANY (proconfig)) IS NOT true
"""

_FIRST_STATEMENTS = """
    SELECT substring(prosrc FROM '\\mBEGIN\\s+([^;]+);') AS statement
    FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND proname = ANY ($1)
      AND proargnames[1] <> 'p_tenant_ids'
"""

# enable_sort = off marks the functions that read a page in the order of an index.
_PAGE_FUNCTIONS_WITH_JIT = """
    SELECT proname FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND 'enable_sort=off' = ANY (proconfig)
      AND NOT 'jit=off' = ANY (proconfig)
"""

_INLINED_FUNCTIONS_WITH_SETTINGS = """
    SELECT proname FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND proconfig IS NOT NULL
      AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'sql')
"""


_READS_OF_SEVERAL_SNAPSHOTS = """
    SELECT proname FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND proname = ANY ($1) AND provolatile = 'v'
      AND proname ~ '^(get|list|explain|preview)_'
"""


async def test_functions_of_calls_and_maintenance_have_a_fixed_search_path(
    database: Database,
) -> None:
    internal = [path.name.removesuffix(".sql") for path in _INTERNAL.iterdir()]

    assert await database.owner.fetch(_ENTRY_FUNCTIONS_WITHOUT_SEARCH_PATH, internal) == []


async def test_functions_of_calls_set_their_tenant_first(database: Database) -> None:
    names = [path.name.removesuffix(".sql") for path in _API.iterdir()]

    functions = await database.owner.fetch(_FIRST_STATEMENTS, names)

    assert len(functions) > 50
    assert {row["statement"] for row in functions} == {
        "PERFORM set_config('app.tenant_id', p_tenant_id, true)"
    }


async def test_functions_that_read_a_page_do_not_compile_queries(database: Database) -> None:
    """Compiling takes 20 to 150 ms per call.

    The planner compiles queries by their estimated cost, and it does not know the limit of a page.
    """
    assert await database.owner.fetch(_PAGE_FUNCTIONS_WITH_JIT) == []


async def test_functions_of_reads_see_one_moment(database: Database) -> None:
    """All queries of a STABLE function have the snapshot of the statement that calls it."""
    names = [path.name.removesuffix(".sql") for path in _API.iterdir()]

    reads = await database.owner.fetch(_READS_OF_SEVERAL_SNAPSHOTS, names)

    # These give positions to new events first.
    assert {row["proname"] for row in reads} == {"list_events", "list_job_events"}


async def test_times_are_inlined(database: Database) -> None:
    """All SQL takes the time from these two functions, which tests replace."""
    plan = await database.owner.fetch("EXPLAIN VERBOSE SELECT jobs.now(), jobs.clock_time()")

    assert plan[-1][0].strip() == "Output: now(), clock_timestamp()"


async def test_sql_functions_have_no_settings(database: Database) -> None:
    """PostgreSQL does not inline a function that has settings."""
    assert await database.owner.fetch(_INLINED_FUNCTIONS_WITH_SETTINGS) == []
