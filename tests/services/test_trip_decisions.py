"""The decision to trip equals that of a model that is written from the rules alone."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from jobs_grpc.db.store import ExecutionUpdate
from tests.support.callers import Operator
from tests.support.criteria_model import CriteriaModel, Criterion, Device, State, Trip
from tests.support.database import Database, request_session
from tests.support.scale import examples
from tests.support.server import Server

DEVICES = [f"d{n}" for n in range(16)]
CODES = ["", "E1", "E2"]

# Three stages; only a criterion of a job with a rollout can have the scope STAGE.
ROLLOUTS = [
    None,
    pb.Rollout(stages=[pb.Stage(percent=100)]),
    pb.Rollout(
        stages=[
            pb.Stage(device_count=4),
            pb.Stage(device_count=3, releases_per_minute=1),
            pb.Stage(remainder=True, releases_per_minute=2),
        ]
    ),
    pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=2)]),
]


def criteria(scopes: Sequence[str]) -> st.SearchStrategy[list[Criterion]]:
    """Lists of criteria that often count the same."""
    common: dict[str, Any] = {
        "statuses": st.sampled_from([(), (), ("FAILED",), ("TIMED_OUT", "REJECTED")]),
        "codes": st.sampled_from([(), (), ("E1",), ("", "E2")]),
        "scope": st.sampled_from(scopes),
        "action": st.sampled_from(["PAUSE"] * 12 + ["CANCEL", "FORCE_CANCEL"]),
    }
    return st.lists(
        st.builds(Criterion, count=st.integers(2, 6), **common)
        | st.builds(
            Criterion,
            percent=st.sampled_from([25, 33, 34, 50, 50, 66, 67, 100]),
            basis=st.sampled_from(["FINISHED", "FINISHED", "RELEASED", "TARGETED"]),
            min_finished=st.integers(0, 5),
            **common,
        ),
        min_size=1,
        max_size=4,
    )


DEVICE_SETS: st.SearchStrategy[set[str]] = st.just(set()) | st.sets(
    st.sampled_from(DEVICES), min_size=4, max_size=8
)
CODE_SETS = st.sampled_from([set(), set(), {""}, {"E1"}, {"", "E2"}])
# A status and a code; no status: a start.
REPORT = st.sampled_from(
    [(None, None)]
    + [("SUCCEEDED", None)] * 3
    + [(status, code) for status in ("FAILED", "FAILED", "REJECTED") for code in CODES]
)
BATCH = st.dictionaries(st.sampled_from(DEVICES), REPORT, min_size=1, max_size=6)

# How often each step occurs.
WEIGHTS = {
    "report": 9,
    "resume": 1,
    "retry": 4,
    "update": 2,
    "time_out": 1,
    "cancel_execution": 1,
    "wait": 1,
    "pause": 1,
}


@st.composite
def steps(draw: st.DrawFn, scopes: Sequence[str]) -> tuple[Any, ...]:
    """What devices, an operator or the clock do to the job: the name of the step, its arguments."""
    name = draw(st.sampled_from([name for name, weight in WEIGHTS.items() for _ in range(weight)]))
    arguments: dict[str, list[st.SearchStrategy[Any]]] = {
        "report": [BATCH, st.sampled_from([True, True, True, False])],
        "retry": [DEVICE_SETS, CODE_SETS],
        "update": [criteria(scopes)],
        "time_out": [DEVICE_SETS],
        "cancel_execution": [st.sampled_from(DEVICES)],
        "wait": [st.integers(1, 3)],
    }
    return (name, *map(draw, arguments.get(name, [])))


@st.composite
def cases(draw: st.DrawFn) -> tuple[pb.Rollout | None, list[Criterion], list[tuple[Any, ...]]]:
    """A rollout, failure criteria, and steps."""
    rollout = draw(st.sampled_from(ROLLOUTS))
    scopes = ["JOB", "STAGE"] if rollout else ["JOB"]
    sequence = draw(st.lists(steps(scopes), min_size=8, max_size=25))
    return rollout, draw(criteria(scopes)), sequence


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a Citus cluster, a sequence can take ten seconds
@settings(examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
async def test_job_trips_exactly_when_the_model_does(
    database: Database,
    server: Server,
    case: tuple[pb.Rollout | None, list[Criterion], list[tuple[Any, ...]]],
) -> None:
    rollout, initial, sequence = case
    operator = server.operator(uuid.uuid4().hex)
    await database.add_devices(operator.tenant, DEVICES)
    await operator.create(
        job_id="j",
        target_all=True,
        rollout=rollout,
        failure_criteria=[criterion.message for criterion in initial],
        in_progress_timeout_minutes=1,
    )
    rows = await database.owner.fetch(
        "SELECT device_id, coalesce(stage, 0) AS stage, coalesce(rank, 0) AS rank"
        " FROM jobs.job_executions WHERE tenant_id = $1",
        operator.tenant,
    )
    model = CriteriaModel({row["device_id"]: Device(row["stage"], row["rank"]) for row in rows})
    model.replace(initial)
    run = Run(database, operator, model)

    job = await operator.get("j")
    for step, *arguments in sequence:
        if job.status not in (pb.Job.IN_PROGRESS, pb.Job.PAUSED):
            break
        # A stage opens after the criteria are checked, so the next check sees it.
        released = sum(stage.released_count for stage in job.stages) if job.stages else None
        run.was_running = job.status == pb.Job.IN_PROGRESS
        await getattr(run, step)(*arguments)
        job = await operator.get("j")
        expected = run.expected
        if run.checks and job.status != pb.Job.COMPLETED and run.was_running:
            expected = model.decide(released, run.finished) or run.expected
            event(f"{step} trips" if expected is not run.expected else f"{step} does not trip")
        if expected is not run.expected:
            assert expected is not None
            assert job.trip.tripped_at.ToNanoseconds() > run.tripped_at
            criterion = model.criteria[expected.criterion][0]
            action = criterion.action
            assert job.status == (pb.Job.PAUSED if action == "PAUSE" else pb.Job.CANCELED)
            reason = job.pause.reason if action == "PAUSE" else job.cancel_reason
            limit = f"{criterion.percent}%" if criterion.percent else f"{criterion.count}"
            assert reason.endswith(f" ({action.lower().replace('_', ' ')} at {limit})")
            run.expected, run.tripped_at = expected, job.trip.tripped_at.ToNanoseconds()
            [tripped] = [
                state
                for state in states(job)
                if (state.criterion, state.stage) == (expected.criterion, expected.stage)
            ]
            assert (tripped.failures, tripped.basis) == (expected.failures, expected.basis)
            assert tripped.failures >= tripped.threshold > 0
        assert trip(job, run.expected) == run.expected
        await run.check_counts()
        assert states(job) == expected_states(job, model)
        assert (job.trip.tripped_at.ToNanoseconds() if job.HasField("trip") else 0) == (
            run.tripped_at
        )


def states(job: pb.Job) -> list[State]:
    """The states of the failure criteria of a job."""
    return [
        State(
            state.criterion,
            state.stage if state.HasField("stage") else None,
            state.failure_count,
            state.basis_count,
            state.threshold,
        )
        for state in job.criterion_states
    ]


def expected_states(job: pb.Job, model: CriteriaModel) -> list[State]:
    """The states of the model: of stages that have opened, if the scope is STAGE."""
    released = sum(stage.released_count for stage in job.stages) if job.stages else None
    opened = sum(stage.HasField("opened_at") for stage in job.stages)
    return [s for s in model.states(released) if s.stage is None or s.stage < opened]


def trip(job: pb.Job, expected: Trip | None) -> Trip | None:
    """The trip of a job. It does not have the position of the criterion."""
    if not job.HasField("trip"):
        return None
    return Trip(
        expected.criterion if expected else -1,
        job.trip.stage if job.trip.HasField("stage") else None,
        job.trip.failure_count,
        job.trip.basis_count,
    )


_COUNTS = """
    SELECT criterion, stage, failures, finished_before
    FROM jobs.job_criterion_counts WHERE tenant_id = $1
