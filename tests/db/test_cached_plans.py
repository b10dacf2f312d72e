"""What a session that keeps its plans costs: rows after the tables have grown, and no planning.

PostgreSQL keeps a cached plan until the tables are analyzed, which may be much later.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import asyncpg
import pytest

from jobs_grpc.errors import JobsError
from tests.db.function_calls import CASES, Case, function_of
from tests.support import shapes
from tests.support.postgres import Postgres, connect
from tests.support.rows_read import reads
from tests.support.scale import SCALE
from tests.support.shapes import Jobs, Probe, Shape

pytestmark = [pytest.mark.slow, pytest.mark.single_node("plans that the session itself caches")]

_PROBE = Probe(devices=10)
_SMALL, _GROWN = (Shape((Jobs(count, 10),)) for count in (1, 2500 if SCALE == 1 else 5000))

# Restoring a dump builds indexes before primary keys. The planner compares them in this order.
_RESTORED = """
    ALTER TABLE jobs.jobs DROP CONSTRAINT jobs_pkey, ADD PRIMARY KEY (tenant_id, job_id);
    ALTER TABLE jobs.job_progress
        DROP CONSTRAINT job_progress_pkey, ADD PRIMARY KEY (tenant_id, job_id);
    ALTER TABLE jobs.job_executions
        DROP CONSTRAINT job_executions_pkey, ADD PRIMARY KEY (tenant_id, job_id, device_id);
"""

# The functions that plan queries in each call.
_PLAN_EACH_TIME = {
    "finalize_executions",
    "finish_scan_range",
    "join_devices",
    "list_devices",
    "preview_target",
    "purge_events",
    "purge_job",
    "repair_counts",
    "retry_executions",
}

# A plan from the time when the tenant had one job lets these read all jobs, or all devices, until
# the next ANALYZE.
_READ_ALL = {
    "target_names",
    "list_jobs: device and status",
    "list_jobs: rare document type and status",
    "list_jobs: rare status",
    "list_jobs: scheduled",
}

# What reads these indexes, and nothing else: a lookup by key that reads one of them reads all
# executions of the device or of the job, which the counts of rows do not show.
_READERS = {
    "job_executions_newest_first": {"list_device_executions"},
    "job_executions_by_failure_code": {"get_failure_summary", "list_job_executions"},
    "job_executions_by_times_out_at": {"timed_out_executions"},
    "job_executions_queue": {
        "changed_pending_fingerprints",
        "changed_pending_fingerprints_of_tenants",
        "delete_devices",
        "get_device",
        "list_pending_executions",
        "list_watched_executions",
        "preview_target",
        "update_executions",
    },
}

# PostgreSQL can switch to a generic plan after five calls.
_CALLS_UNTIL_GENERIC = 6


class Sessions:
    """A session of the owner and one of the request role, in a database of their own."""

    def __init__(self, postgres: Postgres, database: str, owner: asyncpg.Connection) -> None:
        self.owner = owner
        self._postgres, self._database = postgres, database
        self._by_role: dict[bool, asyncpg.Connection] = {}

    async def open(self, settings: dict[str, str]) -> None:
        """Open the sessions. They keep their plans from now on."""
        for is_owner, role in ((True, None), (False, self._postgres.role)):
            dsn = self._postgres.dsn(self._database, role)
            self._by_role[is_owner] = await asyncpg.connect(dsn, server_settings=settings)

    async def log_planning(self) -> None:
        """Let sessions that are opened later receive a log message per planned statement."""
        for role in ("CURRENT_USER", self._postgres.role.name):
            await self.owner.execute(
                f"ALTER ROLE {role} IN DATABASE {self._database} SET log_planner_stats = on"
            )

    def of(self, case: Case) -> asyncpg.Connection:
        return self._by_role[case.as_owner]

    async def call(
        self, case: Case, is_prepared: Callable[[], None] = lambda: None
    ) -> Counter[str]:
        """Make a call and roll it back; return the rows read by table and index."""
        session = self.of(case)

        async def prepare() -> None:
            if case.prepare:
                await case.prepare(session, _PROBE)
            is_prepared()

        return await reads(session, case.call(session, _PROBE), prepare())

    async def close(self) -> None:
        for session in (self.owner, *self._by_role.values()):
            await session.close()


@pytest.fixture
async def sessions(cluster: tuple[Postgres, str]) -> AsyncIterator[Sessions]:
    """Sessions in a database that is not analyzed automatically."""
    postgres, template = cluster
    async with postgres.database(template) as name:
        sessions = Sessions(postgres, name, await connect(postgres.dsn(name)))
        await shapes.disable_autovacuum(sessions.owner)
        yield sessions
        await sessions.close()


@pytest.mark.parametrize("restored", [False, True])
async def test_cached_plans_read_few_rows_after_the_tables_have_grown(
    sessions: Sessions, restored: bool
) -> None:
    await shapes.fill(sessions.owner, _SMALL)
    await shapes.fill_counts(sessions.owner)
    await shapes.analyze(sessions.owner)
    if restored:
        await sessions.owner.execute(_RESTORED)
    await sessions.open({"plan_cache_mode": "force_generic_plan"})
    for case in CASES.values():
        # Some calls fail, because the job that they need does not exist yet.
        with suppress(JobsError, asyncpg.PostgresError):
            await sessions.call(case)

    await sessions.owner.execute("DELETE FROM jobs.job_progress")
    await shapes.fill(sessions.owner, _GROWN)
    await shapes.fill_due(sessions.owner, _GROWN)

    rows = {name: (await sessions.call(case)).total() for name, case in CASES.items()}
    too_many = {name for name, case in CASES.items() if rows[name] > case.rows}
    assert {name: rows[name] for name in too_many ^ _READ_ALL} == {}


async def test_calls_read_few_rows_and_plan_nothing_when_their_plans_are_cached(
    sessions: Sessions,
) -> None:
    if not await sessions.owner.fetchval("SELECT current_setting('is_superuser')::boolean"):
        pytest.skip("only a superuser may set log_planner_stats")
    await shapes.fill(sessions.owner, _GROWN)
    await shapes.fill_due(sessions.owner, _GROWN)
    await shapes.analyze(sessions.owner)
    await sessions.log_planning()
    await sessions.open({"client_min_messages": "log"})
    planning, rows, readers = set(), {}, defaultdict(set)
    for name, case in CASES.items():
        for _ in range(_CALLS_UNTIL_GENERIC):
            rows[name] = await sessions.call(case)
        for index in rows[name]:
            readers[index].add(function_of(name))
        if await _plannings(sessions, case):
            planning.add(function_of(name))

    assert planning == _PLAN_EACH_TIME
    assert [name for name in rows if rows[name].total() > CASES[name].rows] == []
    for index, functions in _READERS.items():
        assert readers[index] <= functions, index


async def _plannings(sessions: Sessions, case: Case) -> int:
    """Return the number of statements that a call plans."""
    messages: list[str] = []
    session = sessions.of(case)

    def listen(_: object, message: asyncpg.PostgresLogMessage) -> None:
        messages.append(message.message)

    session.add_log_listener(listen)
    try:
        await sessions.call(case, messages.clear)
    finally:
        session.remove_log_listener(listen)
    return messages.count("PLANNER STATISTICS")
