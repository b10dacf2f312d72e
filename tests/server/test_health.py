"""Health reports SERVING exactly while the database can be used."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres
from tests.support.database import Database, job_lock_held, new_database
from tests.support.failures import expect_error, expect_failure
from tests.support.health import is_healthy, wait_until_healthy, watch_health
from tests.support.postgres import Postgres, new_data_dir
from tests.support.server import Server, running_server, starting_server
from tests.support.waiting import wait_until, wait_until_equal, wait_until_true

SERVICE = "fleet.jobs.v1.JobService"
POOL_OF_ONE = {"JOBS_POOL_MIN_SIZE": "1", "JOBS_POOL_MAX_SIZE": "1"}


@dataclass(frozen=True)
class OwnCluster:
    """A migrated PostgreSQL cluster that tests start and stop."""

    folder: Path
    request_dsn: str

    def running(self) -> AbstractContextManager[embedded_postgres.Cluster]:
        return embedded_postgres.running(self.folder, "fsync=off")


@pytest.fixture(scope="module")
async def own_cluster() -> AsyncIterator[OwnCluster]:
    """A cluster that is stopped."""
    with new_data_dir() as data_dir:
        with embedded_postgres.running(data_dir, "fsync=off") as cluster:
            await migrate(cluster.dsn("postgres"), RequestRole())
        yield OwnCluster(data_dir, cluster.dsn("postgres", RequestRole().name))


async def _wait_until_probed(owner: asyncpg.Connection, since: object = None) -> None:
    """Return when the service has probed this database, after `since` if given."""
    probes = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename <> current_user AND state = 'idle'"
        " AND ($1::timestamptz IS NULL OR query_start > $1)"
    )

    await wait_until(lambda: owner.fetchval(probes, since))


async def _wait_until_unhealthy(server: Server) -> None:
    await wait_until_equal(lambda: is_healthy(server.channel), False)


@pytest.mark.slow
async def test_health_is_not_serving_until_schema_is_current(
    cluster: tuple[Postgres, str], tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        new_database(cluster[0]) as empty,
        starting_server(empty.request_dsn) as server,
    ):
        await wait_until_true(lambda: "the schema is not the one" in caplog.text)
        assert not await is_healthy(server.channel)
        failure = await expect_error("SCHEMA_NOT_CURRENT", server.operator(tenant).list())
        assert failure.message == (
            "The database schema is not current; an administrator must run `jobs-grpc migrate`"
        )

        await migrate(empty.owner_dsn, empty.role)

        await wait_until_healthy(server.channel)
        assert not (await server.operator(tenant).list()).jobs


@pytest.mark.slow
async def test_health_follows_the_database_when_it_stops_and_starts(
    own_cluster: OwnCluster, tenant: str
) -> None:
    async with starting_server(own_cluster.request_dsn) as server:
        operator = server.operator(tenant)
        for _ in range(2):
            await _wait_until_unhealthy(server)
            failure = await expect_error("DATABASE_UNAVAILABLE", operator.list())
            assert failure.message == "The database is unavailable; retry later"

            with own_cluster.running():
                await wait_until_healthy(server.channel)
                await operator.list()


@pytest.mark.slow
async def test_health_is_not_serving_when_sql_functions_change(
    cluster: tuple[Postgres, str], tenant: str
) -> None:
    async with (
        new_database(*cluster) as database,
        running_server(database.request_dsn) as server,
    ):
        await database.owner.execute("UPDATE jobs.schema_code SET checksum = 'other'")

        await _wait_until_unhealthy(server)

        # Calls whose functions are still there go on.
        operator = server.operator(tenant)
        await operator.list()
        await database.owner.execute("DROP FUNCTION jobs.list_jobs")
        await expect_error("SCHEMA_NOT_CURRENT", operator.list())


@pytest.mark.slow
@pytest.mark.parametrize("privilege", ["SELECT ON device_state", "USAGE ON SCHEMA jobs"])
async def test_health_is_not_serving_when_request_role_lacks_a_privilege(
    cluster: tuple[Postgres, str], caplog: pytest.LogCaptureFixture, privilege: str
) -> None:
    async with new_database(*cluster) as database:
        await database.owner.execute(f"REVOKE {privilege} FROM {database.role.name}")
        async with starting_server(database.request_dsn) as server:
            await _wait_until_probed(database.owner)
            assert not await is_healthy(server.channel)

            await wait_until_true(lambda: "GRANT" in caplog.text)
            (line, *_) = [line for line in caplog.text.splitlines() if "GRANT" in line]
            await database.owner.execute(line[line.index("GRANT") :])

            await wait_until_healthy(server.channel)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_of_the_server_and_the_service_needs_no_tenant(
    server: Server, service: str
) -> None:
    assert await is_healthy(server.channel, service)
    watch = watch_health(server.channel, service)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_health_of_an_unknown_service_is_not_found(server: Server) -> None:
    unknown = "fleet.jobs.v1.Nothing"
    with expect_failure(StatusCode.NOT_FOUND):
        await is_healthy(server.channel, unknown)
    watch = watch_health(server.channel, unknown)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.slow
async def test_health_stays_serving_when_pool_is_exhausted(database: Database, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    async with running_server(database.request_dsn, **POOL_OF_ONE) as server:
        operator = server.operator(tenant)
        await operator.create(job_id="a", target_all=True)
        async with job_lock_held(database, tenant, "a"):
            waiting = await database.blocked(operator.cancel("a"))
            since = await database.owner.fetchval("SELECT clock_timestamp()")
            await _wait_until_probed(database.owner, since)

            assert await is_healthy(server.channel)
        await waiting


async def test_health_list_returns_the_server_and_the_services(server: Server) -> None:
    stub: Any = health_pb2_grpc.HealthStub(server.channel)
    messages: Any = health_pb2
    response = await stub.List(messages.HealthListRequest())

    services = {
        f"fleet.jobs.v1.{name}" for name in ("FleetService", "EventService", "DeviceJobService")
    }
    assert set(response.statuses) == {"", SERVICE, *services}
    serving = health_pb2.HealthCheckResponse.SERVING
    assert {entry.status for entry in response.statuses.values()} == {serving}
