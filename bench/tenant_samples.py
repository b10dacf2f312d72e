"""Tenants whose watches this process keeps open, to measure when they are told of a change."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
from fleet.jobs.v1 import device_jobs_pb2, jobs_pb2

from bench.process import Server
from bench.run import InvalidRun
from tests.harness.calls import Calls

_DEVICE = "d0000000"
_TIMEOUT = 30.0

# The rate of a rollout, per minute, and the seconds until it releases the first execution.
_RATE = 30
_FIRST_RELEASE = 60 / _RATE

_Message = tuple[float, Any]
"""When a stream received a message, and the message."""


class _Sample:
    """A tenant, and the messages of its two watches."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.jobs: asyncio.Queue[_Message] = asyncio.Queue()
        self.executions: asyncio.Queue[_Message] = asyncio.Queue()

    async def watch(self, calls: Calls) -> None:
        """Receive the messages of both watches until canceled."""
        job = calls.stream(jobs_pb2.WatchJobRequest(job_id="j"), self.tenant)
        request = device_jobs_pb2.WatchPendingExecutionsRequest()
        pending = calls.stream(request, self.tenant, device=_DEVICE)
        await asyncio.gather(_receive(job, self.jobs), _receive(pending, self.executions))

    async def next(self, messages: asyncio.Queue[_Message], is_expected: Any) -> float:
        """Return when the first expected message came."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                while True:
                    received, message = await messages.get()
                    if is_expected(message):
                        return received
        except TimeoutError:
            raise InvalidRun(f"{self.tenant} was not told within {_TIMEOUT:g} s") from None


async def _receive(call: Any, messages: asyncio.Queue[_Message]) -> None:
    async for message in call:
        messages.put_nowait((time.monotonic(), message))


class Samples:
    """The tenants, with a WatchJob and a WatchPendingExecutions each."""

    def __init__(self, samples: Sequence[_Sample]) -> None:
        self._samples = samples

    @staticmethod
    @asynccontextmanager
    async def watching(server: Server, tenants: Sequence[str]) -> AsyncIterator["Samples"]:
        """Keep the watches open within the block; each has its first message."""
        samples = [_Sample(tenant) for tenant in tenants]
        async with AsyncExitStack() as stack:
            watching = []
            for sample in samples:
                calls = await stack.enter_async_context(server.calls())
                watching.append(asyncio.create_task(sample.watch(calls)))
            for sample in samples:
                await sample.next(sample.jobs, bool)
                await sample.next(sample.executions, lambda _: True)
            yield Samples(samples)
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)

    async def change(self, server: Server, seconds: float) -> list[float]:
        """Pause and resume each job through a server; both watches are told."""

        async def change(sample: _Sample) -> list[float]:
            await calls.call(jobs_pb2.PauseJobRequest(job_id="j"), sample.tenant)
            paused = time.monotonic()
            told = [
                await sample.next(sample.jobs, lambda m: m.job.HasField("pause")) - paused,
                await sample.next(sample.executions, lambda m: not m.executions) - paused,
            ]
            # What was told only now must not count as the answer to the next change.
            await calls.call(jobs_pb2.ResumeJobRequest(job_id="j"), sample.tenant)
            resumed = time.monotonic()
            return [
                *told,
                await sample.next(sample.jobs, lambda m: not m.job.HasField("pause")) - resumed,
                await sample.next(sample.executions, lambda m: bool(m.executions)) - resumed,
            ]

        async with server.calls() as calls:
            return await self._spread(seconds, change)

    async def release(self, server: Server, seconds: float) -> list[float]:
        """Create a job that releases its only execution after a while; the device is told."""

        async def release(sample: _Sample) -> list[float]:
            rollout = jobs_pb2.Rollout(
                stages=[jobs_pb2.Stage(remainder=True, releases_per_minute=_RATE)]
            )
            request = jobs_pb2.CreateJobRequest(
                job_id="r", document_type="bench", target_device_id=_DEVICE, rollout=rollout
            )
            await calls.call(request, sample.tenant)
            due = time.monotonic() + _FIRST_RELEASE
            return [await sample.next(sample.executions, _has_job("r")) - due]

        async with server.calls() as calls:
            return await self._spread(seconds, release)

    async def expire(self, owner: asyncpg.Connection, seconds: float) -> list[float]:
        """Let each job expire; both watches are told."""
        lock = asyncio.Lock()

        async def expire(sample: _Sample) -> list[float]:
            async with lock:
                # The write itself is not what they are told: it lies before the expiry.
                await owner.execute(
                    "UPDATE jobs.jobs SET expires_at = clock_timestamp() + interval '3 s'"
                    " WHERE tenant_id = $1 AND job_id = 'j'",
                    sample.tenant,
                )
            due = time.monotonic() + 3
            completed = jobs_pb2.Job.COMPLETED
            return [
                await sample.next(sample.jobs, lambda m: m.job.status == completed) - due,
                await sample.next(sample.executions, lambda m: not _has_job("j")(m)) - due,
            ]

        return await self._spread(seconds, expire)

    async def _spread(
        self, seconds: float, change: Callable[[_Sample], Awaitable[list[float]]]
    ) -> list[float]:
        """Change each tenant at a random time within `seconds`; return how late all were told."""

        async def later(sample: _Sample) -> list[float]:
            await asyncio.sleep(random.random() * seconds)  # noqa: S311 - no secret
            return await change(sample)

        told = await asyncio.gather(*map(later, self._samples))
        return [late for of_sample in told for late in of_sample]


def _has_job(job_id: str) -> Callable[[Any], bool]:
    return lambda message: any(e.job_id == job_id for e in message.executions)
