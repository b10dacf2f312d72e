"""CPU of GetJob in a series of servers, each doing more than the one before, under full load."""

from contextlib import AsyncExitStack

from bench.figures import Measure
from bench.h2load import run_load
from bench.process import Server
from bench.requests import Call
from bench.workloads import Bench
from bench.workloads.throughput import (
    EXECUTIONS_BY_TENANT,
    case_of,
    get_job_call,
    get_job_calls,
    insert_jobs_to_read,
)


async def run(bench: Bench) -> None:
    """Measure cpu: microseconds per call, without the CPU of PostgreSQL."""
    await bench.env.clear()
    await insert_jobs_to_read(bench.env)
    await bench.env.vacuum()
    for tenant in EXECUTIONS_BY_TENANT:
        await _compare(bench, tenant)


async def _compare(bench: Bench, tenant: str) -> None:
    env = bench.env

    def cpu(server: Server, call: Call | None = None) -> Measure:
        sent = call or get_job_call(server, tenant)

        async def measure() -> float:
            seconds = bench.scale.seconds
            return (await run_load(sent, seconds=seconds, cpu_time=server.cpu_time)).cpu * 1e6

        return measure

    async with AsyncExitStack() as servers:
        start = servers.enter_async_context
        service, fastapi = await start(env.server()), await start(env.fastapi_server())
        call, fastapi_call = get_job_calls(service, fastapi, tenant)
        response = (await call.send()).body
        await bench.in_turn(
            "cpu",
            case_of(tenant),
            "µs",
            service=cpu(service),
            metrics=cpu(await start(env.server(JOBS_METRICS_LISTEN="127.0.0.1:0"))),
            fastapi=cpu(fastapi, fastapi_call),
            echo=cpu(await start(env.echo_server("GetJob", response))),
            minimal=cpu(await start(env.minimal_server(tenant, response))),
            converting=cpu(await start(env.minimal_server(tenant, response, convert=True))),
        )
