"""The same calls by a growing number of clients."""

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.requests import grpc_call, rest_call
from bench.workloads import Bench
from bench.workloads.throughput import (
    SIZE_TOLERANCE,
    TEN,
    create_job_calls,
    get_job_calls,
    insert_jobs_to_read,
    measure_rate,
)

_LISTED = 50


async def run(bench: Bench) -> None:
    """Measure the workloads …_by_clients, in calls per second."""
    env = bench.env
    await env.clear()
    await insert_jobs_to_read(env)
    await seed.insert_devices(env, "listed", 10)
    for number in range(_LISTED):
        await seed.insert_job(env, "listed", f"j{number}")
    await env.vacuum()
    async with env.server() as service, env.fastapi_server() as fastapi:
        list_jobs = grpc_call(service.address, "ListJobs", pb.ListJobsRequest(), tenant="listed")
        calls = {
            "create": create_job_calls(service, fastapi),
            "get": get_job_calls(service, fastapi, TEN),
            "list": (list_jobs, rest_call(fastapi.address, tenant="listed")),
        }
        for clients in bench.scale.client_counts:
            for name, (call, fastapi_call) in calls.items():
                await bench.in_turn(
                    f"{name}_by_clients",
                    f"{clients}",
                    "/s",
                    runs=1,
                    service=measure_rate(bench, call, clients, SIZE_TOLERANCE),
                    fastapi=measure_rate(bench, fastapi_call, clients, SIZE_TOLERANCE),
                )
