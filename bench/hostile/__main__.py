"""Attack a server and a gateway in many ways and measure memory and another tenant's latency.

Each attack runs against a process of its own for a few seconds, while another tenant calls from
its own process. Prints, for each attack, the peak memory, the bytes that the processes log, the
other tenant's latency and errors, and whether they are within the bounds. Linux only.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc

from bench import page, seed
from bench.environment import free_address
from bench.figures import Results
from bench.hostile import report, tokens
from bench.hostile.attacks import ATTACKS, Attack
from bench.hostile.fleet_attacks import FLEET_TENANT, GROUPS_TENANT, HOOK_PORT
from bench.hostile.grpc_attacks import LARGE_JOB_TENANTS
from bench.hostile.other_tenant import TENANT
from bench.hostile.processes import Installation, ProcessFailed, client, peak_mib
from bench.machine import describe_commit, describe_machine
from bench.postgres import running_postgres, temporary_folder
from tests.support.webhooks import loopback_settings, write_keys

_ROOT = Path(__file__).parents[2]

# Seconds that watches have to receive a state after the server is back.
_RECOVERY_SECONDS = 6

_DEVICES = {"attacker": 5000, TENANT: 10} | dict.fromkeys(LARGE_JOB_TENANTS, 1)


def main() -> None:
    """Run the attacks and print a table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.hostile", description=__doc__)
    parser.add_argument("--only", choices=ATTACKS, nargs="+", metavar="NAME", help="run only these")
    parser.add_argument("--list", action="store_true", help="list the attacks")
    parser.add_argument("--seconds", type=float, default=6, help="seconds per attack [6]")
    parser.add_argument(
        "--fleet",
        type=int,
        default=1_000_000,
        metavar="DEVICES",
        help="devices of the tenant that selectors read [1,000,000]",
    )
    parser.add_argument(
        "--checkout",
        type=Path,
        default=_ROOT,
        metavar="DIR",
        help="attack the code of another checkout",
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="write the table to bench/results/hostile.md; not with --only and --checkout",
    )
    args = parser.parse_args()
    if args.page and (args.only or args.checkout != _ROOT):
        parser.error("--page needs all attacks on this checkout")
    if args.list:
        for attack in ATTACKS.values():
            print(f"{attack.name}: {attack.description}")
        return
    checkout = args.checkout.resolve()
    try:
        results, machine = asyncio.run(
            _run(checkout, args.only or list(ATTACKS), args.seconds, args.fleet)
        )
    except ProcessFailed as e:
        sys.exit(str(e))
    except KeyboardInterrupt:
        sys.exit(130)
    text = report.render(results, machine)
    print(f"\n{text}")
    if args.page:
        page.replace_figures(page.RESULTS / "hostile.md", text)


async def _run(
    checkout: Path, names: Sequence[str], seconds: float, fleet: int
) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with _targets(
        checkout, with_gateway=any(ATTACKS[n].on_gateway for n in names)
    ) as targets:
        if any(ATTACKS[name].with_fleet for name in names):
            await _create_fleet(targets, fleet)
        for number, name in enumerate(names, 1):
            attack = ATTACKS[name]
            if attack.on_gateway and targets.gateway is None:
                print(f"{number}/{len(names)} {name}: skipped, because Go is missing", flush=True)
                continue
            print(f"{number}/{len(names)} {name} …", flush=True)
            await _measure(targets, attack, seconds, results)
            print(f"  {report.summarize(results, name)}", flush=True)
        owner = await asyncpg.connect(targets.owner_dsn)
        machine = await describe_machine(owner)
        await owner.close()
    return results, machine | {"commit": describe_commit(checkout)}


@dataclass(frozen=True)
class _Targets:
    installation: Installation
    owner_dsn: str
    request_dsn: str
    gateway: Path | None
    """The binary, or None without Go."""


@asynccontextmanager
async def _targets(checkout: Path, *, with_gateway: bool) -> AsyncIterator[_Targets]:
    """Run PostgreSQL with the schema of the checkout, and build its gateway."""
    with temporary_folder() as folder:
        installation = Installation(checkout, folder)
        gateway = await installation.build_gateway() if with_gateway else None
        with running_postgres(folder / "data") as cluster:
            first = await asyncpg.connect(cluster.dsn("postgres"))
            await first.execute("CREATE DATABASE jobs")
            await first.close()
            owner_dsn, request_dsn = cluster.dsn("jobs"), cluster.dsn("jobs", "bench_request")
            await installation.migrate(owner_dsn, request_dsn)
            targets = _Targets(installation, owner_dsn, request_dsn, gateway)
            await _create_jobs(targets)
            yield targets


