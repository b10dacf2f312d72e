"""Attack a server and a gateway in many ways and measure memory and another tenant's latency.

Each attack runs against a process of its own for a few seconds, while another tenant calls from
its own process. Prints, for each attack, the peak memory, the bytes that the processes log, the
other tenant's latency and errors, and whether they are within the bounds. Linux only.
"""

import argparse
import asyncio
import json
import shutil
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, environment
from bench.figures import Results
from bench.hostile import report, tokens
from bench.hostile.attacks import ATTACKS, Attack
from bench.hostile.fleet_attacks import FLEET_TENANT, GROUPS_TENANT, HOOK_PORT
from bench.hostile.grpc_attacks import LARGE_JOB_TENANTS
from bench.hostile.other_tenant import TENANT, other_tenant_calls
from bench.process import Server, free_address, python, read_line, server
from bench.run import InvalidRun, Option, run
from tests.gateway.support import build_gateway
from tests.support.webhooks import loopback_settings, write_keys

# Seconds that watches have to receive a state after the server is back.
_RECOVERY_SECONDS = 6

_DEVICES = {"attacker": 5000, TENANT: 10} | dict.fromkeys(LARGE_JOB_TENANTS, 1)


async def _measure_all(args: argparse.Namespace) -> str:
    if args.list:
        return "\n".join(f"{attack.name}: {attack.description}" for attack in ATTACKS.values())
    names = list(args.only or ATTACKS)
    if unknown := set(names) - ATTACKS.keys():
        raise InvalidRun(f"unknown attacks: {', '.join(sorted(unknown))}")
    if args.page and args.only:
        raise InvalidRun("--page needs all attacks")
    gateway = None
    if any(ATTACKS[name].on_gateway for name in names) and shutil.which("go"):
        gateway = build_gateway()
    results = Results()
    async with environment(settings=()) as env:
        await _create_jobs(env)
        if any(ATTACKS[name].with_fleet for name in names):
            await _create_fleet(env, args.fleet)
        for number, name in enumerate(names, 1):
            attack = ATTACKS[name]
            if attack.on_gateway and gateway is None:
                print(f"{number}/{len(names)} {name}: skipped, because Go is missing", flush=True)
                continue
            print(f"{number}/{len(names)} {name} …", flush=True)
            await _measure(env, attack, gateway, args.seconds, results)
            print(f"  {report.summarize(results, name)}", flush=True)
        return await env.report(*report.render(results))


async def _create_jobs(env: Environment) -> None:
    """Create the tenants, each with a job for all its devices."""
    for tenant, devices in _DEVICES.items():
        await seed.add_devices(env.owner, tenant, devices)
        await seed.add_job(env.owner, tenant, "j")


async def _create_fleet(env: Environment, devices: int) -> None:
    """Create the tenant with the large fleet, and that with many groups."""
    await seed.add_devices(env.owner, FLEET_TENANT, devices)
    await env.owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, labels)"
        " SELECT d.tenant_id, d.device_id, jsonb_build_object('key-0', 'a', 'key-1', 'b',"
        " 'key-2', 'c', 'key-3', right(d.device_id, 2)) FROM device_state d WHERE d.tenant_id = $1",
        FLEET_TENANT,
    )
    await seed.add_devices(env.owner, GROUPS_TENANT, 400)
    await env.owner.execute(
        "INSERT INTO device_group_members (tenant_id, group_id, device_id)"
        " SELECT d.tenant_id, 'g' || n, d.device_id FROM device_state d, generate_series(1, 1000) n"
        " WHERE d.tenant_id = $1",
        GROUPS_TENANT,
    )


async def _measure(
    env: Environment, attack: Attack, gateway: Path | None, seconds: float, results: Results
) -> None:
    name = attack.name
    variables = tokens.server_variables(env.folder) if attack.with_tokens else {}
    if attack.webhook_figure:
        keys = write_keys(env.folder / "webhooks.keys", "k1")
        variables["JOBS_OWNER_DATABASE_URL"] = env.owner_dsn
        variables |= loopback_settings(keys, HOOK_PORT)
    address = free_address()

    def serve() -> AbstractAsyncContextManager[Server]:
        # Attackers could delay the shutdown of SIGTERM.
        return env.server(
            address=address,
            open_files=attack.open_files,
            kill=True,
            JOBS_LOG_LEVEL="INFO",
            **variables,
        )

    async with AsyncExitStack() as stack:
        away = await stack.enter_async_context(AsyncExitStack())
        served = await away.enter_async_context(serve())
        if not attack.with_tokens:
            await _use_connections(served)
        attacked = served
        if gateway and attack.on_gateway:
            attacked = await stack.enter_async_context(_gateway(env, gateway, address))
        async with other_tenant_calls(attacked.address, *_options(attack)) as calls:
            if attack.server_away:
                await away.aclose()
            started, log_bytes = time.monotonic(), env.log.stat().st_size
            attacker = await stack.enter_async_context(
                python("bench.hostile.attacker", name, attacked.address, kill=True)
            )
            await asyncio.sleep(seconds)
            if attack.server_away:
                served = await away.enter_async_context(serve())
                await asyncio.sleep(_RECOVERY_SECONDS)
            log_rate = (env.log.stat().st_size - log_bytes) / (time.monotonic() - started)
        results.add(report.WORKLOAD, name, "log", "kB/s", log_rate / 1000)
        if attacker.returncode is not None:
            raise InvalidRun(f"the attack {name} failed")
        if attack.webhook_figure:
            attacker.terminate()
            posts, waits = json.loads(await read_line(attacker))
            if attack.webhook_figure == "posts" and posts:
                rate = report.most_per_second(posts)
                results.add(report.WORKLOAD, name, "posts", "POST/s", rate)
            if waits:
                results.add(report.WORKLOAD, name, "new webhook", "s", waits[0])
        if attack.on_gateway:
            results.add(report.WORKLOAD, name, "gateway", "MiB", attacked.peak_mib())
        results.add(report.WORKLOAD, name, "server", "MiB", served.peak_mib())
    report.add_calls(results, name, [call for call in calls if call[0] >= started])


async def _use_connections(server: Server) -> None:
    """Open connections to the database, and let each serve a GetJob.

    That takes 26 ms of CPU time for each, and an attack on a new server would open eight at once.
    """
    async with server.calls() as calls:
        request = pb.GetJobRequest(job_id="j")
        tenants = ("attacker", TENANT) * 20
        await asyncio.gather(*(calls.call(request, tenant) for tenant in tenants))


def _gateway(env: Environment, binary: Path, upstream: str) -> AbstractAsyncContextManager[Server]:
    """Run the gateway in front of a server."""
    address = free_address()
    return server(
        binary,
        address=address,
        log=env.log,
        kill=True,
        JOBS_GATEWAY_UPSTREAM=upstream,
        JOBS_GATEWAY_LISTEN=address,
        JOBS_GATEWAY_LOG_LEVEL="INFO",
    )


def _options(attack: Attack) -> list[str]:
    options = ["gateway"] if attack.on_gateway else []
    # New clients are what a lack of open files affects.
    options += ["reconnect"] if attack.open_files else []
    options += ["tokens"] if attack.with_tokens else []
    return [*options, attack.other_tenant]


if __name__ == "__main__":
    run(
        "hostile",
        __doc__,
        _measure_all,
        Option("only", (), "names of the attacks to run"),
        Option("list", False, "list the attacks"),
        Option("seconds", 6.0, "seconds per attack", quick=1.0),
        Option("fleet", 1_000_000, "devices of the tenant that selectors read", quick=1_000),
    )
