"""Measure whether speed, memory and sizes stay the same under steady churn.

Run by `make bench-soak`. A job for all devices is created every few seconds. Devices start and
report each execution, an operator reads, and old jobs are deleted. The server runs
maintenance; PostgreSQL has its default settings, except for those in SETTINGS. Each row prints the
main figures, and the end of the run tables with all of them. Ctrl-C ends the run; the tables have
what was measured until then.

With --pressure, a login of another program keeps PostgreSQL from removing dead rows, or WAL, from
the minute --begin to the minute --end: see bench/pressure.py.
"""

import argparse
import asyncio
import itertools
import signal
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import events_pb2
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import pressure, seed
from bench.environment import Environment, environment
from bench.page import format_number, wrap
from bench.pressure import PRESSURES
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
from tests.harness.calls import END_OF_CONNECTION, Calls, method_of

SETTINGS = ("shared_buffers=512MB", "max_wal_size=4GB")

_TENANT = "acme"
_CALLERS = 24
_WATCHES = 20
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
    "WAL, MiB": other("WAL, MiB"),
    **{name: other(name) for name in ("CPU, ms/cycle", "pages/cycle")},
}

_PRINTED = {name: _SPEED[name] for name in ("cycles/s", "waiting")} | {
    name: _SIZES[name] for name in ("tables, MiB", "dead rows", "CPU, ms/cycle", "server, MiB")
}
"""For the terminal."""

_STATISTICS = """
    SELECT sum(n_dead_tup)::float8 AS "dead rows", sum(autovacuum_count)::float8 AS "vacuums",
           (SELECT sum(w.size)::float8 / 1048576 FROM pg_ls_waldir() w) AS "WAL, MiB",
           (SELECT d.blks_hit + d.blks_read FROM pg_stat_database d
            WHERE d.datname = current_database()) AS pages
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

    def clients(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Return what the clients do until the end of the run."""
        yield self._operate()
        yield self._watch(events_pb2.WatchEventsRequest())
        for device in range(min(_WATCHES, self.args.devices)):
            yield self._watch(device_pb.WatchPendingExecutionsRequest(), f"d{device:07}")
        for _ in range(_CALLERS):
            yield self._work()

    async def _operate(self) -> None:
        """Create a job every few seconds, read jobs, and delete the oldest one.

        The devices of a job become ready one after the other until the next job is created.
        """
        loop = asyncio.get_running_loop()
        kept: deque[str] = deque()
        started = loop.time()
        for number in itertools.count():
            job_id = f"job-{number:06}"
            request = pb.CreateJobRequest(
                job_id=job_id,
                document_type="install",
                target_all=True,
                in_progress_timeout_minutes=1,
            )
            await self._call(request)
            kept.append(job_id)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(kept))
                for device in range(self.args.devices):
                    ready = started + (number + device / self.args.devices) * self.args.interval
                    await asyncio.sleep(ready - loop.time())
                    self._waiting_devices.put_nowait(f"d{device:07}")
            await asyncio.sleep(started + (number + 1) * self.args.interval - loop.time())

    async def _read(self, kept: deque[str]) -> None:
        for read in tuple(kept):
            await self._call(pb.GetJobRequest(job_id=read))
            await self._call(pb.ListJobsRequest())
        if len(kept) > self.args.kept:
            await self._call(pb.DeleteJobRequest(job_id=kept.popleft()))

    async def _watch(self, request: Any, device: str = "") -> None:
        """Keep a stream open."""
        while True:
            try:
                async for _ in self.devices.stream(request, _TENANT, device=device):
                    pass
            except grpc.aio.AioRpcError as e:
                if e.details() == END_OF_CONNECTION:
                    continue
                self.failures[f"{method_of(request)}: {e.code().name} {e.details()}"] += 1
                await asyncio.sleep(1)

    async def _work(self) -> None:
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
    if args.pressure and args.pressure not in PRESSURES:
        raise InvalidRun(f"the pressures are {', '.join(PRESSURES)}")
    samples: list[Sample] = []
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        env = await stack.enter_async_context(environment(_settings(args)))
        await seed.add_devices(env.owner, _TENANT, args.devices)
        server = await stack.enter_async_context(env.maintaining_server())
        operators, devices = [await stack.enter_async_context(server.calls()) for _ in range(2)]
        load = Load(args, operators, devices)
        sampler = _Sampler(load, env, server)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as pressed:
            clients = [tasks.create_task(client) for client in load.clients()]
            await sampler.start()
            for number in range(round(args.minutes * 60 / args.row)):
                began = time.monotonic()
                if args.pressure and number == round(args.begin * 60 / args.row):
                    await pressed.enter_async_context(PRESSURES[args.pressure](env, _TENANT))
                if number == round(args.end * 60 / args.row):
                    await pressed.aclose()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), args.row)
                seconds = time.monotonic() - began
                # Less than half a row shows little.
                if seconds > args.row / 2:
                    rows = number + min(1.0, round(seconds / args.row, 1))
                    samples.append(await sampler.sample(rows * args.row / 60, seconds))
                    figures = (f"{name} {show(samples[-1])}" for name, show in _PRINTED.items())
                    print(f"minute {samples[-1].number:g}: {', '.join(figures)}", flush=True)
                if stop.is_set():
                    break
            for client in clients:
                client.cancel()
        if not samples:
            raise InvalidRun("it ended before the first row")
        text = await env.report(*render(samples, args))
    return Report(text, _problems(samples, load.failures, quick=args.quick))


