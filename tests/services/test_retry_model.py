"""A job with a retry policy equals a model after each random step.

The model is written from the rules alone. The tests also plant mistakes in the SQL, and check that
the comparison notices each of them.
"""

import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.db.store import ExecutionUpdate, Store
from tests.support.callers import Operator
from tests.support.criteria_model import CriteriaModel, Criterion, Device
from tests.support.database import Database, replaced_function, request_session
from tests.support.failures import expect_failure
from tests.support.retry_model import (
    FAILURES,
    PENDING,
    Answer,
    Execution,
    RetryModel,
    Rule,
)
from tests.support.scale import SCALE
from tests.support.server import Server

STEPS, RUNS = (300, 1) if SCALE == 1 else (10_000, 10)
"""How many steps a run of the comparison has, and how many runs there are."""

STEPS_TO_NOTICE = 3_000
"""Within how many steps the comparison must notice a mistake."""

STEPS_PER_JOB = 40

# More than the 20 that the retry budget always allows.
DEVICES = [f"d{n:02}" for n in range(26)]
CODES = ["", "E1", "E2"]
CODES_OF_RULES: list[list[tuple[str, ...]]] = [[()], [("E1",), ()], [("", "E1"), ("E2",)]]
TIMEOUT_MINUTES = 10
EXPIRES_IN_HOURS = 1

ROLLOUTS = [None, pb.Rollout(stages=[pb.Stage(device_count=23), pb.Stage(remainder=True)])]

# How often each step occurs.
WEIGHTS = {
    "report": 30,
    "start": 16,
    "late_report": 4,
    "wait": 8,
    "time_out": 3,
    "retry": 4,
    "pause": 1,
    "resume": 4,
    "cancel_execution": 2,
    "delete_devices": 1,
    "update_policy": 1,
    "cancel": 1,
    "finalize": 1,
}

pytestmark = pytest.mark.single_node("the time comes from a table of one node")

# In PL/pgSQL, which plans the query only once.
_CLOCK = """
    CREATE TABLE public.test_clock (at timestamptz, jitter double precision);
    GRANT SELECT ON public.test_clock TO PUBLIC;
    CREATE OR REPLACE FUNCTION jobs.now() RETURNS timestamptz LANGUAGE plpgsql STABLE
        AS 'BEGIN RETURN (SELECT c.at FROM public.test_clock c); END';
    CREATE OR REPLACE FUNCTION jobs.clock_time() RETURNS timestamptz LANGUAGE plpgsql
        AS 'BEGIN RETURN (SELECT c.at FROM public.test_clock c); END';
    CREATE OR REPLACE FUNCTION jobs.jitter() RETURNS double precision LANGUAGE plpgsql
        AS 'BEGIN RETURN (SELECT c.jitter FROM public.test_clock c); END';
"""
START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
async def stopped_clock(database: Database) -> None:
    """Take the time and the jitter of the database from a table."""
    await database.owner.execute(_CLOCK)
    await database.owner.execute("INSERT INTO public.test_clock VALUES ($1, 0)", START)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, RUNS + 1))
async def test_job_with_retry_policy_equals_the_model_after_each_step(
    database: Database, server: Server, stopped_clock: None, seed: int
) -> None:
    steps = await compare(database, server, STEPS, seed=seed)

    assert steps == STEPS


