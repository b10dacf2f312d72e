"""Settings that functions need because of other settings."""

from tests.support.database import Database

# enable_sort = off marks the functions that read a page in the order of an index.
_PAGE_FUNCTIONS_WITH_JIT = """
    SELECT proname FROM pg_proc
    WHERE pronamespace = 'jobs'::regnamespace AND 'enable_sort=off' = ANY (proconfig)
      AND NOT 'jit=off' = ANY (proconfig)
"""


async def test_functions_that_read_a_page_do_not_compile_queries(database: Database) -> None:
    """Compiling takes 20 to 150 ms per call.

    The planner compiles queries by their estimated cost, and it does not know the limit of a page.
    """
    assert await database.owner.fetch(_PAGE_FUNCTIONS_WITH_JIT) == []
