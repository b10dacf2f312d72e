"""Measure how soon devices join continuous jobs, what joins and full scans cost, and facts.

Run by `make bench-continuous`. One server with maintenance does the work; each part has a tenant of
its own. CPU times are those of the server and of PostgreSQL.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from fleet.jobs.v1 import device_jobs_pb2, fleet_pb2
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from bench import seed
from bench.environment import Environment, environment
from bench.figures import Case, Results, tables_by_case
from bench.process import Server
from bench.run import InvalidRun, Option, run
from tests.harness.calls import Calls
from tests.support.waiting import wait_until

# With a million devices.
_GOALS = {
    "p99 from a registration to its 20 executions": 5.0,
    "joins of 10 % of the devices": 60.0,
    "longest wait for the job lock meanwhile": 200.0,
    "p99 of GetJob of another tenant meanwhile": 100.0,
    "CPU of UpdateDevices of 1 device and its note, 3 continuous jobs: times": 1.3,
    "CPU of UpdateDevices of 1 device and its note, 20 continuous jobs: times": 1.6,
    "CPU of a full scan, 10 % of the devices are in the job": 2.0,
    "CPU of a full scan, all of the devices are in the job": 2.0,
    "size of the table of facts after all have changed: times": 1.3,
}

_ALL: dict[str, Any] = {"target_all": True}
_TIMEOUT = 600.0
_UPDATES = 200


@dataclass(frozen=True)
class Bench:
    """What the parts use."""

    env: Environment
    server: Server
    calls: Calls
    case: Case
    devices: int
    rounds: int
    seconds: float
    """In which all devices report new facts."""

    async def create(self, tenant: str, job_id: str = "j", **fields: Any) -> None:
        """Create a continuous job, by default for devices with track=x."""
        fields = fields if "target_all" in fields else {"target_selector": "track=x"} | fields
        request = pb.CreateJobRequest(
            job_id=job_id, document_type="update", continuous=True, **fields
        )
        await self.calls.call(request, tenant, deadline=_TIMEOUT)

    async def update(self, tenant: str, first: int, count: int = 1, **labels: str) -> None:
        """Set labels of devices, and register those that do not exist."""
        ids = (f"d{n:07}" for n in range(first, first + count))
        request = fleet_pb2.UpdateDevicesRequest(
            devices=[fleet_pb2.Device(device_id=each, labels=labels) for each in ids],
            update_mask=FieldMask(paths=["labels"]),
            allow_missing=True,
        )
        await self.calls.call(request, tenant)

    async def until(self, sql: str, *arguments: Any) -> None:
        """Return when a query returns true."""
        await wait_until(lambda: self.env.owner.fetchval(sql, *arguments), _TIMEOUT)

    async def until_no_notes(self, tenant: str) -> None:
        """Return when all noted changes have been looked at."""
        await self.until(
            "SELECT NOT EXISTS (SELECT FROM jobs.device_changes WHERE tenant_id = $1)", tenant
        )

    def cpu(self) -> float:
        """Return the CPU seconds of the server and of PostgreSQL so far."""
        return self.server.cpu_time() + self.env.postgres_cpu_time()


async def _register(bench: Bench) -> None:
    """Register single devices beside 20 jobs that all of them join."""
    for number in range(20):
        await bench.create("registering", f"job-{number}", max_joins_per_hour=1_000_000)
    seconds = []
    for number in range(bench.rounds):
        await asyncio.sleep(number * 0.37 % 1)  # at any time between two reads of the notes
        started = time.perf_counter()
        await bench.update("registering", number, track="x")
        await bench.until(
            "SELECT count(*) = 20 FROM jobs.job_executions"
            " WHERE tenant_id = 'registering' AND device_id = $1",
            f"d{number:07}",
        )
        seconds.append(time.perf_counter() - started)
    bench.case.add_percentiles("{} from a registration to its 20 executions", "s", seconds)


async def _join(bench: Bench) -> None:
    """Let 10 % of the devices join, while others want the job lock and another tenant calls."""
    await bench.create("joining", max_joins_per_hour=1_000_000)
    await bench.calls.call(pb.CreateJobRequest(job_id="j", document_type="reboot", **_ALL), "quiet")
    owner = await asyncpg.connect(bench.env.owner_dsn)
    lock = "SELECT FROM jobs.job_progress WHERE tenant_id = 'joining' AND job_id = 'j' FOR UPDATE"
    quiet = pb.GetJobRequest(job_id="j")
    async with (
        _repeating(lambda: owner.execute(lock)) as locks,
        _repeating(lambda: bench.calls.call(quiet, "quiet")) as calls,
    ):
        started = time.perf_counter()
        await _update_many(bench, "joining")
        await bench.until_no_notes("joining")
        seconds = time.perf_counter() - started
    await owner.close()
    if await _joined(bench, "joining") != bench.devices // 10:
        raise InvalidRun("not all devices have joined")
    bench.case.add("joins of 10 % of the devices", "s", seconds)
    bench.case.add("longest wait for the job lock meanwhile", "ms", max(locks))
    bench.case.add_percentiles("{} of waits for the job lock meanwhile", "ms", locks)
    bench.case.add_percentiles("{} of GetJob of another tenant meanwhile", "ms", calls)


async def _brake(bench: Bench) -> None:
    """Set a wrong label of 10 % of the devices."""
    limit = bench.devices // 1000
    await bench.create("braking", max_joins_per_hour=limit)
    await _update_many(bench, "braking")
    await bench.until_no_notes("braking")
    job = (await bench.calls.call(pb.GetJobRequest(job_id="j"), "braking")).job
    if (joined := await _joined(bench, "braking")) != limit or job.pause.cause != pb.Pause.JOINS:
        raise InvalidRun(f"{joined} devices have joined, not {limit}; {job.pause}")
    bench.case.add(f"joins until the brake pauses the job, with a limit of {limit}", "", joined)


async def _change(bench: Bench) -> None:
    """Change devices of tenants with several numbers of jobs, which these devices don't join."""
    tenants = {f"{jobs} continuous jobs": jobs for jobs in (0, 3, 20)}
    for tenant, jobs in tenants.items():
        await seed.add_devices(bench.env.owner, tenant, _UPDATES)
        for number in range(jobs):
            await bench.create(tenant, f"job-{number}")
    costs: dict[str, list[float]] = {tenant: [] for tenant in ("idle", *tenants)}
    for number in range(1 + bench.rounds // 10):
        for tenant, seconds in costs.items():
            before, due = bench.cpu(), time.monotonic() + 4
            for device in range(_UPDATES if tenant in tenants else 0):
                await bench.update(tenant, device, ring=f"r{number}")
            await bench.until_no_notes(tenant)
            await asyncio.sleep(due - time.monotonic())  # the same background work for all
            seconds.append(bench.cpu() - before)
    idle, none, *others = map(statistics.median, costs.values())
    work = "CPU of UpdateDevices of 1 device and its note, {} continuous jobs{}"
    bench.case.add(work.format(0, ""), "ms", 1000 * (none - idle) / _UPDATES)
    for jobs, cost in zip((3, 20), others, strict=True):
        bench.case.add(work.format(jobs, ": times"), "", (cost - idle) / (none - idle))


async def _scan(bench: Bench) -> None:
    """Run full scans that find nothing."""
    await seed.add_devices(bench.env.owner, "scanned", bench.devices)
    await bench.env.owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, labels)"
        " SELECT tenant_id, device_id, jsonb_build_object('track', right(device_id, 1))"
        " FROM public.device_state WHERE tenant_id = 'scanned'"
    )
    await bench.env.vacuum()
    jobs = {"some": ("10 %", {"target_selector": "track=3"}), "all": ("all", _ALL)}
    for job_id, (share, target) in jobs.items():
        await bench.create("scanned", job_id, **target)
        await bench.env.vacuum()
        for _ in range(3):
            before = bench.cpu()
            await bench.env.owner.execute(
                "UPDATE jobs.continuous_jobs SET rescan_at = NULL, scan_due_at = jobs.clock_time()"
                " WHERE tenant_id = 'scanned' AND job_id = $1",
                job_id,
            )
            await bench.until(
                "SELECT scan_after IS NULL AND scan_due_at > jobs.clock_time()"
                " FROM jobs.continuous_jobs WHERE tenant_id = 'scanned' AND job_id = $1",
                job_id,
            )
            name = f"CPU of a full scan, {share} of the devices are in the job"
            bench.case.add(name, "s", bench.cpu() - before)