# Each is a function, a part of it, and the mistake in its place.
MISTAKES = {
    "success of a retry leaves the failure counted": (
        "contributions",
        "<> ALL (ARRAY['SUCCEEDED'::jobs.execution_status, 'QUEUED'::jobs.execution_status])",
        "<> 'QUEUED'::jobs.execution_status",
    ),
    "failure before a resume leaves the wrong count": (
        "count_changes",
        "WHERE f.failed_at > c.counts_since AND",
        "WHERE",
    ),
    "budget is one device too small": (
        "exceeds_retry_budget",
        "retried_devices > 20",
        "retried_devices >= 20",
    ),
    "policy has one attempt more": (
        "decide_retries",
        "c.retries + 1 < next.max_attempts",
        "c.retries < next.max_attempts",
    ),
    "attempt can start after the expiry": (
        "decide_retries",
        "next.not_before, j.start_windows",
        "NULL, j.start_windows",
    ),
    "canceled job retries": ("decide_retries", "AND j.canceled_at IS NULL", ""),
    "RetryExecutions leaves waiting devices": (
        "retry_executions",
        "ELSE v_job.retrying END > 0",
        "ELSE 0 END > 0",
    ),
    "RetryExecutions continues the series": (
        "retry_executions",
        "last_updated_at = v_now, not_before = NULL, retries = 0",
        "last_updated_at = v_now, not_before = NULL",
    ),
    "canceled execution is still retrying": (
        "contributions",
        "(c.new_status = 'IN_PROGRESS'::jobs.execution_status)",
        "(c.new_status <> 'SUCCEEDED'::jobs.execution_status)",
    ),
    "start of a retry is not counted": (
        "count_changes",
        "retrying_in_progress = p.retrying_in_progress + c.retrying_in_progress",
        "retrying_in_progress = p.retrying_in_progress",
    ),
    "report without a number counts for a later attempt": (
        "decide_batch",
        "AND e.execution_number > 1 THEN e.execution_number - 1 END",
        "AND e.execution_number > 1 THEN e.execution_number END",
    ),
    "backoff does not grow": (
        "retry_backoff",
        "p_retries)::double precision",
        "0)::double precision",
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.wrong_counts("plants mistakes")
async def test_comparison_notices_a_mistake(
    database: Database, server: Server, stopped_clock: None, mistake: str
) -> None:
    function, part, wrong = MISTAKES[mistake]
    definition = await database.owner.fetchval(
        "SELECT pg_get_functiondef($1::regproc)", f"jobs.{function}"
    )
    assert part in definition

    async with replaced_function(database, f"jobs.{function}", definition.replace(part, wrong)):
        with pytest.raises(AssertionError):
            await compare(database, server, STEPS_TO_NOTICE, seed=2)


async def compare(database: Database, server: Server, steps: int, *, seed: int) -> int:
    """Run random steps on job after job, and compare with the model after each step."""
    done = 0
    for job in range(10**9):
        if done >= steps:
            break
        name = f"{seed}/{job}"
        rng = random.Random(name)  # noqa: S311 - repeatable on purpose
        async with run_of(database, server, rng) as run:
            for _ in range(min(STEPS_PER_JOB, steps - done)):
                done += 1
                try:
                    await run.step()
                except BaseException as e:
                    e.add_note(f"after {done} steps, in the job with seed {name}:")
                    e.add_note("\n".join(run.log))
                    raise
    return done


@asynccontextmanager
async def run_of(database: Database, server: Server, rng: random.Random) -> AsyncIterator["Run"]:
    """Create a job with a random policy, in a tenant of its own."""
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, DEVICES)
    rollout = rng.choice(ROLLOUTS)
    criteria = random_criteria(rng, has_stages=rollout is not None)
    policy = random_policy(rng)
    await set_clock(database, 0, 0)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout,
        failure_criteria=[criterion.message for criterion in criteria],
        in_progress_timeout_minutes=TIMEOUT_MINUTES,
        expires_in_hours=EXPIRES_IN_HOURS,
        retry_policy=policy_message(policy),
    )
    rows = await database.owner.fetch(
        "SELECT device_id, coalesce(stage, 0) AS stage, coalesce(rank, 0) AS rank"
        " FROM jobs.job_executions WHERE tenant_id = $1 ORDER BY device_id",
        operator.tenant,
    )
    counted = CriteriaModel({row["device_id"]: Device(row["stage"], row["rank"]) for row in rows})
    counted.replace(criteria)
    model = RetryModel(
        {row["device_id"]: Execution(row["stage"], row["rank"]) for row in rows},
        counted,
        [23, 26] if rollout else [],
        policy,
        expires_at=EXPIRES_IN_HOURS * 3600,
    )
    async with request_session(database) as (_, store):
        run = Run(database, server, operator, store, model, rng)
        await run.check()
        yield run
        await run.check_attempts()


