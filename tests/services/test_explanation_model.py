"""ExplainExecution agrees with StartExecution, in random states and at the exact times."""

import heapq
import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.database import Database
from tests.support.failures import Failure
from tests.support.scale import SCALE
from tests.support.server import Server

if TYPE_CHECKING:
    from tests.support.callers import Operator

STATES = 200 if SCALE == 1 else 10_000
DEVICES = [f"d{number}" for number in range(8)]
HOLDS = {"JOB_SCHEDULED", "STAGE_NOT_OPEN", "NOT_RELEASED"}

ROLLOUTS = [
    None,
    pb.Rollout(stages=[pb.Stage(remainder=True)], max_in_progress=1),
    pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=1)]),
    pb.Rollout(stages=[pb.Stage(remainder=True, releases_per_minute=7)], max_in_progress=2),
    pb.Rollout(
        stages=[pb.Stage(device_count=1), pb.Stage(remainder=True, releases_per_minute=3000)]
    ),
    pb.Rollout(
        stages=[
            pb.Stage(device_count=1, gate=pb.Gate(min_succeeded_percent=100)),
            pb.Stage(remainder=True, releases_per_minute=13),
        ]
    ),
]


class _Clock:
    """The time of a database, which stands still between changes.

    It is a row that jobs.now() and jobs.clock_time() read. Replacing the functions for each change,
    as Database.pass_time does, makes each session plan its statements again.
    """

    def __init__(self, database: Database) -> None:
        self._owner = database.owner
        self.now = datetime.now(UTC)

    async def start(self) -> None:
        await self._owner.execute(
            "CREATE TABLE public.clock AS SELECT $1::timestamptz AS at", self.now
        )
        await self._owner.execute("GRANT SELECT ON public.clock TO PUBLIC")
        for name, volatility in (("now", "STABLE"), ("clock_time", "VOLATILE")):
            await self._owner.execute(
                f"CREATE OR REPLACE FUNCTION jobs.{name}() RETURNS timestamptz LANGUAGE sql"
                f" {volatility} PARALLEL SAFE RETURN (SELECT at FROM public.clock)"
            )

    async def set(self, at: datetime) -> None:
        assert at >= self.now
        self.now = at
        await self._owner.execute("UPDATE public.clock SET at = $1", at)

    async def pass_time(self, seconds: float) -> None:
        await self.set(self.now + timedelta(seconds=seconds))


@pytest.mark.slow
@pytest.mark.single_node("the time comes from a table of one node")
async def test_explanations_agree_with_starts_in_random_states(
    database: Database, server: Server
) -> None:
    clock = _Clock(database)
    await clock.start()
    random = Random(1)  # noqa: S311 - not for cryptography
    states = exact = 0
    while states < STATES:
        fleet = _Fleet(database, server, clock, random)
        await fleet.create_jobs()
        for _ in range(random.randrange(10)):
            await fleet.change()
        states += len(fleet.executions)
        exact += await fleet.check()

    assert exact > STATES / 10


