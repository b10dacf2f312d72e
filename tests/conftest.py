"""Fixtures: one cluster per session, one database and server per module, one tenant per test."""

import asyncio
import gc
import os
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

# Starting PostgreSQL forks, and gRPC's fork handlers can kill the child process. gRPC reads this
# variable when it is imported, so it is set before the imports below.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from tests.support import line_coverage

if "JOBS_TEST_COVERAGE" in os.environ:
    # Before the imports below, which import jobs_grpc.
    line_coverage.start()

import pytest
from hypothesis import HealthCheck, settings

from tests.support.callers import Operator
from tests.support.database import Database, new_database
from tests.support.logging_setup import restored_logging
from tests.support.postgres import Postgres, citus_nodes, running_postgres
from tests.support.server import DEFAULT_OPTIONS, Server, running_server
from tests.support.server_process import ServerProcess, running_server_process
from tests.support.webhooks import write_keys
from tests.support.world import World

# A slow machine must not fail a test.
settings.register_profile(
    "any-speed", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
)
settings.load_profile("any-speed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and skip the tests that do not fit the database.

    On a Citus cluster, these are marked `single_node`; elsewhere, `citus`.
    """
    _put_long_files_first(items)
    dsn = os.environ.get("JOBS_TEST_DATABASE_URL")
    on_citus = bool(dsn and asyncio.run(citus_nodes(dsn)))
    for item in items:
        if on_citus and (single_node := item.get_closest_marker("single_node")):
            item.add_marker(pytest.mark.skip(reason=f"single node: {single_node.args[0]}"))
        elif not on_citus and item.get_closest_marker("citus"):
            item.add_marker(pytest.mark.skip(reason="JOBS_TEST_DATABASE_URL is not on Citus"))


def pytest_sessionfinish() -> None:
    """Save which lines ran, and end soon."""
    line_coverage.save()
    # pytest runs the garbage collector ten times at exit; freezing the objects makes that fast.
    for _ in range(2):
        gc.collect()
    gc.freeze()


def _put_long_files_first(items: list[pytest.Item]) -> None:
    """Keep one long file from running alone at the end, while the other processes are idle.

    These are the files with the longest timeouts, then those with the most slow tests.
    """
    timeouts: Counter[Path] = Counter()
    slow: Counter[Path] = Counter()
    for item in items:
        if timeout := item.get_closest_marker("timeout"):
            timeouts[item.path] = max(timeouts[item.path], timeout.args[0])
        slow[item.path] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: (-timeouts[item.path], -slow[item.path]))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder that PostgreSQL's account can reach."""
    with tempfile.TemporaryDirectory(prefix="jobs-test-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture(scope="session")
async def cluster() -> AsyncIterator[tuple[Postgres, str]]:
    """Run PostgreSQL with a migrated template database; yield it and the template's name."""
    async with running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
async def database(cluster: tuple[Postgres, str]) -> AsyncIterator[Database]:
    async with new_database(*cluster) as database:
        yield database


@pytest.fixture(scope="module")
def wrong_jobs() -> set[tuple[str, str]]:
    """The tenants and IDs of jobs that earlier tests of the module have left with wrong counts."""
    return set()


@pytest.fixture(autouse=True)
async def exact_counts(
    request: pytest.FixtureRequest, wrong_jobs: set[tuple[str, str]]
) -> AsyncIterator[None]:
    """After each test, recount the jobs of its tenant, or all jobs of its database.

    Tests that store wrong counts are marked `wrong_counts("why")`.
    """
    yield
    database: Database | None = request.node.funcargs.get("database")
    if database is not None:
        rows = await database.recount(request.node.funcargs.get("tenant"))
        wrong = [row for row in rows if row[:2] not in wrong_jobs]
        wrong_jobs.update(row[:2] for row in wrong)
        expected = request.node.get_closest_marker("wrong_counts")
        assert expected or not wrong, "stored counts differ from the executions"


@pytest.fixture(scope="module")
def server_settings() -> dict[str, str]:
    """The settings of the module's server besides the defaults. Modules replace this fixture."""
    return {}


@pytest.fixture(scope="module")
async def server(database: Database, server_settings: dict[str, str]) -> AsyncIterator[Server]:
    # It stops when its clients have closed their channels.
    options = replace(DEFAULT_OPTIONS, drain_notice_seconds=0)
    async with running_server(database.request_dsn, options, **server_settings) as running:
        yield running


@pytest.fixture
async def process(database: Database) -> AsyncIterator[ServerProcess]:
    async with running_server_process(database.request_dsn) as running:
        yield running


@pytest.fixture(scope="session")
def webhook_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one master key, which must not change."""
    return write_keys(tmp_path_factory.mktemp("keys") / "webhooks.keys", "k1")


@pytest.fixture
def tenant() -> str:
    """Return a new tenant without devices."""
    return f"tenant-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def operator(server: Server, tenant: str) -> Operator:
    return server.operator(tenant, user="olivia")


@pytest.fixture
def world(database: Database, server: Server, operator: Operator) -> World:
    return World(database, server, operator)


@pytest.fixture
async def operator_with_job(database: Database, operator: Operator) -> Operator:
    await database.add_devices(operator.tenant, 1)
    await operator.create(job_id="j", target_all=True)
    return operator


@pytest.fixture(name="restored_logging")
def restored_logging_fixture() -> Iterator[None]:
    with restored_logging():
        yield