def random_policy(rng: random.Random) -> list[Rule]:
    """One or two rules. The backoffs are powers of 2, so that all arithmetic is exact."""
    return [
        Rule(
            statuses=rng.choice(
                [
                    ("FAILED", "TIMED_OUT"),
                    ("FAILED",),
                    FAILURES if all(codes or [""]) else ("FAILED",),
                ]
            ),
            codes=codes,
            max_attempts=rng.choice([2, 3, 3, 4]),
            initial_backoff=rng.choice([1, 64, 256, 1024]),
            multiplier=rng.choice([1, 2, 4]),
            max_backoff=rng.choice([1024, 4096]),
        )
        for codes in rng.choice(CODES_OF_RULES)
    ]


def random_criteria(rng: random.Random, *, has_stages: bool) -> list[Criterion]:
    """Up to two failure criteria that trip late enough to leave time for retries."""
    criteria = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        common: dict[str, Any] = {
            "statuses": rng.choice([(), ("FAILED",)]),
            "codes": rng.choice([(), (), ("E1",)]),
            "scope": rng.choice(["JOB", "STAGE"]) if has_stages else "JOB",
            "action": rng.choice(["PAUSE"] * 6 + ["CANCEL", "FORCE_CANCEL"]),
        }
        if rng.random() < 0.5:
            criteria.append(Criterion(count=rng.randint(4, 16), **common))
        else:
            basis = rng.choice(["FINISHED", "FINISHED", "RELEASED", "TARGETED"])
            percent, least = rng.choice([30, 50, 70, 90]), rng.randint(4, 12)
            criteria.append(Criterion(percent=percent, basis=basis, min_finished=least, **common))
    return criteria


def policy_message(policy: Iterable[Rule]) -> pb.RetryPolicy:
    """The retry policy of a request."""
    return pb.RetryPolicy(rules=[rule.message for rule in policy])


async def set_clock(database: Database, seconds: float, jitter: float) -> None:
    """Set the time and the jitter of the database."""
    await database.owner.execute(
        "UPDATE public.test_clock SET at = $1, jitter = $2",
        START + timedelta(seconds=seconds),
        jitter,
    )


