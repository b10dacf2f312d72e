"""Calls per second of creates, reads and lists, and their latency under equal load."""

import statistics
import time
from collections.abc import Awaitable, Callable

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import pgbench, seed
from bench.figures import (
    BASELINE,
    DATABASE,
    FASTAPI,
    MINIMAL,
    SERVICE,
    Results,
    Scale,
    measure_in_turn,
)
from bench.h2load import run_load
from bench.minimal_server import EXECUTIONS_LIMIT
from bench.peers import Peers
from bench.process import Server
from bench.requests import Call, grpc_call, rest_call
from bench.run import InvalidRun

# Tenants whose job is read, and the number of its executions.
TEN, THOUSAND, STARTED = "10", "1000", "1000-started"
EXECUTIONS_BY_TENANT = {TEN: 10, THOUSAND: 1000, STARTED: 1000}

# Latencies are measured at this part of the FastAPI service's rate.
_SHARE_OF_FASTAPI_RATE = 0.5

# Timestamps in a response differ in length by some bytes.
SIZE_TOLERANCE = 16


async def run(env: Peers, scale: Scale, results: Results) -> None:
    """Measure create_one, get_rate, get_p99, list_rate, list_in_database and page."""
    await _seed(env, scale)
    async with env.server() as service, env.fastapi_server() as fastapi:
        await _measure_create(env, scale, results, service, fastapi)
        # Without new statistics, ten thousand new jobs slow the reads of the FastAPI service,
        # which keeps its query plans.
        await env.vacuum()
        for tenant in EXECUTIONS_BY_TENANT:
            await _measure_get_rate(env, scale, results, service, fastapi, tenant)
        for tenant in (TEN, THOUSAND):
            await _measure_get_p99(scale, results, service, fastapi, tenant)
        await _measure_list(env, scale, results, service, fastapi)
        await _measure_pages(scale, results, service)


async def _seed(env: Peers, scale: Scale) -> None:
    jobs, executions = scale.listed_jobs, scale.executions_per_listed_job
    await env.clear()
    await insert_jobs_to_read(env)
    await seed.insert_devices(env, "listed", executions)
    await seed.insert_devices(env, "few", 10)
    await seed.insert_devices(env, "largest", scale.job_sizes[-1])
    await seed.insert_job(env, "largest", "j")
    for number in range(jobs):
        await seed.insert_job(env, "listed", f"j{number}")
        await seed.insert_job(env, "few", f"j{number}")
    await env.vacuum()


async def insert_jobs_to_read(env: Peers) -> None:
    """Insert the jobs that are read."""
    for tenant, executions in EXECUTIONS_BY_TENANT.items():
        await seed.insert_devices(env, tenant, executions)
        await seed.insert_job(env, tenant, "j")
    await seed.start_executions(env, STARTED, "j")


def case_of(tenant: str) -> str:
    """Return the name of the case that reads the tenant's job."""
    started = ", each started at its own time" if tenant == STARTED else ""
    return f"{EXECUTIONS_BY_TENANT[tenant]:,} executions{started}"


def create_job_calls(service: Server, fastapi: Server) -> tuple[Call, Call]:
    """Return CreateJob for one device of TEN, for both services; each call creates a job."""
    device = "d0000000"
    request = pb.CreateJobRequest(document_type="bench", target_device_id=device)
    body: dict[str, object] = {"document_type": "bench", "target_device_id": device}
    return (
        grpc_call(service.address, "CreateJob", request, tenant=TEN),
        rest_call(fastapi.address, "", body, tenant=TEN),
    )


def get_job_calls(service: Server, fastapi: Server, tenant: str) -> tuple[Call, Call]:
    """Return GetJob of the tenant's job, for both services."""
    return (
        grpc_call(service.address, "GetJob", pb.GetJobRequest(job_id="j"), tenant=tenant),
        rest_call(fastapi.address, "/j", tenant=tenant),
    )


def measure_rate(
    call: Call, scale: Scale, clients: int = 16, size_tolerance: int = 0
) -> Callable[[], Awaitable[float]]:
    """Return a function that measures calls per second."""

    async def measure() -> float:
        return (
            await run_load(
                call, seconds=scale.seconds, clients=clients, size_tolerance=size_tolerance
            )
        ).rate

    return measure


async def _measure_create(
    env: Peers, scale: Scale, results: Results, service: Server, fastapi: Server
) -> None:
    calls = create_job_calls(service, fastapi)
    subjects = zip((SERVICE, FASTAPI), calls, strict=True)
    await measure_in_turn(
        results,
        "create_one",
        "1 device",
        "/s",
        scale.runs,
        {
            subject: measure_rate(call, scale, size_tolerance=SIZE_TOLERANCE)
            for subject, call in subjects
        },
    )
    for connection, table in (
        (env.owner, "jobs.job_executions"),
        (env.fastapi, "job_executions"),
    ):
        jobs = await connection.fetchval(
            f"SELECT count(*) FROM {table.replace('job_executions', 'jobs')} WHERE tenant_id = $1",
            TEN,
        )
        executions = await connection.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1", TEN
        )
        # One job has ten executions, all others one.
        if executions != jobs + 9:
            raise InvalidRun(f"{table}: {jobs} jobs have {executions} executions")


