"""One caller creates, lists, reads and cancels jobs of growing size."""

import statistics
import time
from functools import partial

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.peers import Peers
from bench.process import Server
from bench.requests import Call, grpc_call, rest_call
from bench.run import InvalidRun
from bench.workloads import Bench

# A read takes little time, so one figure is the median of several reads.
_REPEATS = 5

_BARE_INSERT = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
    SELECT tenant_id, 'bare', device_id, now(), now() FROM device_state WHERE tenant_id = $1
"""


async def run(bench: Bench) -> None:
    """Measure create, list, get, cancel and expire, in milliseconds by number of devices."""
    env, scale = bench.env, bench.scale
    await env.clear()
    for size in scale.job_sizes:
        await seed.insert_devices(env, str(size), size)
    async with env.server() as service, env.fastapi_server() as fastapi:
        for size in scale.job_sizes:
            for _ in range(scale.runs_at(size)):
                await env.delete_jobs()
                await env.vacuum()
                await _measure_job(bench, size, service, fastapi)
    for size in (scale.job_sizes[0], scale.job_sizes[-1]):
        await _expire(bench, size)


async def _measure_job(bench: Bench, size: int, service: Server, fastapi: Server) -> None:
    env, tenant = bench.env, str(size)
    address, fastapi_address = service.address, fastapi.address
    measure = partial(bench.in_turn, case=f"{size:,} devices", unit="ms", runs=1)
    create = pb.CreateJobRequest(job_id="j", document_type="bench", target_all=True)
    body: dict[str, object] = {"job_id": "j", "document_type": "bench", "target_all": True}
    await measure(
        "create",
        baseline=lambda: _milliseconds_of_sql(env, _BARE_INSERT, tenant),
        service=lambda: _create_in_empty_tables(
            env, grpc_call(address, "CreateJob", create, tenant=tenant)
        ),
        fastapi=lambda: _milliseconds(rest_call(fastapi_address, "", body, tenant=tenant)),
    )
    await _check_created(env, size)
    await env.vacuum()
    await measure(
        "list",
        service=lambda: _median_milliseconds(
            grpc_call(address, "ListJobs", pb.ListJobsRequest(), tenant=tenant)
        ),
        fastapi=lambda: _median_milliseconds(rest_call(fastapi_address, tenant=tenant)),
    )
    get = pb.GetJobRequest(job_id="j")
    await measure(
        "get",
        service=lambda: _median_milliseconds(grpc_call(address, "GetJob", get, tenant=tenant)),
        fastapi=lambda: _median_milliseconds(rest_call(fastapi_address, "/j", tenant=tenant)),
    )
    cancel = pb.CancelJobRequest(job_id="j")
    await measure(
        "cancel",
        baseline=lambda: _milliseconds_of_sql(
            env, "UPDATE jobs.jobs SET updated_at = now() WHERE tenant_id = $1", tenant
        ),
        service=lambda: _milliseconds(grpc_call(address, "CancelJob", cancel, tenant=tenant)),
        fastapi=lambda: _milliseconds(
            rest_call(fastapi_address, "/j", tenant=tenant, method="DELETE")
        ),
    )


async def _expire(bench: Bench, size: int) -> None:
    """Measure expiry: for the service a read of an expired job, for FastAPI the writes."""
    env, tenant = bench.env, str(size)
    await env.delete_jobs()
    await seed.insert_job(env, tenant, "j")
    await env.vacuum()
    past = "SET expires_at = now() - interval '1 hour', created_at = now() - interval '2 hours'"
    await env.owner.execute(f"UPDATE jobs.jobs {past}")
    await env.fastapi.execute(f"UPDATE jobs {past}")
    request = pb.GetJobRequest(job_id="j", executions_limit=0)
    async with env.server() as service:
        call = grpc_call(service.address, "GetJob", request, tenant=tenant)
        read = pb.GetJobResponse.FromString((await call.send()).body).job
        if read.execution_counts != pb.ExecutionCounts(timed_out=size):
            raise InvalidRun(f"{size} devices have expired, but GetJob returned {read}")
        await bench.in_turn(
            "expire",
            f"{size:,} devices",
            "ms",
            runs=1,
            service=lambda: _median_milliseconds(call),
            fastapi=lambda: _expire_in_fastapi(env),
        )


async def _expire_in_fastapi(env: Peers) -> float:
    started = time.perf_counter()
    async with env.fastapi.transaction():
        await env.fastapi.execute(
            "UPDATE job_executions e SET status = 'TIMED_OUT', last_updated_at = now()"
            " FROM jobs j WHERE j.tenant_id = e.tenant_id AND j.job_id = e.job_id"
            " AND j.status = 'IN_PROGRESS' AND j.expires_at < now() AND e.status = 'QUEUED'"
        )
        await env.fastapi.execute(
            "UPDATE jobs SET status = 'COMPLETED', updated_at = now()"
            " WHERE status = 'IN_PROGRESS' AND expires_at < now()"
        )
    return (time.perf_counter() - started) * 1000


async def _milliseconds(call: Call) -> float:
    return (await call.send()).seconds * 1000


async def _create_in_empty_tables(env: Peers, call: Call) -> float:
    """Create a job in empty tables, as the bare INSERT does."""
    await env.delete_jobs()
    return await _milliseconds(call)


async def _median_milliseconds(call: Call) -> float:
    return statistics.median([await _milliseconds(call) for _ in range(_REPEATS)])


async def _milliseconds_of_sql(env: Peers, sql: str, tenant: str) -> float:
    started = time.perf_counter()
    await env.owner.execute(sql, tenant)
    return (time.perf_counter() - started) * 1000


async def _check_created(env: Peers, size: int) -> None:
    """Raise InvalidRun unless both services have created all executions."""
    for connection, table in (
        (env.owner, "jobs.job_executions"),
        (env.fastapi, "job_executions"),
    ):
        count = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE job_id = 'j'")
        if count != size:
            raise InvalidRun(f"{table} has {count} rows of a job of {size} devices")
