"""Where the CPU of a GetJob goes: servers that do more and more of it, each under full load."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from bench.calls import Call
from bench.environment import Environment, Server
from bench.h2load import load
from bench.measure import DOCUMENT, ECHO, MAPPED, PARTS, SERVICE, Results, Scale, alternate
from bench.workloads.calls import READ, case, get, seed_read


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """layers: microseconds of CPU a call, without PostgreSQL's."""
    await env.empty()
    await seed_read(env)
    await env.settle()
    for tenant in READ:
        await _compare(env, scale, results, tenant)


async def _compare(env: Environment, scale: Scale, results: Results, tenant: str) -> None:
    async with AsyncExitStack() as servers:
        start = servers.enter_async_context
        service, document = await start(env.serving()), await start(env.serving_document())
        ours, theirs = get(service, document, tenant)
        answer = (await ours.once()).body
        echo = await start(env.echoing("GetJob", answer))
        parts = await start(env.parts(tenant, answer))
        mapped = await start(env.parts(tenant, answer, mapping=True))
        subjects = {
            SERVICE: _cpu(ours, service, scale),
            DOCUMENT: _cpu(theirs, document, scale),
            ECHO: _cpu(get(echo, document, tenant)[0], echo, scale),
            PARTS: _cpu(get(parts, document, tenant)[0], parts, scale),
            MAPPED: _cpu(get(mapped, document, tenant)[0], mapped, scale),
        }
        await alternate(results, "layers", case(tenant), "µs", scale.runs, subjects)


def _cpu(call: Call, server: Server, scale: Scale) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        return (await load(call, seconds=scale.seconds, busy=server.busy)).cpu * 1e6

    return measure