class _Fleet:
    """The jobs of a new tenant."""

    def __init__(self, database: Database, server: Server, clock: _Clock, random: Random) -> None:
        self._database = database
        self._clock = clock
        self._random = random
        self._operator: Operator = server.operator(uuid.uuid4().hex)
        self._devices = {d: server.device(self._operator.tenant, d) for d in DEVICES}
        self.executions: list[tuple[str, str]] = []

    async def create_jobs(self) -> None:
        await self._database.add_devices(self._operator.tenant, DEVICES)
        await self._database.owner.execute(
            "INSERT INTO jobs.devices (tenant_id, device_id, time_zone)"
            " SELECT $1, 'd' || n, z FROM unnest('{Europe/Berlin,America/New_York}'::text[])"
            " WITH ORDINALITY AS u (z, n)",
            self._operator.tenant,
        )
        for job_id in ("j1", "j2", "j3", "j4"):
            devices = self._random.sample(DEVICES, 3)
            fields = self._fields() | {
                "job_id": job_id,
                "target_device_ids": pb.DeviceIds(device_ids=devices),
            }
            if await _reason(self._operator.create(**fields)) == "EXPIRY_TOO_EARLY":
                del fields["expires_in_hours"]
                await self._operator.create(**fields, never_expires=True)
            self.executions += [(job_id, device) for device in devices]
            await self._clock.pass_time(self._random.choice([0, 0.000001, 0.5]))

    def _fields(self) -> dict[str, Any]:
        choice = self._random.choice
        fields: dict[str, Any] = {"rollout": choice(ROLLOUTS), "priority": choice([1, 2, 3])}
        if choice([True, False]):
            start_at = Timestamp()
            delay = timedelta(seconds=choice([1, 30, 100_000]), microseconds=choice([0, 1]))
            start_at.FromDatetime(self._clock.now + delay)
            fields["start_at"] = start_at
        if choice([True, False]):
            local = self._clock.now + timedelta(minutes=choice([-700, -20, 0, 1, 500]))
            fields["start_windows"] = [
                pb.StartWindow(
                    days=self._random.sample(pb.StartWindow.Day.values()[1:], choice([0, 1, 5])),
                    start_time=local.strftime("%H:%M"),
                    duration=_duration(minutes=choice([15, 60, 1440])),
                )
                for _ in range(choice([1, 3]))
            ]
            fields["window_time_zone"] = choice(["", "Europe/Berlin", "Asia/Kathmandu", "DEVICE"])
        if choice([True, False]):
            rule = pb.RetryRule(max_attempts=3, initial_backoff=_duration(minutes=choice([1, 100])))
            fields["retry_policy"] = pb.RetryPolicy(rules=[rule])
        fields["expires_in_hours"] = choice([1, 24, 300])
        return fields

    async def change(self) -> None:
        """Change something, or try to."""
        job_id, device = self._random.choice(self.executions)
        match self._random.randrange(8):
            case 0:
                await _reason(self._operator.pause(job_id))
            case 1:
                await _reason(self._operator.resume(job_id))
            case 2:
                await _reason(self._operator.cancel_execution(job_id, device))
            case 3:
                await self._clock.pass_time(self._random.choice([1, 20, 5000]))
            case 4 | 5:
                await _reason(self._devices[device].start(job_id))
            case _:
                status = self._random.choice([pb.JobExecution.SUCCEEDED, pb.JobExecution.FAILED])
                await _reason(self._devices[device].update(job_id, status))

    async def check(self) -> int:
        """Compare each explanation with a start now, or at the earliest time.

        Return the number of earliest times.
        """
        starts: list[tuple[datetime, str, str]] = []
        for job_id, device in self.executions:
            explanation = await self._operator.explain(job_id, device)
            if explanation.HasField("earliest_start_at"):
                heapq.heappush(starts, (_earliest(explanation), job_id, device))
            else:
                await self._check_now(job_id, device, explanation)
        exact = 0
        while starts:
            at, job_id, device = heapq.heappop(starts)
            if self._clock.now < at:
                await self._clock.set(at - timedelta(microseconds=1))
            explanation = await self._operator.explain(job_id, device)
            if not explanation.HasField("earliest_start_at"):
                # Another execution started before, or at the same time.
                assert at == self._clock.now or _kinds(explanation) & {
                    "JOB_FULL",
                    "OTHER_JOB_FIRST",
                }
                await self._check_now(job_id, device, explanation)
                continue
            assert _earliest(explanation) == at
            assert await self._start(job_id, device) == _expected_reason(explanation) != ""
            await self._clock.set(at)
            assert await self._start(job_id, device) == ""
            exact += 1
        return exact

    async def _check_now(
        self, job_id: str, device: str, explanation: pb.ExplainExecutionResponse
    ) -> None:
        kinds = _kinds(explanation)
        if kinds in ({"WAITING_FOR_DEVICE"}, {"OTHER_JOB_FIRST"}) and self._random.random() < 0.5:
            execution = await self._devices[device].start_next()
            assert execution is not None
            assert execution.job_id == (explanation.blockers[0].other_job_id or job_id)
        else:
            assert await self._start(job_id, device) == _expected_reason(explanation)

    async def _start(self, job_id: str, device: str) -> str:
        return await _reason(self._devices[device].start(job_id))


def _duration(minutes: int) -> Duration:
    return Duration(seconds=60 * minutes)


def _kinds(explanation: pb.ExplainExecutionResponse) -> set[str]:
    return {pb.StartBlocker.Kind.Name(blocker.kind) for blocker in explanation.blockers}


def _earliest(explanation: pb.ExplainExecutionResponse) -> datetime:
    return explanation.earliest_start_at.ToDatetime(UTC)


def _expected_reason(explanation: pb.ExplainExecutionResponse) -> str:
    """The error of StartExecution that the explanation tells; "": none."""
    kinds = _kinds(explanation)
    is_held = explanation.execution.status == pb.JobExecution.HELD
    assert is_held or not kinds & HOLDS
    assert not is_held or kinds & {*HOLDS, "JOB_PAUSED"}
    if is_held:
        return "EXECUTION_HELD"
    for kind, reason in (
        ("FINISHED", "EXECUTION_FINISHED"),
        ("JOB_PAUSED", "JOB_PAUSED"),
        ("WINDOW_CLOSED", "EXECUTION_NOT_DUE"),
        ("BACKOFF", "EXECUTION_NOT_DUE"),
        ("JOB_FULL", "JOB_FULL"),
    ):
        if kind in kinds:
            return reason
    assert kinds <= {"WAITING_FOR_DEVICE", "OTHER_JOB_FIRST"}
    return ""


async def _reason(call: Awaitable[object]) -> str:
    """Make a call and return the reason of its error; "": it succeeds."""
    try:
        await call
    except grpc.aio.AioRpcError as e:
        failure = Failure(e.code())
        failure.read(e)
        return failure.reason or ""
    return ""
