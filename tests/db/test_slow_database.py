"""A database that stops responding, or that is slow to connect to."""

import pytest

from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.proxy import running_proxy
from tests.support.server import running_server, wait_until_list_succeeds
from tests.support.world import World

# The pool timeout is shorter than the query timeout, as by default.
SHORT_TIMEOUTS = {
    "JOBS_POOL_MAX_SIZE": "1",
    "JOBS_POOL_TIMEOUT": "0.2",
    "JOBS_QUERY_TIMEOUT": "0.4",
}


@pytest.mark.slow
async def test_call_is_unavailable_and_releases_its_slot_when_database_does_not_respond(
    database: Database, tenant: str
) -> None:
    async with (
        running_proxy(database.request_dsn) as proxy,
        running_server(proxy.dsn, **SHORT_TIMEOUTS) as server,
    ):
        operator = server.operator(tenant)
        await wait_until_list_succeeds(operator)

        proxy.freeze()
        await expect_error("DATABASE_UNAVAILABLE", operator.list())
        proxy.thaw()

        # On a busy machine, the first call can still exceed the short timeouts.
        await wait_until_list_succeeds(operator)


@pytest.mark.slow
async def test_server_becomes_ready_when_connecting_is_slow(
    database: Database, tenant: str
) -> None:
    """Connecting takes more than half of the time that a readiness check may take."""
    async with (
        running_proxy(database.request_dsn, delay=1.6) as proxy,
        running_server(proxy.dsn) as server,
    ):
        assert not (await server.operator(tenant).list()).jobs


@pytest.mark.single_node("Citus does not send a session's settings to other nodes")
async def test_call_is_unavailable_when_a_lock_timeout_of_the_dsn_passes(world: World) -> None:
    """Administrators set a lock_timeout, so that no statement waits forever."""
    await world.add_devices(["pump"])
    await world.create()
    separator = "&" if "?" in world.database.request_dsn else "?"
    dsn = f"{world.database.request_dsn}{separator}lock_timeout=50"
    async with running_server(dsn) as server, world.lock_held():
        await expect_error("DATABASE_UNAVAILABLE", server.operator(world.tenant).cancel("j"))
