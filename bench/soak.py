"""Measure whether speed, memory and sizes stay the same under steady churn.

Run by `make bench-soak`. A job for all devices is created every few seconds. Devices start and
report each execution, an operator reads, and old jobs are deleted. The server runs
maintenance; PostgreSQL has its default settings, except for those in SETTINGS. Each minute prints a
row with the main figures, and the end of the run tables with all of them. Ctrl-C ends the run; the
tables have what was measured until then.
"""

import argparse
import asyncio
import itertools
import signal
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, environment
from bench.page import format_number, wrap
from bench.process import Server
from bench.run import InvalidRun, Option, Report, run
from bench.samples import (
    MIB,
    SIZES,
    Column,
    Goals,
    Sample,
    by_sample,
    comparison,
    latency,
    other,
    table_sizes,
)
from jobs_grpc.client import JobsError
from tests.harness.calls import Calls, method_of

SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB")

_TENANT = "acme"
_CALLERS = 24
_TIMEOUT = 30.0

# The run fails if the memory of the last minute exceeds that of the first one by this factor.
_MAX_GROWTH = 1.25
_MEMORY = "memory of the server, MiB"

_CALLS = {
    "CreateJob": "create",
    "StartNextExecution": "start",
    "UpdateExecution": "report",
    "GetJob": "get",
    "ListJobs": "list",
    "DeleteJob": "delete",
}
_SPEED: Mapping[str, Column] = {
    "cycles/s": lambda sample: format_number(sample.executions / sample.seconds),
    "waiting": other("waiting"),
    **{f"{name}, ms": latency(method, 50, 99) for method, name in _CALLS.items()},
}
_SIZES: Mapping[str, Column] = {
    **SIZES,
    **{name: other(name) for name in ("dead rows", "vacuums")},
    "server, MiB": other(_MEMORY),
    "PostgreSQL, MiB": other("PostgreSQL, MiB"),
}

_PRINTED = {name: _SPEED[name] for name in ("cycles/s", "waiting")} | {
    name: _SIZES[name] for name in ("tables, MiB", "server, MiB")
}
"""For the terminal."""

_STATISTICS = """
    SELECT sum(n_dead_tup)::float8 AS "dead rows", sum(autovacuum_count)::float8 AS "vacuums"
    FROM pg_stat_user_tables WHERE schemaname = 'jobs'
"""


@dataclass
class Load:
    """The clients, on two connections."""

    args: argparse.Namespace
    operators: Calls
    devices: Calls
    failures: Counter[str] = field(default_factory=Counter)
    _waiting_devices: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    @property
    def waiting(self) -> int:
        """Executions that no device has started yet."""
        return self._waiting_devices.qsize()

    async def operate(self) -> None:
        """Create a job every few seconds, read jobs, and delete the oldest one."""
        loop = asyncio.get_running_loop()
        kept: deque[str] = deque()
        started = loop.time()
        for number in itertools.count():
            await asyncio.sleep(started + number * self.args.interval - loop.time())
            job_id = f"job-{number:06}"
            request = pb.CreateJobRequest(job_id=job_id, document_type="install", target_all=True)
            await self._call(request)
            kept.append(job_id)
            for device in range(self.args.devices):
                self._waiting_devices.put_nowait(f"d{device:07}")
            for read in kept:
                await self._call(pb.GetJobRequest(job_id=read))
                await self._call(pb.ListJobsRequest())
            if len(kept) > self.args.kept:
                await self._call(pb.DeleteJobRequest(job_id=kept.popleft()))

    async def work(self) -> None:
        """Act as one device after the other, and carry out its next execution."""
        while True:
            device = await self._waiting_devices.get()
            start = device_pb.StartNextExecutionRequest()
            response = await self._call(start, device)
            if response is None or not response.HasField("execution"):
                self.failures["StartNextExecution without an execution"] += 1
                continue
            report = device_pb.UpdateExecutionRequest(
                job_id=response.execution.job_id,
                execution_number=response.execution.execution_number,
                status=pb.JobExecution.SUCCEEDED,
            )
            await self._call(report, device)

    async def _call(self, request: Any, device: str = "") -> Any:
        calls = self.devices if device else self.operators
        try:
            return await calls.call(request, _TENANT, device=device, deadline=_TIMEOUT)
        except JobsError as e:
            self.failures[f"{method_of(request)}: {e.code.name} {e.message}"] += 1
            return None

    def take_latencies(self) -> dict[str, list[float]]:
        """Return the seconds that the calls took, by method, and forget them."""
        return self.operators.take_latencies() | self.devices.take_latencies()


