"""Upgrades of an earlier version, taken from the history, under traffic; and a conversion."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobs_grpc.db.conversion import LAST_COMMIT
from tests.chaos.history import History
from tests.chaos.recount import check_stored
from tests.chaos.system import THIS_VERSION, Code, System, running_system
from tests.gateway.support import build_gateway
from tests.support.scale import SCALE
from tests.upgrade import features
from tests.upgrade.earlier_version import NoHistoryError, extract, find_earlier_commit
from tests.upgrade.traffic import Traffic, running_traffic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 * SCALE)]

_JOBS = SCALE
"""The number of jobs that each tenant completes in each phase of an upgrade."""


@pytest.fixture
def earlier(request: pytest.FixtureRequest, folder: Path) -> Code:
    """The code of the earlier version, or of the commit request.param."""
    try:
        commit = getattr(request, "param", None) or find_earlier_commit()
        return extract(commit, folder / "earlier")
    except NoHistoryError as e:
        pytest.skip(f"no earlier version: {e}")


@pytest.fixture
def later(folder: Path) -> Code:
    """The code of this version, with one more column in a view."""
    code = Code(folder / "later")
    for name in ("jobs_grpc", "generated"):
        shutil.copytree(THIS_VERSION.folder / name, code.folder / name)
    sql = code.folder / "jobs_grpc/db/sql"
    _insert(sql / "views/job_details.sql", "\nFROM ", ",\n    1 AS added")
    return code


def _insert(path: Path, before: str, text: str) -> None:
    head, found, tail = path.read_text().partition(before)
    assert found, path
    path.write_text(f"{head}{text}{found}{tail}")


@pytest.fixture
def history() -> History:
    """What the clients received."""
    return History()


@pytest.fixture
async def system(folder: Path, earlier: Code, history: History) -> AsyncIterator[System]:
    """Two servers and the schema of the earlier version, and a gateway of this version."""
    binary = await asyncio.to_thread(build_gateway)
    async with running_system(folder, binary, history, earlier) as running:
        yield running


async def test_upgrade_and_rollback_fail_no_call(
    system: System, history: History, earlier: Code, later: Code
) -> None:
    await features.add_devices(system)
    async with running_traffic(system, history) as traffic:
        await traffic.flow(_JOBS)
        await system.migrate()
        await traffic.flow(_JOBS)

        await _replace(system, traffic, 0, THIS_VERSION)
        await traffic.flow(_JOBS)
        job_ids = await features.create_features(system, 0)
        await features.use_features(system, history, 1, job_ids)

        await _replace(system, traffic, 1, THIS_VERSION)
        await traffic.flow(_JOBS)
        # The next upgrade begins, and servers of this version run on a later schema.
        await system.migrate(later)
        await traffic.flow(_JOBS)

        # A rollback: the servers only, because migrations only go forward.
        await _replace(system, traffic, 0, earlier)
        await traffic.flow(_JOBS)
    await check_stored(system, history, 60)

    assert not history.violations, dict(history.violations)


@pytest.mark.parametrize("earlier", [LAST_COMMIT], indirect=True)
async def test_jobs_continue_on_a_converted_database(system: System, history: History) -> None:
    """Its servers are stopped before the conversion, and servers of this version started after."""
    await features.add_devices(system)
    async with running_traffic(system, history) as traffic:
        await traffic.flow(_JOBS)
    job_ids = await features.create_features(system, 0)
    for server in system.servers:
        await server.stop(signal.SIGTERM)

    assert "converted migration" in await system.migrate()

    for server in system.servers:
        server.environ |= THIS_VERSION.environ()
        await server.start()
    await system.wait_until_all_answer()
    await features.use_features(system, history, 1, job_ids)
    async with running_traffic(system, history) as traffic:
        await traffic.flow(_JOBS)
    await check_stored(system, history, 60)

    assert not history.violations, dict(history.violations)


async def _replace(system: System, traffic: Traffic, number: int, code: Code) -> None:
    """Replace a server as a deployment does: wait until the new one is healthy."""
    server = system.servers[number]
    traffic.begin_drain(number)
    await server.stop(signal.SIGTERM)
    server.environ |= code.environ()
    await server.start()
    await traffic.end_drain()
