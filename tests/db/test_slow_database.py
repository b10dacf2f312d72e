"""A database that falls silent, or is slow to connect to."""

from grpc import StatusCode

from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_failure
from tests.support.proxy import running_proxy
from tests.support.server import running_server, wait_until_list_succeeds

# The wait for a connection is the shorter, as it is by default.
IMPATIENT = {
    "JOBS_POOL_MAX_SIZE": "1",
    "JOBS_POOL_TIMEOUT": "0.2",
    "JOBS_QUERY_TIMEOUT": "0.4",
}


async def test_a_call_to_a_silent_database_is_unavailable_and_gives_its_slot_back(
    database: Database, tenant: str
) -> None:
    async with (
        running_proxy(database.request_dsn) as proxy,
        running_server(proxy.dsn, **IMPATIENT) as server,
    ):
        operator = server.operator(tenant)
        await wait_until_list_succeeds(operator)

        proxy.freeze()
        with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"):
            await operator.list()
        proxy.thaw()

        # Within those limits, on a busy machine, not at once.
        await wait_until_list_succeeds(operator)


async def test_slow_connects_delay_the_start_but_do_not_prevent_it(
    database: Database, tenant: str
) -> None:
    """Each takes more than half of what the checks may take together."""
    async with (
        running_proxy(database.request_dsn, delay=1.6) as proxy,
        running_server(proxy.dsn) as server,
    ):
        assert not (await server.operator(tenant).list()).jobs


async def test_a_lock_timeout_of_the_logins_is_no_defect(
    database: Database, operator: Operator
) -> None:
    """Administrators set one, so that nobody waits for ever."""
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    joint = "&" if "?" in database.request_dsn else "?"
    impatient = f"{database.request_dsn}{joint}lock_timeout=50"
    async with running_server(impatient) as server, job_lock_held(database, operator.tenant, "j"):
        with expect_failure(StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"):
            await server.operator(operator.tenant).cancel("j")
