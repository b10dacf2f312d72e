"""Measure the operator console: how soon it shows a list and a large job, its memory, and its cost.

Run by `make bench-console`. A headless Chromium opens the pages, each time in a new window without
a cache. For the cost at rest, the requests of an open page are recorded, and clients repeat them:
fifty windows of a browser would use the cores that are measured. Nothing changes meanwhile.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import psutil
from fleet.jobs.v1 import jobs_pb2 as pb
from playwright.async_api import Browser, async_playwright

from bench import seed
from bench.console_clients import Recording, record, replaying
from bench.environment import Environment, environment
from bench.figures import SERVICE, Results, tables_by_case
from bench.process import Server, cpu_shares
from bench.requests import TENANT
from bench.run import InvalidRun, Option, run
from jobs_grpc.db.store import ExecutionUpdate
from tests.console.browser import open_console, renderer_memory
from tests.console.large_job import open_job, read_pages
from tests.gateway.browser import find_browser
from tests.gateway.support import Gateway, build_gateway, running_gateway
from tests.support.database import store_on

_LIST, _LARGE_JOB, _AT_REST = "the list of 50 jobs", "a large job", "consoles at rest"
_LARGE = "large"
# Each has devices in all states, and 50 of its devices have failed.
_JOBS = [f"job-{number:02}" for number in range(60)]
_JOB_DEVICES = 1_000
_UPDATED = 100
_PAGES = 20

_FIRST_PAINT = """
new Promise((resolve) => new PerformanceObserver((list) => {
  for (const entry of list.getEntriesByName("first-contentful-paint")) resolve(entry.startTime);
}).observe({ type: "paint", buffered: true }))
"""

_COST = "server, gateway and PostgreSQL, added by the consoles"

# The largest figures that are good enough.
_GOALS = {
    "from the navigation to the painted rows": 300.0,
    "from the response with the rows to the painted rows": 1000.0,
    f"memory of the tab after {_PAGES} pages": 150.0,
    _COST: 5.0,
}


@dataclass(frozen=True)
class Bench:
    """What runs, and the figures."""

    env: Environment
    server: Server
    gateway: Gateway
    browser: Browser
    args: argparse.Namespace
    results: Results

    def add(self, work: str, case: str, unit: str, value: float) -> None:
        """Add a figure."""
        self.results.add(work, case, SERVICE, unit, value)

    async def cpu_shares(self) -> dict[str, float]:
        """Return the percentage of a core that each part uses for some seconds."""
        gateway = psutil.Process(self.gateway.process.pid)
        return await cpu_shares(
            self.args.seconds,
            server=self.server.cpu_time,
            gateway=lambda: sum(gateway.cpu_times()[:2]),
            PostgreSQL=self.env.postgres_cpu_time,
        )


async def _fill(env: Environment, devices: int) -> None:
    """Insert the devices, a job for all of them, and the jobs of the list."""
    await seed.add_devices(env.owner, TENANT, devices)
    await env.owner.execute(
        "INSERT INTO device_group_members (tenant_id, group_id, device_id)"
        " SELECT tenant_id, 'some', device_id FROM device_state ORDER BY device_id LIMIT $1",
        _JOB_DEVICES,
    )
    connection = await asyncpg.connect(env.dsn)
    store = store_on(connection)
    stages = [pb.Stage(percent=1), pb.Stage(percent=10), pb.Stage(remainder=True)]
    requests = [
        pb.CreateJobRequest(job_id=_LARGE, target_all=True, rollout=pb.Rollout(stages=stages)),
        *(pb.CreateJobRequest(job_id=job_id, target_group_id="some") for job_id in _JOBS),
    ]
    for request in requests:
        request.document_type, job_id = "firmware", request.job_id
        await seed.create_job(store, TENANT, request, '{"version": "2.1"}')
        rows = await env.owner.fetch(
            "SELECT device_id FROM jobs.job_executions WHERE tenant_id = $1 AND job_id = $2"
            " AND coalesce(stage, 0) = 0 ORDER BY device_id LIMIT $3",
            TENANT,
            job_id,
            _UPDATED,
        )
        names = [row["device_id"] for row in rows]
        for updates in (
            [ExecutionUpdate(job_id, name, None) for name in names],
            [
                ExecutionUpdate(job_id, name, "FAILED", failure_code=f"CODE_{number % 3}")
                for number, name in enumerate(names[: len(names) // 2])
            ],
        ):
            for row in await store.update_executions(TENANT, updates, wait_ms=60_000):
                if row["outcome"] != "APPLIED":
                    raise InvalidRun(f"an update of {job_id} was not applied")
    await connection.close()
    await env.vacuum()


async def _measure_list(bench: Bench) -> None:
    for _ in range(bench.args.rounds):
        async with open_console(bench.browser, bench.gateway.url, tenant=TENANT) as console:
            await console.await_elements(".jobs tbody tr", 50)
            await console.open("/jobs")
            painted = await console.painted_at()
            first = await console.page.evaluate(_FIRST_PAINT)
            bench.add("first contentful paint", _LIST, "ms", first)
            bench.add("from the navigation to the painted rows", _LIST, "ms", painted)


async def _measure_large_job(bench: Bench) -> None:
    case = f"{_LARGE_JOB}: {bench.args.devices:,} devices"
    for number in range(bench.args.rounds):
        async with open_console(bench.browser, bench.gateway.url, tenant=TENANT) as console:
            response, painted = await open_job(console, _LARGE)
            bench.add("from the navigation to the usable page", case, "ms", painted)
            name = "from the response with the rows to the painted rows"
            bench.add(name, case, "ms", painted - response)
            if number == 0:
                await read_pages(console.page, _PAGES)
                memory = await renderer_memory(bench.browser)
                bench.add(f"memory of the tab after {_PAGES} pages", case, "MiB", memory / 2**20)
                heap: int = await console.page.evaluate("performance.memory.usedJSHeapSize")
                bench.add("JavaScript heap, part of this memory", case, "MiB", heap / 2**20)


async def _measure_rest(bench: Bench) -> None:
    scale = bench.args
    pages = {"lists": "/jobs", "job pages": f"/jobs/{_JOBS[0]}"}
    recorded = await asyncio.gather(
        *(
            record(bench.browser, bench.gateway.url, TENANT, path, scale.settle, scale.recorded)
            for path in pages.values()
        )
    )
    lists, jobs = recorded
    for name, recording in zip(pages, recorded, strict=True):
        for path, count in recording.counts().items():
            bench.add(f"{name}: {path}", _AT_REST, "per minute", 60 * count / recording.seconds)
        if not (recording.requests or recording.streams):
            raise InvalidRun(f"the page {name} neither polls nor watches")
    half = scale.consoles // 2
    none = await _measure_cpu(bench, [])
    for part, percent in none.items():
        bench.add(f"{part}, without consoles", _AT_REST, "%", percent)
    for case, consoles in (
        (f"{scale.consoles} lists", [lists] * scale.consoles),
        (f"{scale.consoles} job pages", [jobs] * scale.consoles),
        (f"{half} lists and {half} job pages", [lists] * half + [jobs] * half),
    ):
        cpu = await _measure_cpu(bench, consoles)
        for part, percent in cpu.items():
            bench.add(f"{part}, added by the consoles", case, "%", percent - none[part])
        bench.add(_COST, case, "%", sum(cpu.values()) - sum(none.values()))


async def _measure_cpu(bench: Bench, recordings: list[Recording]) -> dict[str, float]:
    """Return the percentage of a core that each part uses while consoles are open."""
    # Each console shows a job of its own.
    consoles = [
        recording.with_path(_JOBS[0], _JOBS[number % len(_JOBS)])
        for number, recording in enumerate(recordings)
    ]
    async with replaying(bench.gateway.url, consoles):
        await asyncio.sleep(bench.args.settle / 4)
        return await bench.cpu_shares()


@asynccontextmanager
async def _running(
    env: Environment, args: argparse.Namespace, results: Results
) -> AsyncIterator[Bench]:
    executable = find_browser()
    if executable is None:
        raise InvalidRun("Chromium is not installed")
    async with (
        env.server() as server,
        running_gateway(build_gateway(), server.address) as gateway,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(
            executable_path=executable,
            # The figures of performance.memory are rounded otherwise.
            args=["--no-sandbox", "--enable-precise-memory-info"],
        )
        yield Bench(env, server, gateway, browser, args, results)
        await browser.close()


async def _measure(args: argparse.Namespace) -> str:
    results = Results()
    async with environment() as env:
        await _fill(env, args.devices)
        async with _running(env, args, results) as bench:
            facts = {"chromium": bench.browser.version}
            # The first calls of a server prepare statements.
            async with open_console(bench.browser, bench.gateway.url, tenant=TENANT) as console:
                await console.await_elements(".jobs tbody tr", 50)
                await console.open("/jobs")
                await console.painted_at()
            facts["load before"] = f"{os.getloadavg()[0]:.1f}"
            await _measure_list(bench)
            await _measure_large_job(bench)
            await _measure_rest(bench)
        return await env.report(tables_by_case(results, _GOALS), **facts)


if __name__ == "__main__":
    run(
        "console",
        __doc__,
        _measure,
        Option("devices", 1_000_000, "devices of the large job", quick=2_500),
        Option("rounds", 10, "times that each page is opened", quick=1),
        Option("consoles", 50, "consoles at rest", quick=4),
        Option("settle", 45.0, "seconds after which a page polls as rarely as it will", quick=1.0),
        Option("recorded", 60.0, "seconds of the recording that clients repeat", quick=5.0),
        Option("seconds", 60.0, "seconds for which the cost is measured", quick=1.0),
    )
