"""The same calls by a growing number of clients, and with several server processes."""

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, Server
from bench.figures import FASTAPI, SERVICE, Results, Scale, measure_in_turn
from bench.requests import Call, grpc_call, rest_call
from bench.workloads import cancel
from bench.workloads.throughput import (
    SIZE_TOLERANCE,
    TEN,
    THOUSAND,
    create_job_calls,
    get_job_calls,
    insert_jobs_to_read,
    measure_rate,
)

_PROCESSES = (1, 2)
_LISTED = 50


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """Measure the workloads …_by_clients and …_by_processes, in calls per second."""
    await env.clear()
    await insert_jobs_to_read(env)
    await seed.insert_devices(env, "listed", 10)
    for number in range(_LISTED):
        await seed.insert_job(env, "listed", f"j{number}")
    await env.vacuum()
    async with env.service_server() as service, env.fastapi_server() as fastapi:
        for clients in scale.client_counts:
            for name, calls in _calls(service, fastapi).items():
                await _compare(scale, results, f"{name}_by_clients", f"{clients}", calls, clients)
        await cancel.run(env, scale, results, service, fastapi)
    for processes in _PROCESSES:
        async with (
            env.service_server(processes) as service,
            env.fastapi_server(processes) as fastapi,
        ):
            # This call is nearly all CPU of the server: a second process has the most effect.
            large = {"get_1000": get_job_calls(service, fastapi, THOUSAND)}
            for name, calls in (_calls(service, fastapi) | large).items():
                await _compare(scale, results, f"{name}_by_processes", f"{processes}", calls, 16)


def _calls(service: Server, fastapi: Server) -> dict[str, tuple[Call, Call]]:
    listing = pb.ListJobsRequest()
    return {
        "create": create_job_calls(service, fastapi),
        "get": get_job_calls(service, fastapi, TEN),
        "list": (
            grpc_call(service.address, "ListJobs", listing, tenant="listed"),
            rest_call(fastapi.address, tenant="listed"),
        ),
    }


async def _compare(
    scale: Scale, results: Results, workload: str, case: str, calls: tuple[Call, Call], clients: int
) -> None:
    service_call, fastapi_call = calls
    await measure_in_turn(
        results,
        workload,
        case,
        "/s",
        1,
        {
            SERVICE: measure_rate(service_call, scale, clients, SIZE_TOLERANCE),
            FASTAPI: measure_rate(fastapi_call, scale, clients, SIZE_TOLERANCE),
        },
    )
