"""CPU of GetJob in a series of servers, each doing more than the one before, under full load."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from bench.environment import Environment, Server
from bench.figures import CONVERTING, ECHO, FASTAPI, MINIMAL, SERVICE, Results, Scale, alternate
from bench.h2load import run_load
from bench.requests import Call
from bench.workloads.throughput import READ, case, get, seed_read


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """Measure cpu: microseconds per call, without the CPU of PostgreSQL."""
    await env.clear()
    await seed_read(env)
    await env.vacuum()
    for tenant in READ:
        await _compare(env, scale, results, tenant)


async def _compare(env: Environment, scale: Scale, results: Results, tenant: str) -> None:
    async with AsyncExitStack() as servers:
        start = servers.enter_async_context
        service, fastapi = await start(env.service_server()), await start(env.fastapi_server())
        service_call, fastapi_call = get(service, fastapi, tenant)
        response = (await service_call.send()).body
        echo = await start(env.echo_server("GetJob", response))
        minimal = await start(env.minimal_server(tenant, response))
        converting = await start(env.minimal_server(tenant, response, convert=True))
        subjects = {
            SERVICE: _cpu(service_call, service, scale),
            FASTAPI: _cpu(fastapi_call, fastapi, scale),
            ECHO: _cpu(get(echo, fastapi, tenant)[0], echo, scale),
            MINIMAL: _cpu(get(minimal, fastapi, tenant)[0], minimal, scale),
            CONVERTING: _cpu(get(converting, fastapi, tenant)[0], converting, scale),
        }
        await alternate(results, "cpu", case(tenant), "µs", scale.runs, subjects)


def _cpu(call: Call, server: Server, scale: Scale) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        return (await run_load(call, seconds=scale.seconds, cpu_time=server.cpu_time)).cpu * 1e6

    return measure
