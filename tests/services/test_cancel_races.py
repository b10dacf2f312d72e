"""Devices of two servers agree with the service on every end while operators cancel at random."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.machine.machine import outcome
from tests.support.callers import Device, ended_of
from tests.support.retry_policies import rule
from tests.support.scale import SCALE, scaled
from tests.support.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 60 * SCALE)]

CANCELS = scaled(50, 10)
_DEVICES = [f"d{n}" for n in range(8)]
_MAX_OPEN_JOBS = 6
_POLICY = pb.RetryPolicy(rules=[rule(initial=1)])
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

Attempt = tuple[str, int]
"""The ID of the job, and the execution_number."""


@dataclass
class Agent:
    """A device that works on executions, and what it knows of them."""

    callers: Sequence[Device]
    """The device on each server."""
    random: random.Random
    working: dict[str, int] = field(default_factory=dict)
    """The attempt that it works on, by job."""
    ends: dict[Attempt, str] = field(default_factory=dict)
    """The end_cause of each attempt that it ended, or that a response said others ended."""
    replaced: set[Attempt] = field(default_factory=set)
    """Attempts that ended before it started a later one of the same job."""
    unacknowledged: set[Attempt] = field(default_factory=set)
    acknowledged: set[Attempt] = field(default_factory=set)

    @property
    def caller(self) -> Device:
        return self.random.choice(self.callers)

    async def act(self) -> None:
        actions = [
            self.start_next,
            self.start,
            self.start,
            self.watch,
            self.acknowledge,
            self.report,
        ]
        await self.random.choice(actions)()

    async def start_next(self) -> None:
        response = await self._read(self.caller.start_next_response())
        if response.HasField("execution"):
            self._work_on(response.execution)

    async def start(self) -> None:
        """Start one more execution."""
        response = await self._read(self.caller.pending())
        if response.executions:
            job_id = self.random.choice(response.executions).job_id
            execution, _ = await outcome(self.caller.start(job_id))
            if execution is not None:
                self._work_on(execution)

    def _work_on(self, execution: device_pb.DeviceExecution) -> None:
        job_id, number = execution.job_id, execution.execution_number
        before = self.working.get(job_id, number)
        if before != number:
            self.replaced.add((job_id, before))
        self.working[job_id] = number

    async def watch(self) -> None:
        async with aclosing(self.caller.watch()) as responses:
            await self._read(anext(responses))

    async def _read(self, call: Awaitable[Any]) -> Any:
        known = frozenset(self.acknowledged)
        response = await call
        for job_id, number, cause in ended_of(response):
            assert (job_id, number) not in known, "an acknowledged attempt is in a response"
            assert self.ends.setdefault((job_id, number), cause) == cause
            self.unacknowledged.add((job_id, number))
            if self.working.get(job_id) == number:
                del self.working[job_id]
        return response

    async def report(self) -> None:
        """Report on an attempt, and accept the cancel of its job or not."""
        if not self.working:
            return
        job_id, number = self.random.choice([*self.working.items()])
        status = self.random.choice(["IN_PROGRESS", "IN_PROGRESS", "SUCCEEDED", "FAILED"])
        report = self.caller.update(job_id, status, execution_number=number)
        execution, reason = await outcome(report)
        cause = "DEVICE"
        if reason is None and execution.cancel_requested and self.random.random() < 0.8:
            accept = self.caller.accept_cancel(job_id, execution_number=number)
            execution, reason = await outcome(accept)
            cause = "JOB_CANCELED"
        assert reason in (None, "EXECUTION_FINISHED", "EXECUTION_CHANGED")
        if reason is None and execution.status != pb.JobExecution.IN_PROGRESS:
            self.ends[job_id, number] = cause
            del self.working[job_id]

    async def acknowledge(self) -> None:
        attempts = sorted(self.unacknowledged)[: self.random.randint(1, 3)]
        if attempts:
            await self.caller.acknowledge(*attempts)
            self.acknowledged.update(attempts)
            self.unacknowledged.difference_update(attempts)

    async def finish(self) -> None:
        """Acknowledge everything that others ended."""
        await self._read(self.caller.pending())
        while self.unacknowledged:
            await self.acknowledge()
        assert await self.caller.ended() == []


@pytest.fixture
async def worlds(world: World) -> AsyncIterator[list[World]]:
    await world.add_devices(_DEVICES)
    async with world.on_another_server() as other:
        yield [world, other]


async def test_devices_agree_with_the_service_when_cancels_race(
    world: World, worlds: list[World]
) -> None:
    rng = random.Random(7)  # noqa: S311 - repeatable on purpose
    agents = [
        Agent([each.device(name) for each in worlds], random.Random(name))  # noqa: S311
        for name in _DEVICES
    ]
    jobs: list[str] = []
    counts = dict.fromkeys(("cancels", "ends", "told"), 0)
    stopping = asyncio.Event()
    deadlocks = await world.database.owner.fetchval(_DEADLOCKS)

    async def operate() -> None:
        """Keep some jobs open, and end or retry executions of them."""
        open_jobs: list[str] = []
        while counts["cancels"] < CANCELS:
            operator = rng.choice(worlds).operator
            if len(open_jobs) < _MAX_OPEN_JOBS:
                open_jobs.append(f"j{len(jobs)}")
                jobs.append(open_jobs[-1])
                await world.create(jobs[-1], retry_policy=_POLICY, in_progress_timeout_minutes=1)
                continue
            job_id = rng.choice(open_jobs)
            call: Awaitable[object]
            match rng.choices(("execution", "job", "retry"), (6, 2, 1)):
                case ["execution"]:
                    call = operator.cancel_execution(job_id, rng.choice(_DEVICES), force=True)
                case ["job"]:
                    open_jobs.remove(job_id)
                    call = operator.cancel(job_id, force=rng.random() < 0.5)
                case _:
                    await operator.retry(job_id, "FAILED", "TIMED_OUT", "REJECTED")
                    continue
            _, reason = await outcome(call)
            assert reason in (None, "EXECUTION_FINISHED", "JOB_NOT_CANCELABLE")
            counts["cancels"] += reason is None
        stopping.set()

    async def pass_time() -> None:
        """Let attempts time out and backoffs end, and finalize what is canceled."""
        while not stopping.is_set():
            await world.pass_time(rng.randint(1, 20))
            await world.sweep()

    async def work(agent: Agent) -> None:
        while not stopping.is_set():
            await agent.act()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(operate())
        tasks.create_task(pass_time())
        for agent in agents:
            tasks.create_task(work(agent))

    for agent in agents:
        await agent.finish()
        device = agent.callers[0]
        pending = (await device.pending(limit=100)).executions
        in_progress = {
            each.job_id: each.execution_number
            for each in pending
            if each.status == pb.JobExecution.IN_PROGRESS
        }
        assert in_progress == agent.working
        for job_id in jobs:
            for attempt in await world.operator.attempts(job_id, device.name):
                key = (job_id, attempt.execution_number)
                cause = pb.JobExecution.EndCause.Name(attempt.end_cause)
                if attempt.HasField("started_at") and key not in agent.replaced:
                    expected = agent.ends.get(key, "END_CAUSE_UNSPECIFIED")
                    assert cause == expected, f"{device.name}: {key}"
        counts["ends"] += len(agent.ends)
        counts["told"] += len(agent.acknowledged)
    assert await world.database.owner.fetchval(_DEADLOCKS) == deadlocks
    assert counts["ends"] > counts["told"] > 0