async def _create_jobs(targets: _Targets) -> None:
    """Create the tenants, each with a job for all its devices."""
    owner = await asyncpg.connect(targets.owner_dsn)
    for tenant, devices in _DEVICES.items():
        await seed.add_devices(owner, tenant, devices)
    await owner.close()
    async with (
        targets.installation.server(targets.request_dsn) as (address, _),
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        for tenant in _DEVICES:
            request = pb.CreateJobRequest(job_id="j", document_type="bench", target_all=True)
            await stub.CreateJob(request, metadata=(("x-tenant-id", tenant),))


async def _create_fleet(targets: _Targets, devices: int) -> None:
    """Create the tenant with the large fleet, and that with many groups."""
    owner = await asyncpg.connect(targets.owner_dsn)
    await seed.add_devices(owner, FLEET_TENANT, devices)
    await owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, labels)"
        " SELECT d.tenant_id, d.device_id, jsonb_build_object('key-0', 'a', 'key-1', 'b',"
        " 'key-2', 'c', 'key-3', right(d.device_id, 2)) FROM device_state d WHERE d.tenant_id = $1",
        FLEET_TENANT,
    )
    await seed.add_devices(owner, GROUPS_TENANT, 400)
    await owner.execute(
        "INSERT INTO device_group_members (tenant_id, group_id, device_id)"
        " SELECT d.tenant_id, 'g' || n, d.device_id FROM device_state d, generate_series(1, 1000) n"
        " WHERE d.tenant_id = $1",
        GROUPS_TENANT,
    )
    await owner.close()


async def _measure(targets: _Targets, attack: Attack, seconds: float, results: Results) -> None:
    installation, name = targets.installation, attack.name
    variables = tokens.server_variables(installation.folder) if attack.with_tokens else {}
    if attack.webhook_figure:
        variables |= _webhook_variables(targets)
    address = free_address()

    def serve() -> AbstractAsyncContextManager[tuple[str, int]]:
        return installation.server(targets.request_dsn, attack.open_files, address, **variables)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        _, server_pid = await server.enter_async_context(serve())
        attacked = address
        if attack.on_gateway:
            assert targets.gateway
            attacked, gateway_pid = await stack.enter_async_context(
                installation.gateway(targets.gateway, address)
            )
        other_tenant = await stack.enter_async_context(
            client("other_tenant", attacked, *_options(attack))
        )
        if attack.server_away:
            await server.aclose()
        started, log_bytes = time.monotonic(), installation.log_bytes
        attacker = await stack.enter_async_context(client("attacker", name, attacked))
        await asyncio.sleep(seconds)
        if attack.server_away:
            _, server_pid = await server.enter_async_context(serve())
            await asyncio.sleep(_RECOVERY_SECONDS)
        log_rate = (installation.log_bytes - log_bytes) / (time.monotonic() - started)
        results.add(report.WORKLOAD, name, "log", "kB/s", log_rate / 1000)
        other_tenant.terminate()
        assert other_tenant.stdout
        calls: list[report.Call] = json.loads(await other_tenant.stdout.readline())
        await other_tenant.wait()
        if attacker.returncode is not None:
            raise ProcessFailed(f"the attack {name} failed")
        if attack.webhook_figure:
            attacker.terminate()
            assert attacker.stdout
            posts, waits = json.loads(await attacker.stdout.readline())
            if attack.webhook_figure == "posts" and posts:
                rate = report.most_per_second(posts)
                results.add(report.WORKLOAD, name, "posts", "POST/s", rate)
            if waits:
                results.add(report.WORKLOAD, name, "new webhook", "s", waits[0])
        if attack.on_gateway:
            results.add(report.WORKLOAD, name, "gateway", "MiB", peak_mib(gateway_pid))
        results.add(report.WORKLOAD, name, "server", "MiB", peak_mib(server_pid))
    report.add_calls(results, name, [call for call in calls if call[0] >= started])


def _webhook_variables(targets: _Targets) -> dict[str, str]:
    """Return the variables of a server that sends webhooks to the attacker."""
    keys = write_keys(targets.installation.folder / "webhooks.keys", "k1")
    return {"JOBS_OWNER_DATABASE_URL": targets.owner_dsn, **loopback_settings(keys, HOOK_PORT)}


def _options(attack: Attack) -> list[str]:
    options = ["gateway"] if attack.on_gateway else []
    # New clients are what a lack of open files affects.
    options += ["reconnect"] if attack.open_files else []
    options += ["tokens"] if attack.with_tokens else []
    return [*options, attack.other_tenant]


if __name__ == "__main__":
    main()