def _problems(samples: Sequence[Sample], failures: Counter[str], *, quick: bool) -> list[str]:
    """Return why the run fails."""
    problems = [f"{count:,} calls failed: {text}" for text, count in failures.most_common(5)]
    if samples[-1].others[_MEMORY] > samples[0].others[_MEMORY] * _MAX_GROWTH:
        problems.append(f"the memory of the server grew more than {_MAX_GROWTH:g} times")
    if quick:
        last = samples[-1].latencies
        problems += [f"no figures of {call}" for call in _CALLS if not last.get(call)]
    return problems


async def _measure(args: argparse.Namespace) -> Report:
    samples: list[Sample] = []
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        env = await stack.enter_async_context(environment(SETTINGS))
        await seed.add_devices(env.owner, _TENANT, args.devices)
        server = await stack.enter_async_context(env.maintaining_server())
        operators, devices = [await stack.enter_async_context(server.calls()) for _ in range(2)]
        load = Load(args, operators, devices)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(load.operate())]
            clients += [tasks.create_task(load.work()) for _ in range(_CALLERS)]
            for number in range(1, args.minutes + 1):
                started = time.monotonic()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), args.row)
                seconds = time.monotonic() - started
                # Less than half a minute shows little.
                if seconds > args.row / 2:
                    minute = number - 1 + min(1.0, round(seconds / args.row, 1))
                    samples.append(await _sample(minute, seconds, load, env, server))
                    figures = (f"{name} {show(samples[-1])}" for name, show in _PRINTED.items())
                    print(f"minute {minute:g}: {', '.join(figures)}", flush=True)
                if stop.is_set():
                    break
            for client in clients:
                client.cancel()
        if not samples:
            raise InvalidRun("it ended before the first row")
        text = await env.report(*render(samples, args))
    return Report(text, _problems(samples, load.failures, quick=args.quick))


async def _sample(
    minute: float, seconds: float, load: Load, env: Environment, server: Server
) -> Sample:
    calls = load.take_latencies()
    row = await env.owner.fetchrow(_STATISTICS)
    assert row is not None
    others = {
        "waiting": load.waiting,
        _MEMORY: server.resident_bytes() / MIB,
        "PostgreSQL, MiB": await asyncio.to_thread(env.postgres_memory) / MIB,
        **row,
    }
    tables = await table_sizes(env.owner, "jobs")
    return Sample(minute, len(calls["UpdateExecution"]), seconds, tables, calls, others)


def render(samples: Sequence[Sample], args: argparse.Namespace) -> list[str]:
    """Return the figures as parts of a page."""
    load = wrap(
        f"A job for {args.devices:,} devices every {args.interval:g} s, {_CALLERS} devices at"
        f" a time; the newest {args.kept} jobs are kept."
        f" Settings: {', '.join(f'`{setting}`' for setting in SETTINGS)}."
    )
    tables = (by_sample("minute", samples, columns) for columns in (_SPEED, _SIZES))
    return [load, *tables, comparison("minute", samples, Goals())]


if __name__ == "__main__":
    run(
        "soak",
        __doc__,
        _measure,
        Option("minutes", 12, "rows of the tables", quick=3),
        Option("row", 60.0, "seconds of a row", quick=1.5),
        Option("devices", 1_500, "devices of a job", quick=40),
        Option("interval", 4.0, "seconds between two jobs", quick=0.25),
        Option("kept", 30, "jobs that are not deleted yet", quick=3),
    )
