"""Upgrades of an earlier version, taken from the history, under traffic; and a conversion."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobs_grpc.db.conversion import LAST_COMMIT
from tests.gateway.support import build_gateway
from tests.harness.ledger import Ledger
from tests.harness.recount import check_stored
from tests.harness.system import THIS_VERSION, Code, System, running_system
from tests.harness.traffic import Traffic
from tests.support.scale import SCALE
from tests.upgrade.earlier_version import NoHistoryError, extract, find_earlier_commit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 * SCALE)]

_TIMES = SCALE
"""How often each server answers each method in each phase of an upgrade."""


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
async def system(folder: Path, earlier: Code) -> AsyncIterator[System]:
    """Two servers and the schema of the earlier version, and a gateway of this version.

    A call may fail only because its server is drained, or because the earlier version lacks it.
    """
    binary = await asyncio.to_thread(build_gateway)
    async with running_system(folder, binary, Ledger(is_strict=True), earlier) as running:
        yield running


@asynccontextmanager
async def flowing(traffic: Traffic) -> AsyncIterator[None]:
    """Keep the traffic flowing during the block."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(traffic.run())
        try:
            await traffic.flow(_TIMES)
            yield
        finally:
            traffic.stop()


async def check(system: System) -> None:
    """Check that no call has failed, and that what was acknowledged is stored."""
    await check_stored(system, system.ledger, 60)
    assert not system.ledger.problems, dict(system.ledger.examples)


async def test_upgrade_and_rollback_fail_no_call(
    system: System, earlier: Code, later: Code
) -> None:
    traffic = Traffic(system, system.ledger, devices=1, pause=0.5)
    async with flowing(traffic):
        await system.migrate()
        await traffic.flow(_TIMES)

        # Each server serves what the other one has created.
        await system.replace_server(0, THIS_VERSION)
        await traffic.flow(_TIMES)
        await system.replace_server(1, THIS_VERSION)
        # The next upgrade begins, and servers of this version run on a later schema.
        await system.migrate(later)
        await traffic.flow(_TIMES)

        # A rollback: the servers only, because migrations only go forward.
        await system.replace_server(0, earlier)
        await traffic.flow(_TIMES)

    await check(system)


@pytest.mark.parametrize("earlier", [LAST_COMMIT], indirect=True)
async def test_jobs_continue_on_a_converted_database(system: System) -> None:
    """Its servers are stopped before the conversion, and servers of this version started after."""
    traffic = Traffic(system, system.ledger, devices=1, pause=0.5)
    async with flowing(traffic):
        pass
    for server in system.servers:
        await server.stop(signal.SIGTERM)

    assert "converted migration" in await system.migrate()

    for server in system.servers:
        server.environ |= THIS_VERSION.environ()
        await server.start()
    await system.wait_until_all_answer()
    async with flowing(traffic):
        pass
    await check(system)
