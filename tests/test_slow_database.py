"""A database that falls silent, or is slow to connect to."""

from grpc import StatusCode

from tests.proxy import proxied
from tests.support import Database, fails, serving, until_listed

# The wait for a connection is the shorter, as it is by default.
IMPATIENT = {
    "JOBS_POOL_MAX_SIZE": "1",
    "JOBS_POOL_TIMEOUT": "0.2",
    "JOBS_QUERY_TIMEOUT": "0.4",
}


async def test_a_call_to_a_silent_database_is_unavailable_and_gives_its_slot_back(
    database: Database, tenant: str
) -> None:
    async with proxied(database.request_dsn) as proxy, serving(proxy.dsn, **IMPATIENT) as server:
        operator = server.operator(tenant)
        await until_listed(operator)

        proxy.freeze()
        with fails(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"):
            await operator.list()
        proxy.thaw()

        # Within those limits, on a busy machine, not at once.
        await until_listed(operator)


async def test_slow_connects_delay_the_start_but_do_not_prevent_it(
    database: Database, tenant: str
) -> None:
    """Each takes more than half of what the checks may take together."""
    async with proxied(database.request_dsn, delay=1.6) as proxy, serving(proxy.dsn) as server:
        assert not (await server.operator(tenant).list()).jobs
