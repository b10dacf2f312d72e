"""One hot job of more and more devices, a call each.

The document's design counts, after each update, what remains of the job. It is given 32
connections and no service around it.
"""

import itertools
from collections.abc import Sequence
from functools import partial

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.calls import DEVICES, Void, rpc
from bench.environment import Environment, Server
from bench.h2load import together
from bench.measure import DOCUMENT, SERVICE, Results, Scale, alternate
from bench.workloads.reports import one_by_one

_CALLERS = 16

# The million would only take long.
_LARGEST = 100_000

# Versions and moments in an answer.
_VARIES = 16


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """update: a second, of a device for each caller, and of one and the same."""
    await env.empty()
    sizes = [size for size in scale.sizes if size <= _LARGEST]
    for size in sizes:
        await seed.fleet(env, str(size), size)
        await seed.job(env, str(size), "j")
    await env.settle()
    names = [f"d{number:07}" for number in range(_CALLERS)]
    async with env.serving() as service:
        for size in sizes:
            case = f"{_CALLERS} devices of {size:,}"
            await _compare(env, scale, results, service, str(size), names, case)
        await _compare(
            env, scale, results, service, str(sizes[-1]), names[:1], f"one device of {sizes[-1]:,}"
        )


async def _compare(
    env: Environment,
    scale: Scale,
    results: Results,
    service: Server,
    tenant: str,
    names: Sequence[str],
    case: str,
) -> None:
    subjects = {
        SERVICE: partial(_ours, env, service, tenant, names, scale.reports // 4),
        DOCUMENT: partial(one_by_one, env, tenant, "j", max(100, scale.reports // 50), names),
    }
    await alternate(results, "update", case, "/s", scale.runs, subjects)


async def _ours(
    env: Environment, server: Server, tenant: str, names: Sequence[str], updates: int
) -> float:
    request = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    callers = [
        rpc(server.address, "UpdateExecution", request, tenant=tenant, device=name, service=DEVICES)
        for name in itertools.islice(itertools.cycle(names), _CALLERS)
    ]
    like = (await callers[0].once()).body
    each = updates // _CALLERS
    for calls in (max(1, each // 2), each):  # To warm up first.
        before = await _versions(env, tenant)
        seconds = await together(
            [[caller] * calls for caller in callers],
            answers=calls * _CALLERS,
            like=like,
            varies=_VARIES,
        )
        # Sizes alone would not tell a few errors among many answers.
        if (applied := await _versions(env, tenant) - before) != calls * _CALLERS:
            raise Void(f"of {calls * _CALLERS} updates {applied} were applied")
    return each * _CALLERS / seconds


async def _versions(env: Environment, tenant: str) -> int:
    """Goes up by one with each update."""
    total: int = await env.service.fetchval(
        "SELECT sum(version) FROM jobs.job_executions WHERE tenant_id = $1", tenant
    )
    return total
