"""Updates per second for one job of growing size, one unary call per update.

The reference design counts, after each update, the job's executions that are not finished. Its
statements run on 32 connections, without a FastAPI service around them.
"""

import itertools
from collections.abc import Sequence
from functools import partial

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.h2load import run_clients
from bench.peers import Peers
from bench.process import Server
from bench.requests import DEVICE_JOB_SERVICE, grpc_call
from bench.run import InvalidRun
from bench.workloads import Bench
from bench.workloads.reports import run_reference_statements

_CALLERS = 16

# Larger jobs take too long in the reference design.
_MAX_DEVICES = 100_000

# Versions and timestamps in a response differ in length by some bytes.
_SIZE_TOLERANCE = 16


async def run(bench: Bench) -> None:
    """Measure update, in updates per second: one device per caller, and one device for all."""
    env, scale = bench.env, bench.scale
    await env.clear()
    sizes = [size for size in scale.job_sizes if size <= _MAX_DEVICES]
    for size in sizes:
        await seed.insert_devices(env, str(size), size)
        await seed.insert_job(env, str(size), "j")
    await env.vacuum()
    devices = [f"d{number:07}" for number in range(_CALLERS)]
    cases = [(f"{_CALLERS} devices of a job of {size:,}", str(size), devices) for size in sizes]
    cases.append((f"one device of a job of {sizes[-1]:,}", str(sizes[-1]), devices[:1]))
    async with env.server() as service:
        for case, tenant, names in cases:
            reference = max(100, scale.reports // 50)
            await bench.in_turn(
                "update",
                case,
                "/s",
                service=partial(_run_updates, env, service, tenant, names, scale.reports // 4),
                fastapi=partial(run_reference_statements, env, tenant, "j", reference, names),
            )


async def _run_updates(
    env: Peers, server: Server, tenant: str, device_ids: Sequence[str], updates: int
) -> float:
    request = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    callers = [
        grpc_call(
            server.address,
            "UpdateExecution",
            request,
            tenant=tenant,
            device=name,
            service=DEVICE_JOB_SERVICE,
        )
        for name in itertools.islice(itertools.cycle(device_ids), _CALLERS)
    ]
    sample_response = (await callers[0].send()).body
    calls_per_caller = updates // _CALLERS
    for calls in (max(1, calls_per_caller // 2), calls_per_caller):  # the first is a warm-up
        before = await _count_updates(env, tenant)
        seconds = await run_clients(
            [[caller] * calls for caller in callers],
            responses=calls * _CALLERS,
            sample_response=sample_response,
            size_tolerance=_SIZE_TOLERANCE,
        )
        # Response sizes do not show a few errors.
        if (applied := await _count_updates(env, tenant) - before) != calls * _CALLERS:
            raise InvalidRun(f"{applied} of {calls * _CALLERS} updates were applied")
    return calls_per_caller * _CALLERS / seconds


async def _count_updates(env: Peers, tenant: str) -> int:
    """Return the sum of all versions; each update adds one."""
    sql = "SELECT sum(version) FROM jobs.job_executions WHERE tenant_id = $1"
    return int(await env.owner.fetchval(sql, tenant))