def _settings(args: argparse.Namespace) -> Sequence[str]:
    return SETTINGS + pressure.SETTINGS if args.pressure else SETTINGS


@dataclass
class _Sampler:
    load: Load
    env: Environment
    server: Server
    _cpu: float = 0.0
    _pages: float = 0.0

    async def start(self) -> None:
        """Begin to count CPU time and pages."""
        await self._take_growth(1)

    async def sample(self, minute: float, seconds: float) -> Sample:
        """Return the figures since the last sample, or the start."""
        calls = self.load.take_latencies()
        executions = len(calls["UpdateExecution"])
        others = {
            "waiting": self.load.waiting,
            _MEMORY: self.server.resident_bytes() / MIB,
            "PostgreSQL, MiB": await asyncio.to_thread(self.env.postgres_memory) / MIB,
            **await self._take_growth(max(executions, 1)),
        }
        tables = await table_sizes(self.env.owner, "jobs")
        return Sample(minute, executions, seconds, tables, calls, others)

    async def _take_growth(self, executions: int) -> dict[str, float]:
        row = await self.env.owner.fetchrow(_STATISTICS)
        assert row is not None
        figures = dict(row)
        (cpu, self._cpu), (pages, self._pages) = (
            (self._cpu, self.env.postgres_cpu_time()),
            (self._pages, figures.pop("pages")),
        )
        figures["CPU, ms/cycle"] = 1000 * (self._cpu - cpu) / executions
        figures["pages/cycle"] = (self._pages - pages) / executions
        return figures


def render(samples: Sequence[Sample], args: argparse.Namespace) -> list[str]:
    """Return the figures as parts of a page."""
    load = wrap(
        f"A job for {args.devices:,} devices every {args.interval:g} s, {_CALLERS} devices at"
        f" a time; the newest {args.kept} jobs are kept."
        f" Settings: {', '.join(f'`{setting}`' for setting in _settings(args))}."
    )
    tables = (by_sample("minute", samples, columns) for columns in (_SPEED, _SIZES))
    if args.pressure:
        pressed = f"Pressure: {args.pressure}, from minute {args.begin:g} to minute {args.end:g}."
        return [load, pressed, *tables]
    return [load, *tables, comparison("minute", samples, Goals())]


if __name__ == "__main__":
    run(
        "soak",
        __doc__,
        _measure,
        Option("minutes", 12.0, "length of the run", quick=0.075),
        Option("row", 60.0, "seconds of a row", quick=1.5),
        Option("devices", 1_500, "devices of a job", quick=40),
        Option("interval", 4.0, "seconds between two jobs", quick=0.25),
        Option("kept", 30, "jobs that are not deleted yet", quick=3),
        Option("pressure", "", f"one of {', '.join(PRESSURES)}"),
        Option("begin", 10.0, "minute in which the pressure begins", quick=0.025),
        Option("end", 70.0, "minute in which it ends", quick=0.05),
    )
