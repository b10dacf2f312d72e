"""Random operations on jobs with a start time, compared with a model after each of them.

The tests call the SQL functions, in a session whose time stands still except when they move it.
"""

import copy
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import asyncpg
import pytest

from tests.support.database import Database, replaced_function
from tests.support.model import RETRYABLE, Job, Model, OperationRejected
from tests.support.rollout_model import Rollout, Stage
from tests.support.scale import SCALE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.single_node("the time of a session does not reach other nodes"),
]

_JOBS, _STEPS = 12, 25
_DEVICES = ["a", "b", "c", "d"]
_SEED = "seed"
_BASE = datetime(2030, 1, 1, tzinfo=UTC)
_JOB_STATUSES = ("IN_PROGRESS", "COMPLETED", "CANCELED", "PAUSED", "SCHEDULED")
_COUNTS = ("held", "queued", "in_progress", "succeeded", "failed", "timed_out", "rejected")

_HALF = Fraction(1, 2)
# For one device, or for four.
_ROLLOUTS: list[list[Stage] | None] = [
    None,
    [Stage()],
    [Stage(rate=1)],
    [Stage(count=1), Stage(rate=2)],
    [Stage(count=2, rate=1, min_succeeded_percent=50, bake=_HALF), Stage()],
    [Stage(percent=50, rate=2, advance_after=2), Stage(percent=50, rate=1)],
    [Stage(count=1, advance_after=1, require_approval=True), Stage(count=1, bake=1), Stage()],
    [Stage(count=2, min_succeeded_percent=100, advance_after=1, bake=1), Stage(rate=60)],
    [Stage(count=1, advance_after=40), Stage(count=1, advance_after=50), Stage()],
]