async def _measure_get_rate(
    env: Peers, scale: Scale, results: Results, service: Server, fastapi: Server, tenant: str
) -> None:
    service_call, fastapi_call = get_job_calls(service, fastapi, tenant)
    response = (await service_call.send()).body
    if len(pb.GetJobResponse.FromString(response).job.executions) != EXECUTIONS_BY_TENANT[tenant]:
        raise InvalidRun("GetJob did not return all executions")
    async with (
        env.echo_server("GetJob", response) as echo,
        env.minimal_server(tenant, response) as minimal,
    ):
        echo_call, _ = get_job_calls(echo, fastapi, tenant)
        minimal_call, _ = get_job_calls(minimal, fastapi, tenant)
        subjects = {
            SERVICE: service_call,
            FASTAPI: fastapi_call,
            BASELINE: echo_call,
            MINIMAL: minimal_call,
        }
        await measure_in_turn(
            results,
            "get_rate",
            case_of(tenant),
            "/s",
            scale.runs,
            {subject: measure_rate(call, scale) for subject, call in subjects.items()}
            | {DATABASE: lambda: _rate_of_database(env, scale, tenant)},
        )


async def _rate_of_database(env: Peers, scale: Scale, tenant: str) -> float:
    """Return how often per second pgbench gets the rows of GetJob, as the request role."""
    return await pgbench.run_statement(
        env.dsn,
        f"SELECT * FROM jobs.get_job('{tenant}', 'j', {EXECUTIONS_LIMIT})",
        clients=16,
        seconds=scale.seconds,
    )


async def _measure_get_p99(
    scale: Scale, results: Results, service: Server, fastapi: Server, tenant: str
) -> None:
    fastapi_rate = results.find("get_rate", case_of(tenant), FASTAPI)
    assert fastapi_rate is not None
    limit = fastapi_rate.median * _SHARE_OF_FASTAPI_RATE

    def p99(call: Call) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            return (await run_load(call, seconds=scale.seconds, rate=limit)).p99 * 1000

        return measure

    subjects = zip((SERVICE, FASTAPI), get_job_calls(service, fastapi, tenant), strict=True)
    await measure_in_turn(
        results,
        "get_p99",
        case_of(tenant),
        "ms",
        scale.runs,
        {subject: p99(call) for subject, call in subjects},
    )


async def _measure_list(
    env: Peers, scale: Scale, results: Results, service: Server, fastapi: Server
) -> None:
    jobs, executions = scale.listed_jobs, scale.executions_per_listed_job
    for tenant, size in (("few", 10), ("listed", executions)):
        listed = f"50 of {jobs} jobs of {size:,} executions"
        await measure_in_turn(
            results,
            "list_rate",
            listed,
            "/s",
            scale.runs,
            {
                SERVICE: measure_rate(
                    grpc_call(service.address, "ListJobs", pb.ListJobsRequest(), tenant=tenant),
                    scale,
                ),
                FASTAPI: measure_rate(rest_call(fastapi.address, tenant=tenant), scale, clients=4),
            },
        )

        async def in_database() -> float:
            return await _median_ms(
                lambda: env.owner.fetch(
                    "SELECT * FROM jobs.list_jobs($1, NULL, NULL, NULL, 51, 0)",
                    tenant,  # noqa: B023
                )
            )

        await measure_in_turn(
            results, "list_in_database", listed, "ms", scale.runs, {SERVICE: in_database}
        )


async def _median_ms(action: Callable[[], Awaitable[object]]) -> float:
    durations = []
    for _ in range(20):
        started = time.perf_counter()
        await action()
        durations.append((time.perf_counter() - started) * 1000)
    return statistics.median(durations)


async def _measure_pages(scale: Scale, results: Results, service: Server) -> None:
    """List all executions of the largest job in pages of a thousand."""
    durations: list[float] = []
    request = pb.ListJobExecutionsRequest(job_id="j", limit=1000)
    executions = 0
    while True:
        response = await grpc_call(
            service.address, "ListJobExecutions", request, tenant="largest"
        ).send()
        durations.append(response.seconds * 1000)
        page = pb.ListJobExecutionsResponse.FromString(response.body)
        executions += len(page.executions)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if executions != scale.job_sizes[-1]:
        raise InvalidRun(f"the pages had {executions} executions")
    tenth = max(1, len(durations) // 10)
    middle = len(durations) // 2
    for part, pages in (
        ("first tenth", durations[:tenth]),
        ("middle tenth", durations[middle - tenth // 2 : middle + tenth // 2 + 1]),
        ("last tenth", durations[-tenth:]),
    ):
        results.add("page", part, SERVICE, "ms", statistics.median(pages))
