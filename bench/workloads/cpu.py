"""CPU of GetJob in a series of servers, each doing more than the one before, under full load."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from bench.figures import (
    CONVERTING,
    ECHO,
    FASTAPI,
    METRICS,
    MINIMAL,
    SERVICE,
    Results,
    Scale,
    measure_in_turn,
)
from bench.h2load import run_load
from bench.peers import Peers
from bench.process import Server
from bench.requests import Call
from bench.workloads.throughput import (
    EXECUTIONS_BY_TENANT,
    case_of,
    get_job_calls,
    insert_jobs_to_read,
)


async def run(env: Peers, scale: Scale, results: Results) -> None:
    """Measure cpu: microseconds per call, without the CPU of PostgreSQL."""
    await env.clear()
    await insert_jobs_to_read(env)
    await env.vacuum()
    for tenant in EXECUTIONS_BY_TENANT:
        await _compare(env, scale, results, tenant)


async def _compare(env: Peers, scale: Scale, results: Results, tenant: str) -> None:
    async with AsyncExitStack() as servers:
        start = servers.enter_async_context
        service, fastapi = await start(env.server()), await start(env.fastapi_server())
        metrics = await start(env.server(JOBS_METRICS_LISTEN="127.0.0.1:0"))
        service_call, fastapi_call = get_job_calls(service, fastapi, tenant)
        response = (await service_call.send()).body
        echo = await start(env.echo_server("GetJob", response))
        minimal = await start(env.minimal_server(tenant, response))
        converting = await start(env.minimal_server(tenant, response, convert=True))
        subjects = {
            SERVICE: _measure_cpu(service_call, service, scale),
            METRICS: _measure_cpu(get_job_calls(metrics, fastapi, tenant)[0], metrics, scale),
            FASTAPI: _measure_cpu(fastapi_call, fastapi, scale),
            ECHO: _measure_cpu(get_job_calls(echo, fastapi, tenant)[0], echo, scale),
            MINIMAL: _measure_cpu(get_job_calls(minimal, fastapi, tenant)[0], minimal, scale),
            CONVERTING: _measure_cpu(
                get_job_calls(converting, fastapi, tenant)[0], converting, scale
            ),
        }
        await measure_in_turn(results, "cpu", case_of(tenant), "µs", scale.runs, subjects)


def _measure_cpu(call: Call, server: Server, scale: Scale) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        return (await run_load(call, seconds=scale.seconds, cpu_time=server.cpu_time)).cpu * 1e6

    return measure
