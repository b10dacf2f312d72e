"""Compares what readers of a tenant's jobs see with the model."""

from dataclasses import replace
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.machine.clock import seconds
from tests.model.execution import Execution
from tests.model.job import Event, Job
from tests.model.tenant import State
from tests.model.waits import possible_actions, waits
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.events import ATTEMPT_DEFAULTS, stored_events

_ROW = """
    SELECT p.retries, p.retried_devices, f.fingerprint
    FROM jobs.job_progress p
    JOIN jobs.job_fingerprints f ON f.tenant_id = p.tenant_id AND f.job_id = p.job_id
    WHERE p.tenant_id = $1 AND p.job_id = $2
"""


class Checks:
    """Remembers what must not change, or must change with something else."""

    def __init__(self, database: Database, operator: Operator) -> None:
        self._database = database
        self._operator = operator
        self._ends: dict[tuple[str, str, int], str] = {}
        self._fingerprints: dict[str, tuple[int, dict[str, Any]]] = {}

    async def check_changes(self, before: State, after: State) -> None:
        """Check the jobs in which a call, or time, has changed what readers see."""
        earlier = {job.job_id: job for job in before.jobs}
        for job in after.jobs:
            old = earlier.get(job.job_id)
            if old is None or _expected(old) != _expected(job):
                await self._check(job)
                if old is None or old.failures != job.failures:
                    await self._check_failures(job)

    async def check_all(self, state: State) -> None:
        """Check all jobs, their attempts, and that the stored counts are exact."""
        hash(state)  # for searches over states
        for job in state.jobs:
            await self._check(job)
            await self._check_failures(job)
            for execution in job.executions:
                if execution.earlier:
                    await self._check_attempts(job, execution)
        assert not await self._database.recount(self._operator.tenant)

    async def _check(self, expected: Job) -> None:
        job_id = expected.job_id
        job = await self._operator.get(job_id, executions_limit=100)
        state, prediction = _actual(job), _expected(expected)
        differences = {
            name: (state[name], prediction[name])
            for name in state
            if state[name] != prediction[name]
        }
        assert not differences, f"{job_id}: {differences}"
        assert job.total_executions == len(expected.executions)
        self._check_trip(job, expected)
        row = await self._database.owner.fetchrow(_ROW, self._operator.tenant, job_id)
        assert row is not None
        needed = sum(execution.has_needed_retry for execution in expected.executions)
        assert (row["retries"], row["retried_devices"]) == (expected.automatic_retries, needed)
        self._check_fingerprint(job_id, row["fingerprint"], state)
        await self._check_events(expected)
        for device, (status, number, *_) in state["executions"].items():
            if status not in ("QUEUED", "HELD", "IN_PROGRESS"):
                assert self._ends.setdefault((job_id, device, number), status) == status

    async def _check_failures(self, expected: Job) -> None:
        summary = await self._operator.failures(expected.job_id)
        assert {
            (pb.JobExecution.Status.Name(f.status), f.failure_code): f.execution_count
            for f in summary.failures
        } == expected.failures

    def _check_trip(self, job: pb.Job, expected: Job) -> None:
        """The trip of a job. Its reason names the action and the threshold."""
        assert job.HasField("trip") == (expected.trip is not None)
        if expected.trip is not None:
            numbers = (_stage(job.trip), job.trip.failure_count, job.trip.basis_count)
            trip = expected.trip
            assert numbers == (trip.stage, trip.failures, trip.basis)
            criterion = job.trip.criterion
            limit = f"{criterion.percent}%" if criterion.percent else f"{criterion.count}"
            action = pb.FailureCriterion.Action.Name(criterion.action)
            if expected.pause_cause == "FAILURE_CRITERION" and expected.is_active:
                assert job.pause.reason.endswith(f" (pause at {limit})")
            if expected.status == "CANCELED" and action != "PAUSE":
                ending = f" ({action.lower().replace('_', ' ')} at {limit})"
                assert job.cancel_reason.endswith(ending)

    def _check_fingerprint(self, job_id: str, fingerprint: int, state: dict[str, Any]) -> None:
        """It changes with what readers see, also without a write."""
        if job_id in self._fingerprints:
            before, seen = self._fingerprints[job_id]
            assert before != fingerprint or seen == state
        self._fingerprints[job_id] = fingerprint, state

    async def _check_events(self, expected: Job) -> None:
        """The events of an expiry can be missing at the end: time alone adds none."""
        actual = await stored_events(self._database, self._operator.tenant, expected.job_id)
        assert not actual[len(expected.events) :]
        missing = expected.events[len(actual) :]
        assert {event.type for event in missing} <= {"job.expired", "job.completed"}
        for event, prediction in zip(actual, expected.events, strict=False):
            details = {name: event.details[name] for name in event.details.keys() - {"reason"}}
            counts = None if prediction.counts is None else event.counts
            got = _comparable(Event(event.type, event.status, counts, event.user, details))
            assert got == _comparable(prediction), f"{got}, but expected {prediction}"

    async def _check_attempts(self, job: Job, execution: Execution) -> None:
        attempts = await self._operator.attempts(job.job_id, execution.device)
        assert [
            (pb.JobExecution.Status.Name(each.status), _code(each), _cause(each))
            for each in attempts[1:]
        ] == [(each.status, each.code, each.cause) for each in reversed(execution.earlier)]


