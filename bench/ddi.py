"""Measure what devices with a client of hawkBit cost behind examples/ddi_bridge.py.

Run by `make bench-ddi`. Each device polls, reads its deployment and sends 23 reports while it
carries it out, all devices at the same time. The figures are the use of cores by the bridge, the
server and PostgreSQL, and how often the execution of a device is written. Needs Linux.
"""

import argparse
import asyncio
import random
import sys
from contextlib import AsyncExitStack
from typing import Any

import aiohttp

from bench import seed
from bench.environment import Environment, environment
from bench.page import table
from bench.process import cpu_seconds, cpu_shares, free_address, server
from bench.requests import TENANT
from bench.run import InvalidRun, Option, Report, run
from examples.ddi_bridge import REPORT_INTERVAL, target_token

_KEY = "key"
_REPORTS = 23
_CHUNK = (
    '{"part": "os", "name": "firmware", "version": "2.1", "artifacts": [{"filename": "f.swu",'
    ' "size": 1048576, "hashes": {"sha1": "0"}, "url": "https://artifacts.example.com/f.swu"}]}'
)


async def _carry_out(http: aiohttp.ClientSession, device: str, seconds: float) -> None:
    """Carry out an update that takes `seconds`."""
    headers = {"Authorization": f"TargetToken {target_token(_KEY, device)}"}

    async def send(method: str, url: str, json: Any = None) -> Any:
        while True:
            async with http.request(method, url, headers=headers, json=json) as response:
                if response.status == 200:
                    return await response.json() if response.content_length else {}
                if response.status != 429:
                    raise InvalidRun(f"{method} {url} returned {response.status}")
            await asyncio.sleep(1)

    await asyncio.sleep(random.uniform(0, seconds / _REPORTS))  # noqa: S311 - not for security
    polled = await send("GET", f"/{TENANT}/controller/v1/{device}")
    link = polled["_links"]["deploymentBase"]["href"]
    await send("GET", link)
    for number in range(1, _REPORTS + 1):
        await asyncio.sleep(seconds / _REPORTS)
        execution, finished = ("proceeding", "none") if number < _REPORTS else ("closed", "success")
        details = [f"step {number} of {_REPORTS}"]
        status = {"execution": execution, "result": {"finished": finished}, "details": details}
        await send("POST", f"{link}/feedback", json={"id": link[-1], "status": status})


async def _measure(args: argparse.Namespace) -> Report:
    async with environment() as env, AsyncExitStack() as stack:
        await seed.add_devices(env.owner, TENANT, args.devices)
        await env.owner.fetch(
            "SELECT * FROM jobs.create_job($1, 'j', $2, $3, NULL, 2000000, NULL, 24)",
            TENANT,
            '{"document_type": "ddi", "target_all": true}',
            f'{{"chunks": [{_CHUNK}]}}',
        )
        await env.vacuum()
        grpc = await stack.enter_async_context(env.server())
        (keys := env.folder / "keys.toml").write_text(f'[{TENANT}]\ntarget_key = "{_KEY}"\n')
        listen = free_address()
        command = (sys.executable, "examples/ddi_bridge.py", grpc.address, keys, listen)
        bridge = await stack.enter_async_context(
            server(*command, address=listen, log=env.log, open_files=args.devices + 1000)
        )
        connector = aiohttp.TCPConnector(limit=0)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://{listen}", connector=connector)
        )
        ids = [f"d{n:07}" for n in range(args.devices)]
        devices = asyncio.gather(*(_carry_out(http, each, args.seconds) for each in ids))
        shares = await cpu_shares(
            args.seconds,
            bridge=lambda: cpu_seconds([bridge.process.pid]),
            server=lambda: cpu_seconds([grpc.process.pid]),
            PostgreSQL=env.postgres_cpu_time,
        )
        await devices
        return await _report(env, args, shares)


async def _report(env: Environment, args: argparse.Namespace, shares: dict[str, float]) -> Report:
    # A version is the first one, the start, the end, or a report of progress.
    (row,) = await env.owner.fetch(
        "SELECT count(*) FILTER (WHERE status = 'SUCCEEDED') AS succeeded,"
        " max(version) - 3 AS most, avg(version) - 3 AS mean FROM jobs.job_executions"
    )
    allowed = int(args.seconds / REPORT_INTERVAL) + 1
    problems = []
    if row["succeeded"] != args.devices:
        problems.append(f"{row['succeeded']} of {args.devices} devices have succeeded")
    if row["most"] > allowed:
        problems.append(f"{row['most']} reports of progress were stored, not {allowed}")
    if shares["bridge"] > 100:
        problems.append(f"the bridge used {shares['bridge']:.0f} % of a core")
    head = ("devices", "seconds", *(f"{name}, % of a core" for name in shares), "stored progress")
    stored = f"{row['mean']:.1f}, at most {row['most']} of {_REPORTS - 1}"
    use = (f"{share:.0f}" for share in shares.values())
    text = table(head, [[f"{args.devices:,}", f"{args.seconds}", *use, stored]])
    return Report(await env.report(text), problems)


if __name__ == "__main__":
    run(
        "ddi",
        __doc__,
        _measure,
        Option("devices", 1000, "devices that carry out an update", quick=20),
        Option("seconds", 60, "seconds that an update takes", quick=3),
    )