@pytest.fixture
async def session(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A session whose time is its setting test.now."""
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(database.owner_dsn)
        stack.push_async_callback(connection.close)
        for name, volatility in (("now", "STABLE"), ("clock_time", "VOLATILE")):
            definition = (
                f"CREATE OR REPLACE FUNCTION jobs.{name}() RETURNS timestamptz LANGUAGE sql"
                f" {volatility} PARALLEL SAFE RETURN"
                " coalesce(nullif(current_setting('test.now', true), '')::timestamptz,"
                " pg_catalog.now())"
            )
            await stack.enter_async_context(replaced_function(database, f"jobs.{name}", definition))
        yield connection


@pytest.mark.parametrize("seed", range(1 if SCALE == 1 else 7 * SCALE))
async def test_jobs_with_a_start_time_equal_the_model(
    database: Database, session: asyncpg.Connection, tenant: str, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 - repeatable
    await database.add_devices(tenant, _DEVICES)
    orders = {
        count: await database.order_of_release(_DEVICES[:count], _SEED)
        for count in (1, len(_DEVICES))
    }
    for number in range(_JOBS):
        run = _Run(session, tenant, rng, f"j{number}", orders)
        try:
            await run.create()
            for _ in range(_STEPS):
                await run.step()
        except AssertionError as e:
            e.add_note(f"seed {seed}, job {number}:\n" + "\n".join(run.history))
            raise


class _Run:
    """One job, in the service and in the model. Times are minutes after _BASE."""

    def __init__(
        self,
        session: asyncpg.Connection,
        tenant: str,
        rng: random.Random,
        job_id: str,
        orders: dict[int, list[str]],
    ) -> None:
        self._session = session
        self._tenant = tenant
        self._rng = rng
        self._job_id = job_id
        self._orders = orders
        self._model = Model()
        self._now = Fraction(0)
        self._start_at: Fraction | None = None
        self._seen: tuple[int, Any] | None = None
        self.history: list[str] = []

    @property
    def _job(self) -> Job:
        return self._model.jobs[self._job_id]

    async def create(self) -> None:
        """Create the job. If its rollout takes too long, let the job expire later."""
        rng = self._rng
        order = self._orders[rng.choice((1, 4, 4))]
        rollout = None
        if (stages := rng.choice(_ROLLOUTS)) is not None:
            rollout = Rollout(copy.deepcopy(stages), _SEED)
            rollout.fill(order)
        start_in = rng.choice((None, -1, _HALF, 1, 3, 5, 90))
        minimum = rollout.minimum_minutes() if rollout else 0
        self.history.append(f"create {order} {stages} start in {start_in}")
        request: dict[str, Any] = {
            "document_type": "reboot",
            **({"target_device_id": order[0]} if len(order) == 1 else {"target_all": True}),
        }
        if rollout is not None:
            request["rollout"] = {"seed": _SEED, "stages": _stages(rollout)}
        if start_in is not None:
            self._start_at = Fraction(max(start_in, 0))
            request["start_at"] = (_BASE + _minutes(start_in)).isoformat()
        await self._set_time()
        for hours in (1, 2):
            request["expires_in_hours"] = hours
            reason, rows = await self._call(
                "SELECT * FROM jobs.create_job($1, $2, $3, '{}', 'olivia', 10, NULL, 24)",
                json.dumps(request),
            )
            if minimum < 60 * hours:
                break
            assert reason == "EXPIRY_TOO_EARLY"
        assert reason is None
        start = max(start_in or 0, 0)
        self._model.create(
            self._job_id,
            order,
            rollout,
            start_in=Fraction(start),
            expires_in=Fraction(60 * hours),
        )
        status = "SCHEDULED" if start else "IN_PROGRESS"
        assert (rows[0]["status"], rows[0]["expires_at"]) == (status, self._expires_at())
        await self._check()

    async def step(self) -> None:
        """Carry out a random operation, and compare the job with the model."""
        rng = self._rng
        device = rng.choice([*self._job.executions])
        operations: list[tuple[int, Callable[[], Any]]] = [
            (5, self._wait),
            (2, self._pause),
            (2, self._resume),
            (1, self._advance),
            (1, lambda: self._approve(rng.randrange(3))),
            (3, self._update_start),
            (2, self._update_expiry),
            (1, self._update_rate),
            (3, lambda: self._report(device, None)),
            (4, lambda: self._report(device, rng.choice(("SUCCEEDED", "FAILED", "REJECTED")))),
            (2, lambda: self._cancel_execution(device)),
            (2, self._retry),
        ]
        if rng.random() < 0.02:
            operations = [(1, self._cancel)]
        weights = [weight for weight, _ in operations]
        await rng.choices([operation for _, operation in operations], weights)[0]()
        await self._check()

    async def _wait(self) -> None:
        minutes = self._rng.choice((_HALF, 1, 1, 2, 5, 30))
        self.history.append(f"wait {minutes}")
        self._now += minutes
        await self._set_time()
        self._model.wait(minutes)
        await self._session.execute(
            "SELECT jobs.open_due_stage($1, $2, 0)", self._tenant, self._job_id
        )

    async def _pause(self) -> None:
        await self._run_both(
            lambda: self._model.pause(self._job_id), "pause_job($1, $2, 'r', NULL, '')"
        )

    async def _resume(self) -> None:
        await self._run_both(lambda: self._model.resume(self._job_id), "resume_job($1, $2, '')")

    async def _advance(self) -> None:
        await self._run_both(
            lambda: self._model.advance(self._job_id), "advance_job($1, $2, NULL, '')"
        )

    async def _approve(self, stage: int) -> None:
        await self._run_both(
            lambda: self._model.approve(self._job_id, stage, "anna"),
            "approve_stage($1, $2, $3, 'anna', '')",
            stage,
        )

    async def _cancel(self) -> None:
        await self._run_both(
            lambda: self._model.cancel(self._job_id, force=True), "cancel_job($1, $2, 'r', true)"
        )

    async def _cancel_execution(self, device: str) -> None:
        await self._run_both(
            lambda: self._model.cancel_execution(self._job_id, device, force=True),
            "cancel_execution($1, $2, $3, 'r', true)",
            device,
        )

    async def _update_start(self) -> None:
        if self._job.paused:
            # No two changes of a job have the same time.
            await self._wait()
        minutes = self._rng.choice((None, -1, 0, _HALF, 1, 3, 90))
        start_in = Fraction(max(minutes or 0, 0))
        start_at = None if minutes is None else _BASE + _minutes(self._now + minutes)
        if await self._run_both(
            lambda: self._model.update_start(self._job_id, start_in),
            "update_job($1, $2, '', '{start_at}', NULL, NULL, NULL, p_start_at => $3)",
            start_at,
        ):
            self._start_at = self._now + start_in

    async def _update_expiry(self) -> None:
        """Let the job expire before, at or after the end of its rollout, or before its start."""
        job = self._job
        earliest = job.start_in + (self._model.minimum_minutes(self._job_id) if job.active else 0)
        minutes = Fraction(earliest + self._rng.choice((-1, 0, _HALF, 60)))
        if minutes <= 0:
            return
        await self._run_both(
            lambda: self._model.update_expiry(self._job_id, minutes),
            "update_job($1, $2, '', '{expires_at}', NULL, NULL, NULL, p_expires_at => $3)",
            _BASE + _minutes(self._now + minutes),
        )

    async def _update_rate(self) -> None:
        rollout = copy.deepcopy(self._job.rollout)
        if rollout is None:
            return
        rate = self._rng.choice((None, 1, 2))
        rollout.change_rate(rate)
        await self._run_both(
            lambda: self._model.update_rate(self._job_id, rate),
            "update_job($1, $2, '', '{rollout.stages}', NULL, $3, NULL)",
            json.dumps({"stages": _stages(rollout)}),
        )

    async def _retry(self) -> None:
        hours = self._rng.choice((None, 2))
        retried: list[int] = []
        if (
            await self._run_both(
                lambda: retried.append(
                    self._model.retry(self._job_id, {*RETRYABLE}, set(), set(), hours is not None)
                ),
                "retry_executions($1, $2, $3, $4, false, NULL)",
                sorted(RETRYABLE),
                hours,
            )
            and retried[0]
            and hours
        ):
            self._job.expires_in = self._job.start_in + 60 * hours

    async def _report(self, device: str, status: str | None) -> None:
        """Start the execution of a device, or report its end."""
        expected = None
        try:
            if status is None:
                self._model.start(self._job_id, device)
            else:
                self._model.report(self._job_id, device, status)
        except OperationRejected as e:
            expected = e.reason
        self.history.append(f"{device} {status or 'starts'}: {expected}")
        outcome = await self._session.fetchval(
            "SELECT outcome FROM jobs.update_executions($1, 0, ARRAY[$2], '{false}', ARRAY[$3],"
            " ARRAY[$4], '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{false}', '{NULL}')",
            self._tenant,
            self._job_id,
            device,
            status,
        )
        assert (None if outcome in ("APPLIED", "REPEATED") else outcome) == expected

    async def _run_both(self, operation: Callable[[], object], call: str, *values: Any) -> bool:
        """Apply an operation to the model and the service; return whether both accepted it."""
        expected = None
        try:
            operation()
        except OperationRejected as e:
            expected = e.reason
        self.history.append(f"{call} {values}: {expected}")
        reason, _ = await self._call(f"SELECT * FROM jobs.{call}", *values)
        assert reason == expected
        return reason is None

    async def _call(self, sql: str, *values: Any) -> tuple[str | None, list[asyncpg.Record]]:
        """Call a function. Return the reason of its error, and its rows."""
        try:
            return None, await self._session.fetch(sql, self._tenant, self._job_id, *values)
        except asyncpg.PostgresError as e:
            return str(e.message), []

    async def _set_time(self) -> None:
        now = _BASE + _minutes(self._now)
        await self._session.execute("SELECT set_config('test.now', $1, false)", now.isoformat())

    def _expires_at(self) -> datetime | None:
        expires_in = self._job.expires_in
        return None if expires_in is None else _BASE + _minutes(self._now + expires_in)

    async def _check(self) -> None:
        expected = self._job
        row = await self._session.fetchrow(
            "SELECT * FROM jobs.get_job($1, $2, 10)", self._tenant, self._job_id
        )
        assert row is not None
        actual = dict(zip(row["device_ids"], row["statuses"], strict=True))
        self.history.append(f"  at {self._now}: {row['status']} {actual}")
        assert row["status"] == expected.visible_status
        assert row["expires_at"] == self._expires_at()
        start_at = self._start_at
        assert row["start_at"] == (None if start_at is None else _BASE + _minutes(start_at))
        assert actual == {d: expected.visible_execution_status(d) for d in expected.executions}
        counts = Counter(actual.values())
        assert {name: row[name] for name in _COUNTS} == {
            name: counts[name.upper()] for name in _COUNTS
        }
        stages = json.loads(row["rollout_details"] or "{}").get("stages") or []
        if expected.rollout is not None:
            assert sum(stage["released"] for stage in stages) == expected.released
            assert sum(stage["held"] for stage in stages) == row["held"]
            self._check_openings(stages)
        await self._check_lists(row["status"], actual)
        await self._check_fingerprint((row["status"], actual, stages))

    def _check_openings(self, stages: list[dict[str, Any]]) -> None:
        """No stage opens before the start."""
        opened = [stage["opened_at"] for stage in stages if stage["opened_at"] is not None]
        if self._start_at is not None:
            start = _BASE + _minutes(self._start_at)
            micros = (start - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            assert min(opened) == micros
        assert opened == sorted(opened)

    async def _check_lists(self, status: str, executions: dict[str, str]) -> None:
        """A filter by status finds the job, and pending executions, exactly if they have it."""
        for name in {status, self._rng.choice(_JOB_STATUSES)}:
            found = await self._session.fetch(
                "SELECT job_id FROM jobs.list_jobs($1, $2, NULL, NULL, 100, 0)",
                self._tenant,
                [name],
            )
            assert [row["job_id"] for row in found].count(self._job_id) == (name == status)
        device = self._rng.choice([*executions])
        pending = await self._session.fetch(
            "SELECT job_id FROM jobs.pending_executions WHERE tenant_id = $1 AND device_id = $2",
            self._tenant,
            device,
        )
        is_pending = self._job.active and self._job.can_start(device)
        assert [row["job_id"] for row in pending].count(self._job_id) == is_pending

    async def _check_fingerprint(self, state: Any) -> None:
        """The fingerprint of the job changes with what readers see, also without a write."""
        fingerprint = await self._session.fetchval(
            "SELECT fingerprint FROM jobs.job_fingerprints WHERE tenant_id = $1 AND job_id = $2",
            self._tenant,
            self._job_id,
        )
        if self._seen is not None and self._seen[1] != state:
            assert self._seen[0] != fingerprint
        self._seen = fingerprint, state


def _stages(rollout: Rollout) -> list[dict[str, Any]]:
    """The stages as rollout_json.py writes them."""
    return [_stage(stage, is_last=stage is rollout.stages[-1]) for stage in rollout.stages]


def _stage(stage: Stage, is_last: bool) -> dict[str, Any]:
    fields = {
        "device_count": stage.count,
        "percent": stage.percent,
        "releases_per_minute": stage.rate,
    }
    if not is_last:
        fields |= {
            "min_succeeded_percent": stage.min_succeeded_percent,
            "bake_seconds": int(60 * stage.bake) or None,
            "advance_after_seconds": int(60 * (stage.advance_after or 0)) or None,
            "require_approval": stage.require_approval or None,
        }
    return {"display_name": "", **{name: v for name, v in fields.items() if v is not None}}


def _minutes(minutes: float | Fraction) -> timedelta:
    return timedelta(seconds=float(60 * minutes))