"""
_FINISHED = """
    SELECT -1 AS stage, succeeded + (
        SELECT coalesce(sum(executions), 0) FROM jobs.job_failures WHERE tenant_id = $1
    ) AS finished
    FROM jobs.job_progress WHERE tenant_id = $1
    UNION ALL
    SELECT stage, succeeded + failures FROM jobs.job_stages WHERE tenant_id = $1
"""


class Run:
    """Applies each step to the service and to the model."""

    def __init__(self, database: Database, operator: Operator, model: CriteriaModel) -> None:
        self._database = database
        self._operator = operator
        self._model = model
        self.expected: Trip | None = None
        self.tripped_at = 0
        self.checks = False
        """Whether the step was one after which the criteria are checked."""
        self.finished: list[str] | None = None
        """The devices that the step has ended; None: it changed the criteria."""
        self.was_running = True
        """Whether the job was IN_PROGRESS before the step."""

    async def report(self, batch: dict[str, tuple[str | None, str | None]], resumed: bool) -> None:
        """Report or start, all in one batch; if `resumed`, the job is not PAUSED."""
        if resumed and not self.was_running:
            await self.resume()
            self.was_running = True
        updates = [
            ExecutionUpdate("j", device, status, failure_code=code or None)
            for device, (status, code) in batch.items()
        ]
        async with request_session(self._database) as (_, store):
            rows = await store.update_executions(self._operator.tenant, updates, wait_ms=60_000)
        applied = [
            update for update, row in zip(updates, rows, strict=True) if row["outcome"] == "APPLIED"
        ]
        for update in applied:
            if update.status is None:
                self._model.devices[update.device_id].status = "IN_PROGRESS"
            else:
                failed = update.status != "SUCCEEDED"
                code = (update.failure_code or "") if failed else None
                self._model.finish(update.device_id, update.status, code)
        self.finished = [update.device_id for update in applied if update.status is not None]
        self.checks = bool(self.finished)

    async def check_counts(self) -> None:
        """The stored counts are those of the model. A count of 0 may have no row."""
        rows = await self._database.owner.fetch(_COUNTS, self._operator.tenant)
        ended = await self._database.owner.fetch(_FINISHED, self._operator.tenant)
        finished = {row["stage"]: row["finished"] for row in ended}
        stored = {
            (criterion, stage): (failures, finished[stage] - before)
            for criterion, stage, failures, before in rows
            if stage in finished
        }
        for count in self._model.counts():
            stage = -1 if count.stage is None else count.stage
            expected = (count.failures, count.finished)
            assert stored.pop((count.criterion, stage), (0, count.finished)) == expected
        assert all(failures == 0 for failures, _ in stored.values())  # of empty stages

    async def retry(self, devices: set[str], codes: set[str]) -> None:
        """Retry failures, of some devices and codes only."""
        statuses = ("FAILED", "TIMED_OUT", "REJECTED")
        response = await self._operator.retry(
            "j", *statuses, device_ids=devices, failure_codes=codes
        )
        retried = [
            name
            for name, device in self._model.devices.items()
            if device.status in statuses
            and (not devices or name in devices)
            and (not codes or device.failure_code in codes)
        ]
        assert response.retried_count == len(retried)
        self._model.retry(retried)
        self.checks = False

    async def update(self, criteria: list[Criterion]) -> None:
        """Replace the failure criteria."""
        self.checks, self.finished = True, None
        await self._operator.update(
            "j", "failure_criteria", failure_criteria=[criterion.message for criterion in criteria]
        )
        self._model.replace(criteria)

    async def time_out(self, devices: Iterable[str]) -> None:
        """Time out those devices that are IN_PROGRESS."""
        due = [d for d in sorted(devices) if self._model.devices[d].status == "IN_PROGRESS"]
        self.checks, self.finished = bool(due), due
        await self._database.make_overdue(self._operator.tenant, "j")
        timed_out = await self._database.owner.fetchval(
            "SELECT jobs.time_out_executions($1, 'j', $2, 1000)", self._operator.tenant, due
        )
        assert timed_out == len(due)
        for device in due:
            self._model.finish(device, "TIMED_OUT", "")

    async def cancel_execution(self, device: str) -> None:
        """Cancel the execution of one device, if it is pending. It is not a failure."""
        self.checks = False
        if self._model.devices[device].status not in ("QUEUED", "IN_PROGRESS"):
            return
        await self._operator.cancel_execution("j", device, force=True)
        self._model.finish(device, "REJECTED")

    async def wait(self, minutes: int) -> None:
        """Let the release of executions continue for some minutes."""
        self.checks = False
        await self._database.pass_time(60 * minutes)

    async def resume(self) -> None:
        """ResumeJob."""
        self.checks, self.finished = True, None
        if not self.was_running:
            self._model.restart()
        await self._operator.resume("j")

    async def pause(self) -> None:
        """PauseJob."""
        self.checks = False
        await self._operator.pause("j")
