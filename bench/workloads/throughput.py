"""Calls per second of creates, reads and lists, and their latency under equal load."""

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.figures import FASTAPI, Measure
from bench.h2load import run_load
from bench.peers import Peers
from bench.process import Server
from bench.requests import Call, grpc_call, rest_call
from bench.run import InvalidRun
from bench.workloads import Bench

# Tenants whose job is read, and the number of its executions.
TEN, THOUSAND, STARTED = "10", "1000", "1000-started"
EXECUTIONS_BY_TENANT = {TEN: 10, THOUSAND: 1000, STARTED: 1000}

# Latencies are measured at this part of the FastAPI service's rate.
_SHARE_OF_FASTAPI_RATE = 0.5

# Timestamps in a response differ in length by some bytes.
SIZE_TOLERANCE = 16


async def run(bench: Bench) -> None:
    """Measure create_one, get_rate, get_p99 and list_rate."""
    env, scale = bench.env, bench.scale
    await env.clear()
    await insert_jobs_to_read(env)
    sizes = {"few": 10, "listed": scale.executions_per_listed_job}
    for tenant, executions in sizes.items():
        await seed.insert_devices(env, tenant, executions)
        for number in range(scale.listed_jobs):
            await seed.insert_job(env, tenant, f"j{number}")
    await env.vacuum()
    async with env.server() as service, env.fastapi_server() as fastapi:
        await _measure_create(bench, service, fastapi)
        # Without new statistics, ten thousand new jobs slow the reads of the FastAPI service,
        # which keeps its query plans.
        await env.vacuum()
        for tenant in EXECUTIONS_BY_TENANT:
            await _measure_get_rate(bench, service, fastapi, tenant)
        for tenant in (TEN, THOUSAND):
            await _measure_get_p99(bench, service, fastapi, tenant)
        for tenant, size in sizes.items():
            call = grpc_call(service.address, "ListJobs", pb.ListJobsRequest(), tenant=tenant)
            fastapi_call = rest_call(fastapi.address, tenant=tenant)
            await bench.in_turn(
                "list_rate",
                f"50 of {scale.listed_jobs} jobs of {size:,} executions",
                "/s",
                service=measure_rate(bench, call),
                fastapi=measure_rate(bench, fastapi_call, clients=4),
            )


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


def get_job_call(server: Server, tenant: str) -> Call:
    """Return GetJob of the tenant's job."""
    return grpc_call(server.address, "GetJob", pb.GetJobRequest(job_id="j"), tenant=tenant)


def get_job_calls(service: Server, fastapi: Server, tenant: str) -> tuple[Call, Call]:
    """Return GetJob of the tenant's job, for both services."""
    return get_job_call(service, tenant), rest_call(fastapi.address, "/j", tenant=tenant)


def measure_rate(bench: Bench, call: Call, clients: int = 16, size_tolerance: int = 0) -> Measure:
    """Return a function that measures calls per second."""

    async def measure() -> float:
        load = await run_load(
            call, seconds=bench.scale.seconds, clients=clients, size_tolerance=size_tolerance
        )
        return load.rate

    return measure


async def _measure_create(bench: Bench, service: Server, fastapi: Server) -> None:
    call, fastapi_call = create_job_calls(service, fastapi)
    await bench.in_turn(
        "create_one",
        "1 device",
        "/s",
        service=measure_rate(bench, call, size_tolerance=SIZE_TOLERANCE),
        fastapi=measure_rate(bench, fastapi_call, size_tolerance=SIZE_TOLERANCE),
    )
    for connection, schema in ((bench.env.owner, "jobs"), (bench.env.fastapi, "public")):
        count = f"SELECT count(*) FROM {schema}.{{}} WHERE tenant_id = $1"
        jobs, executions = [
            await connection.fetchval(count.format(table), TEN)
            for table in ("jobs", "job_executions")
        ]
        # One job has ten executions, all others one.
        if executions != jobs + 9:
            raise InvalidRun(f"{schema}: {jobs} jobs have {executions} executions")


async def _measure_get_rate(bench: Bench, service: Server, fastapi: Server, tenant: str) -> None:
    call, fastapi_call = get_job_calls(service, fastapi, tenant)
    response = (await call.send()).body
    if len(pb.GetJobResponse.FromString(response).job.executions) != EXECUTIONS_BY_TENANT[tenant]:
        raise InvalidRun("GetJob did not return all executions")
    async with (
        bench.env.echo_server("GetJob", response) as echo,
        bench.env.minimal_server(tenant, response) as minimal,
    ):
        await bench.in_turn(
            "get_rate",
            case_of(tenant),
            "/s",
            service=measure_rate(bench, call),
            fastapi=measure_rate(bench, fastapi_call),
            baseline=measure_rate(bench, get_job_call(echo, tenant)),
            minimal=measure_rate(bench, get_job_call(minimal, tenant)),
        )


async def _measure_get_p99(bench: Bench, service: Server, fastapi: Server, tenant: str) -> None:
    fastapi_rate = bench.results.find("get_rate", case_of(tenant), FASTAPI)
    assert fastapi_rate is not None
    limit = fastapi_rate.median * _SHARE_OF_FASTAPI_RATE

    def p99(call: Call) -> Measure:
        async def measure() -> float:
            return (await run_load(call, seconds=bench.scale.seconds, rate=limit)).p99 * 1000

        return measure

    call, fastapi_call = get_job_calls(service, fastapi, tenant)
    await bench.in_turn(
        "get_p99", case_of(tenant), "ms", service=p99(call), fastapi=p99(fastapi_call)
    )