async def _report(bench: Bench) -> None:
    """Let each device report a fact that has changed, a hundred devices per call."""
    owner = bench.env.owner
    await owner.execute(
        "INSERT INTO jobs.device_facts (tenant_id, device_id, facts, facts_updated_at)"
        ' SELECT tenant_id, device_id, \'{"version": "2.0", "battery": "low"}\', now()'
        " FROM public.device_state WHERE tenant_id = 'scanned'"
    )
    await bench.env.vacuum()
    size = "SELECT pg_total_relation_size('jobs.device_facts')"
    before, cpu, started = await owner.fetchval(size), bench.cpu(), time.monotonic()
    for first in range(0, bench.devices, 100):
        request = device_jobs_pb2.UpdateFactsRequest()
        for number in range(first, first + 100):
            request.devices.add(device_id=f"d{number:07}").facts["version"] = "2.1"
        await bench.calls.call(request, "scanned")
        due = started + bench.seconds * first / bench.devices
        await asyncio.sleep(max(0, due - time.monotonic()))
    microseconds = 1e6 * (bench.cpu() - cpu) / bench.devices
    bench.case.add("CPU per changed fact, 100 devices per call", "µs", microseconds)
    times = await owner.fetchval(size) / before
    bench.case.add("size of the table of facts after all have changed: times", "", times)


