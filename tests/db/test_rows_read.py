"""The number of rows that a function reads depends only on its response.

It does not depend on the number of jobs, devices and pending executions, nor on the statistics:
PostgreSQL has none after an import, a restore or an upgrade, and old ones after growth.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

import jobs_grpc.db
from tests.db.function_calls import CASES, Case, function_of
from tests.support import shapes
from tests.support.database import Database, new_database
from tests.support.postgres import Postgres
from tests.support.rows_read import rows_read
from tests.support.scale import SCALE
from tests.support.shapes import SHAPES, Shape

pytestmark = pytest.mark.single_node("counts the rows that the session itself reads")


# The index entry and the job of an execution that is skipped. A start reads them twice: to choose
# the execution, and to check the choice under the job lock.
ROWS_PER_SKIPPED = 4

# The entry of an execution that others have ended, and its job; of at most 100.
ROWS_OF_ENDED = 2 * 100


def test_every_function_has_a_case() -> None:
    folder = Path(jobs_grpc.db.__file__).parent / "sql/functions"
    functions = {path.stem for name in ("api", "maintenance") for path in (folder / name).iterdir()}

    assert set(map(function_of, CASES)) == functions


async def _states(owner: asyncpg.Connection, shape: Shape) -> AsyncIterator[str]:
    """Fill the tables for each state of the statistics in turn, and yield its name.

    `make test` has the last, which notices most, and the first for one shape, because what it
    notices does not depend on the shape. test_cached_plans.py has current statistics.
    """
    await shapes.disable_autovacuum(owner)
    # As in device tables that belong to this service.
    await owner.execute(
        "CREATE INDEX IF NOT EXISTS device_group_members_by_device"
        " ON public.device_group_members (tenant_id, device_id)"
    )
    if SCALE > 1 or shape is SHAPES["few huge jobs"]:
        await shapes.fill(owner, shape)
        await shapes.fill_due(owner, shape)
        yield "never analyzed"
        await shapes.clear(owner)
    if SCALE > 1:
        await shapes.analyze(owner)
        await shapes.fill(owner, shape)
        await shapes.fill_due(owner, shape)
        yield "analyzed when empty"
        # The calls were rolled back, but their entries of indexes are still read.
        await owner.execute("VACUUM")
        await shapes.analyze(owner)
        yield "current"
        await shapes.clear(owner)
    await shapes.fill(owner, shapes.small(shape))
    await shapes.analyze(owner)
    await shapes.fill(owner, shape)
    await shapes.fill_due(owner, shape)
    yield "analyzed when small"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_rows_read_do_not_depend_on_the_data_or_the_statistics(
    cluster: tuple[Postgres, str], shape: Shape
) -> None:
    problems: list[str] = []
    async with new_database(*cluster) as database:
        async for state in _states(database.owner, shape):
            for mode, cases in (await _cases_by_mode(database.owner)).items():
                problems += [
                    f"{state}, {mode}: {problem}"
                    for problem in await _problems(database, shape, mode, cases)
                ]

    assert not problems, "\n".join(problems)


async def _cases_by_mode(owner: asyncpg.Connection) -> dict[str, dict[str, Case]]:
    """Return all cases for custom plans, and for generic plans those that choose no plans."""
    rows = await owner.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'jobs'::regnamespace"
        " AND array_to_string(proconfig, ',') LIKE '%plan_cache_mode%'"
    )
    choosing = {row["proname"] for row in rows}
    others = {name: case for name, case in CASES.items() if function_of(name) not in choosing}
    return {"force_custom_plan": CASES, "force_generic_plan": others}


async def _problems(
    database: Database, shape: Shape, mode: str, cases: dict[str, Case]
) -> list[str]:
    """Make the calls in new sessions; return a line for each one that reads too many rows."""
    # A plan that reads everything can take minutes.
    settings = {"plan_cache_mode": mode, "statement_timeout": "5s"}
    owner = await asyncpg.connect(database.owner_dsn, server_settings=settings)
    request = await asyncpg.connect(database.request_dsn, server_settings=settings)
    problems = []
    for probe in shape.probes:
        for name, case in cases.items():
            session = owner if case.as_owner else request
            maximum = case.rows + (case.reads_skipped and ROWS_PER_SKIPPED * probe.skipped)
            maximum += case.reads_ended and min(ROWS_OF_ENDED, 2 * probe.ended)
            maximum += case.reads_devices and 2 * shape.more_devices
            try:
                prepare = case.prepare(session, probe) if case.prepare else None
                rows = await rows_read(session, case.call(session, probe), prepare)
            except asyncpg.QueryCanceledError:
                problems.append(f"{name} of {probe.tenant}/{probe.device} takes more than 5 s")
            else:
                if rows > maximum:
                    problems.append(
                        f"{name} of {probe.tenant}/{probe.device}: {rows} rows, not {maximum}"
                    )
    await owner.close()
    await request.close()
    return problems