def _actual(job: pb.Job) -> dict[str, Any]:
    """What readers see of a job, in the form of _expected."""
    return {
        "status": pb.Job.Status.Name(job.status),
        "pause": pb.Pause.Cause.Name(job.pause.cause) if job.HasField("pause") else None,
        "approved": job.start_approval.HasField("approved_at")
        if job.HasField("start_approval")
        else None,
        "labels": dict(job.labels),
        "continuous": job.continuous,
        "replacement": (job.replaces_job_id, job.replaced_by_job_id),
        "start": seconds(job.start_at) if job.HasField("start_at") else None,
        "expires": seconds(job.expires_at) if job.HasField("expires_at") else None,
        "executions": {
            each.device_id: (
                pb.JobExecution.Status.Name(each.status),
                each.execution_number,
                _code(each),
                _cause(each),
                seconds(each.not_before) if each.HasField("not_before") else None,
                each.stage,
            )
            for each in job.executions
        },
        "counts": _counts(job),
        "stages": [
            (stage.HasField("opened_at"), _counts(stage), stage.awaiting_approval)
            for stage in job.stages
        ],
        # It grows with the time after a cancel, but that means nothing.
        "released": job.status == pb.Job.CANCELED or sum(s.released_count for s in job.stages),
        "criteria": [
            (s.criterion_index, _stage(s), s.failure_count, s.basis_count, s.threshold)
            for s in job.criterion_states
        ],
        "budget": job.retry_budget_exhausted,
        "waits": [
            (pb.JobWait.Kind.Name(wait.kind), wait.stage, wait.met_count, wait.required_count)
            for wait in job.waits_for
            if wait.kind != pb.JobWait.START_WINDOW  # The windows have a model of their own.
        ],
        "actions": {pb.Job.Action.Name(action) for action in job.possible_actions},
    }


def _expected(job: Job) -> dict[str, Any]:
    rollout = job.rollout
    open_stage = rollout.open_stage if rollout else -1
    return {
        "status": job.visible_status,
        "pause": job.pause_cause,
        "approved": job.start_approved,
        "labels": dict(job.labels),
        "continuous": job.target is not None,
        "replacement": (job.replaces, job.replaced_by),
        "start": job.start if job.has_start_at else None,
        "expires": job.expires,
        "executions": {
            each.device: (
                job.visible(each),
                each.number,
                each.code,
                each.cause,
                each.not_before if each.status == "QUEUED" else None,
                each.stage,
            )
            for each in job.executions
        },
        "counts": job.counts(),
        "stages": [
            (n <= open_stage, job.counts(n), job.awaiting_approval and n == open_stage)
            for n in range(job.stage_count if rollout else 0)
        ],
        "released": job.status == "CANCELED" or (rollout.released if rollout else 0),
        "criteria": [
            (state.criterion, state.stage, state.failures, state.basis, state.threshold)
            for state in job.criterion_states
        ],
        "budget": job.is_budget_exhausted,
        "waits": waits(job),
        "actions": possible_actions(job),
    }


def _counts(state: pb.Job | pb.JobStage) -> dict[str, int]:
    counts = {field.name.upper(): value for field, value in state.execution_counts.ListFields()}
    return counts | ({"retrying": state.retrying_count} if state.retrying_count else {})


def _stage(state: pb.CriterionState | pb.Trip) -> int | None:
    return state.stage if state.HasField("stage") else None


def _code(execution: pb.JobExecution) -> str | None:
    return execution.failure_code if execution.HasField("failure_code") else None


def _cause(execution: pb.JobExecution) -> str | None:
    cause = execution.end_cause
    return pb.JobExecution.EndCause.Name(cause) if cause else None


def _comparable(event: Event) -> Event:
    """Complete the attempts of an event. Those that time out at the same time have no order."""
    details = {**event.details}
    attempts: Any = details.pop("attempts", None)
    if attempts is None:
        return event
    attempts = [ATTEMPT_DEFAULTS | each for each in attempts]
    if all(each["status"] == "TIMED_OUT" for each in attempts):
        attempts.sort(key=lambda each: each["device_id"])
    return replace(event, details=details | {"attempts": attempts})