@dataclass
class Run:
    """The steps of one job, in the service and in the model."""

    database: Database
    server: Server
    operator: Operator
    store: Store
    model: RetryModel
    rng: random.Random
    log: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """The devices that have ended an attempt in this step."""

    def __post_init__(self) -> None:
        self.success = self.rng.choice([0, 0.1, 0.4, 0.8])
        self.before = list(self.model.criteria.counts())

    async def step(self) -> None:
        """Run a random step in both, and compare."""
        self.model.now += 1
        self.model.jitter = self.rng.choice([0, 0.25, 0.5, 1])
        await set_clock(self.database, self.model.now, self.model.jitter)
        self.before, self.ended = list(self.model.criteria.counts()), []
        name = self.rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        self.log.append(name)
        await getattr(self, name)()
        await self.check()

    async def report(self) -> None:
        """Report the ends of attempts, as one batch."""
        devices = self.rng.sample(DEVICES, self.rng.randint(1, 16))
        await self._report(devices, late=False)

    async def late_report(self) -> None:
        """Report the ends of earlier attempts, or of attempts without a number."""
        retried = [name for name, execution in self.model.devices.items() if execution.earlier]
        if retried:
            await self._report(self.rng.sample(retried, min(len(retried), 3)), late=True)

    async def _report(self, devices: Iterable[str], *, late: bool) -> None:
        updates, answers = [], []
        for device in devices:
            execution = self.model.devices[device]
            status, code = self._end()
            number: int | None = execution.number
            if late:
                number = self.rng.choice([*execution.earlier, None])
                if self.rng.random() < 0.6:
                    earlier = execution.earlier[number or max(execution.earlier)]
                    if earlier[0] in ("FAILED", "REJECTED"):
                        status, code = earlier[0], earlier[1] or None
            elif number == 1:
                number = self.rng.choice([1, None])
            updates.append(
                ExecutionUpdate(
                    "j", device, status, execution_number=number, failure_code=code or None
                )
            )
            answers.append(self.model.report(device, number, status, code))
        self.log += [
            f"  {u.device_id} {u.execution_number} {u.status} {u.failure_code}: {answer}"
            for u, answer in zip(updates, answers, strict=True)
        ]
        rows = await self.store.update_executions(self.operator.tenant, updates, wait_ms=1000)
        self.ended = [
            update.device_id
            for update, answer in zip(updates, answers, strict=True)
            if answer.outcome == "APPLIED"
        ]
        self._apply_rules()
        for row, answer in zip(rows, answers, strict=True):
            got = Answer(row["outcome"])
            if answer.number:
                number, status, code = (
                    row[name] for name in ("execution_number", "status", "failure_code")
                )
                got = Answer(row["outcome"], number, status, code)
            assert got == answer

    def _end(self) -> tuple[str, str | None]:
        if self.rng.random() < self.success:
            return "SUCCEEDED", None
        return self.rng.choice(["FAILED", "FAILED", "FAILED", "REJECTED"]), self.rng.choice(CODES)

    def _apply_rules(self) -> None:
        self.model.apply_criteria(self.ended, self.before)
        self.model.apply_gates()

    async def start(self) -> None:
        """Let devices start their next execution."""
        for device in self.rng.sample(DEVICES, 4):
            can_start = self.model.can_start(device)
            started = await self.server.device(self.operator.tenant, device).start_next()
            assert (started is not None) == can_start
            if started is not None:
                self.model.start(device, TIMEOUT_MINUTES * 60)
                assert started.execution_number == self.model.devices[device].number

    async def wait(self) -> None:
        """Let time pass, sometimes beyond the expiry."""
        self.model.now += self.rng.choice([16, 64, 256, 512, 1024, 1500])
        await set_clock(self.database, self.model.now, self.model.jitter)

    async def time_out(self) -> None:
        """Time out executions that are IN_PROGRESS for too long."""
        devices = self.rng.sample(DEVICES, 20)
        timed_out = await self.database.owner.fetchval(
            "SELECT jobs.time_out_executions($1, 'j', $2, 1000)", self.operator.tenant, devices
        )
        self.ended = self.model.time_out(devices)
        self.log.append(f"  {self.ended}")
        assert timed_out == len(self.ended)
        self._apply_rules()

    async def retry(self) -> None:
        """RetryExecutions."""
        devices = self.rng.choice([[], self.rng.sample(DEVICES, 8)])
        statuses = self.rng.choice([[*FAILURES], ["FAILED"], ["TIMED_OUT"], ["REJECTED"]])
        codes = self.rng.choice([[], [], ["E1"], ["", "E2"]])
        is_expired = self.model.expires_at <= self.model.now
        hours = EXPIRES_IN_HOURS if is_expired or self.rng.random() < 0.3 else None
        self.log.append(f"  {devices} {statuses} {codes} {hours}")
        fields: dict[str, Any] = {"device_ids": devices, "failure_codes": codes}
        if hours is not None:
            fields["expires_in_hours"] = hours
        if self.model.job_status == "CANCELED":
            with expect_failure(StatusCode.FAILED_PRECONDITION, "JOB_NOT_RETRYABLE"):
                await self.operator.retry("j", *statuses, **fields)
            return
        response = await self.operator.retry("j", *statuses, **fields)
        expires_at = None if hours is None else self.model.now + hours * 3600
        assert response.retried_count == self.model.retry(devices, statuses, codes, expires_at)
        if response.retried_count:
            self.model.apply_gates()

    async def pause(self) -> None:
        """PauseJob."""
        if self.model.job_status == "IN_PROGRESS":
            await self.operator.pause("j")
            self.model.is_paused = True

    async def resume(self) -> None:
        """ResumeJob."""
        if self.model.job_status == "PAUSED":
            await self.operator.resume("j")
            self.model.is_paused = False
            self.model.criteria.restart()
            self.model.apply_gates()

    async def cancel(self) -> None:
        """CancelJob."""
        if self.model.job_status in ("IN_PROGRESS", "PAUSED"):
            self.model.is_forced = self.rng.random() < 0.3
            await self.operator.cancel("j", force=self.model.is_forced)
            self.model.canceled_at = self.model.now

    async def cancel_execution(self) -> None:
        """CancelExecution, if it is pending."""
        device = self.rng.choice(DEVICES)
        status = self.model.status(self.model.devices[device])
        if status in (*PENDING, "HELD"):
            await self.operator.cancel_execution("j", device, force=True)
            self.model.end_by_operator([device])
            self.model.apply_gates()

    async def delete_devices(self) -> None:
        """DeleteDevices, which ends their QUEUED executions; then add the devices again."""
        devices = self.rng.sample(DEVICES, 2)
        await self.server.fleet(self.operator.tenant).delete(*devices)
        await self.database.add_devices(self.operator.tenant, devices)
        ended = [
            device
            for device in devices
            if self.model.devices[device].status == "QUEUED" == self.model.queued_status
        ]
        self.model.end_by_operator(ended)
        if ended:
            self.model.apply_gates()

    async def update_policy(self) -> None:
        """UpdateJob of the retry policy; sometimes removes it."""
        if self.model.job_status not in ("IN_PROGRESS", "PAUSED"):
            return
        self.model.policy = random_policy(self.rng) if self.rng.random() < 0.8 else []
        await self.operator.update(
            "j", "retry_policy", retry_policy=policy_message(self.model.policy)
        )
        self.model.apply_gates()

    async def finalize(self) -> None:
        """Let maintenance store what a cancel or an expiry has ended."""
        await self.database.owner.fetchrow(
            "SELECT * FROM jobs.finalize_executions($1, 'j', '', 1000, 1000)", self.operator.tenant
        )
        self.model.finalize()

    # The comparison.

    async def check(self) -> None:
        """Compare what readers see with the model."""
        model = self.model
        row = await self.database.owner.fetchrow(
            "SELECT p.retries, p.retried_devices, ARRAY("
            "SELECT ARRAY[f.status::text, f.failure_code, f.executions::text]"
            " FROM jobs.job_failures f WHERE f.tenant_id = p.tenant_id AND f.executions > 0"
            ") AS failures FROM jobs.job_progress p WHERE p.tenant_id = $1",
            self.operator.tenant,
        )
        job = await self.operator.get("j", executions_limit=100)
        assert pb.Job.Status.Name(job.status) == model.job_status
        assert {
            execution.device_id: (
                pb.JobExecution.Status.Name(execution.status),
                execution.execution_number,
                execution.failure_code if execution.HasField("failure_code") else None,
            )
            for execution in job.executions
        } == {
            name: (model.status(execution), execution.number, execution.code)
            for name, execution in model.devices.items()
        }
        assert row is not None
        counts = model.counts()
        assert execution_counts(job) == +counts
        if job.stages:
            for stage, state in enumerate(job.stages):
                assert execution_counts(state) == +model.counts(stage)
            opened = [stage.HasField("opened_at") for stage in job.stages]
            assert opened == [stage <= model.open_stage for stage in range(len(opened))]
        assert row["retries"] == model.automatic_retries
        needed = sum(execution.has_needed_retry for execution in model.devices.values())
        assert row["retried_devices"] == needed
        assert job.is_retry_budget_exhausted == model.is_budget_exhausted
        states = [
            (s.criterion, s.stage if s.HasField("stage") else None, s.failure_count, s.basis_count)
            for s in job.criterion_states
        ]
        assert states == [
            (state.criterion, state.stage, state.failures, state.basis)
            for state in model.criteria.states(model.released)
            if (state.stage or 0) <= model.open_stage
        ]
        assert Counter({(*pair,): int(n) for *pair, n in row["failures"]}) == model.failures

    async def check_attempts(self) -> None:
        """Compare the attempts of all devices with the model."""
        rows = await self.database.owner.fetch(
            "SELECT device_id, execution_number, status::text, failure_code"
            " FROM jobs.execution_attempts WHERE tenant_id = $1",
            self.operator.tenant,
        )
        attempts: dict[str, dict[int, tuple[str, str | None]]] = {name: {} for name in DEVICES}
        for device, number, *end in rows:
            attempts[device][number] = (*end,)
        assert attempts == {n: e.earlier for n, e in self.model.devices.items()}


def execution_counts(state: pb.Job | pb.JobStage) -> Counter[str]:
    """The counts that are not 0, by status, and the number of those that are retrying."""
    counts = {field.name.upper(): value for field, value in state.execution_counts.ListFields()}
    return +Counter(counts | {"retrying": state.retrying_count})