async def _update_many(bench: Bench, tenant: str) -> None:
    """Register 10 % of the devices with a label, as many per call as are allowed."""
    count = bench.devices // 10
    for first in range(0, count, 1000):
        await bench.update(tenant, first, min(1000, count - first), track="x")


async def _joined(bench: Bench, tenant: str) -> int:
    sql = "SELECT count(*) FROM jobs.job_executions WHERE tenant_id = $1"
    return int(await bench.env.owner.fetchval(sql, tenant))


@asynccontextmanager
async def _repeating(call: Callable[[], Awaitable[Any]]) -> AsyncIterator[list[float]]:
    """Make calls within the block, a hundred a second; yields how many ms each took."""
    milliseconds: list[float] = []
    is_done = False

    async def repeat() -> None:
        while not is_done:
            started = time.perf_counter()
            await call()
            milliseconds.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(repeat())
        yield milliseconds
        is_done = True


async def _measure(args: argparse.Namespace) -> str:
    results = Results()
    case = Case(results, f"{args.devices:,} devices")
    async with (
        environment() as env,
        env.maintaining_server(JOBS_QUERY_TIMEOUT="120") as server,
        server.calls() as calls,
    ):
        await seed.add_devices(env.owner, "quiet", 10)
        bench = Bench(env, server, calls, case, args.devices, args.rounds, args.seconds)
        for part in (_register, _join, _brake, _change, _scan, _report):
            await part(bench)
        return await env.report(tables_by_case(results, _GOALS))


if __name__ == "__main__":
    run(
        "continuous",
        __doc__,
        _measure,
        Option("devices", 1_000_000, "number of devices", quick=2_000),
        Option("rounds", 40, "registrations of a device", quick=4),
        Option("seconds", 600.0, "seconds in which all devices report new facts", quick=0.1),
    )
