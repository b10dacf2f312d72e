"""The life of a job, created, listed, read and canceled, as it gets larger: one caller."""

import statistics
import time
from collections.abc import Awaitable, Callable

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.calls import Call, Void, rest, rest_delete, rpc
from bench.environment import Environment, Server
from bench.measure import DOCUMENT, SERVICE, Results, Scale, alternate

# Reads of one job at a time are over in a moment: the median of so many is one figure.
_REPEATED = 5

_BARE_INSERT = """
    INSERT INTO jobs.job_executions (tenant_id, job_id, device_id, queued_at, last_updated_at)
    SELECT tenant_id, 'bare', device_id, now(), now() FROM device_state WHERE tenant_id = $1
"""


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """create, list, get, cancel: milliseconds by devices."""
    await env.empty()
    for size in scale.sizes:
        await seed.fleet(env, str(size), size)
    async with env.serving() as service, env.serving_document() as document:
        for size in scale.sizes:
            for _ in range(scale.runs_at(size)):
                await _forget_jobs(env)
                await env.settle()
                await _live(env, size, service, document, results)
    await _expire(env, scale, results)


async def _live(
    env: Environment, size: int, service: Server, document: Server, results: Results
) -> None:
    tenant, at, at_document = str(size), service.address, document.address
    case = f"{size:,} devices"

    async def measure(workload: str, **subjects: Callable[[], Awaitable[float]]) -> None:
        await alternate(results, workload, case, "ms", 1, subjects)

    create = pb.CreateJobRequest(job_id="j", document_type="bench", target_all=True)
    body: dict[str, object] = {"job_id": "j", "document_type": "bench", "target_all": True}
    await measure(
        "create",
        limit=lambda: _bare(env, _BARE_INSERT, tenant),
        service=lambda: _into_empty(env, rpc(at, "CreateJob", create, tenant=tenant)),
        document=lambda: _once(rest(at_document, "", body, tenant=tenant)),
    )
    await _expect(env, size)
    await env.settle()
    await measure(
        "list",
        service=lambda: _repeated(rpc(at, "ListJobs", pb.ListJobsRequest(), tenant=tenant)),
        document=lambda: _repeated(rest(at_document, tenant=tenant)),
    )
    get = pb.GetJobRequest(job_id="j")
    await measure(
        "get",
        service=lambda: _repeated(rpc(at, "GetJob", get, tenant=tenant)),
        document=lambda: _repeated(rest(at_document, "/j", tenant=tenant)),
    )
    cancel = pb.CancelJobRequest(job_id="j")
    await measure(
        "cancel",
        limit=lambda: _bare(
            env, "UPDATE jobs.jobs SET updated_at = now() WHERE tenant_id = $1", tenant
        ),
        service=lambda: _once(rpc(at, "CancelJob", cancel, tenant=tenant)),
        document=lambda: _once(rest_delete(at_document, "j", tenant=tenant)),
    )


async def _expire(env: Environment, scale: Scale, results: Results) -> None:
    """What it takes for an expiry to show: a read here, a tick that writes in the document's."""
    for size in (scale.sizes[0], scale.sizes[-1]):
        await _forget_jobs(env)
        await seed.job(env, str(size), "j")
        await env.settle()
        past = "SET expires_at = now() - interval '1 hour', created_at = now() - interval '2 hours'"
        await env.service.execute(f"UPDATE jobs.jobs {past}")
        await env.document.execute(f"UPDATE jobs {past}")
        async with env.serving() as service:
            call = rpc(
                service.address,
                "GetJob",
                pb.GetJobRequest(job_id="j", executions_limit=0),
                tenant=str(size),
            )
            read = pb.GetJobResponse.FromString((await call.once()).body).job
            if read.execution_counts != pb.ExecutionCounts(timed_out=size):
                raise Void(f"{size} devices have expired, but the job reads {read}")
            seconds = await _repeated(call)
        case = f"{size:,} devices"
        results.add("expire", case, SERVICE, "ms", seconds)
        results.add("expire", case, DOCUMENT, "ms", await _tick(env))


async def _tick(env: Environment) -> float:
    started = time.perf_counter()
    async with env.document.transaction():
        await env.document.execute(
            "UPDATE job_executions e SET status = 'TIMED_OUT', last_updated_at = now()"
            " FROM jobs j WHERE j.tenant_id = e.tenant_id AND j.job_id = e.job_id"
            " AND j.status = 'IN_PROGRESS' AND j.expires_at < now() AND e.status = 'QUEUED'"
        )
        await env.document.execute(
            "UPDATE jobs SET status = 'COMPLETED', updated_at = now()"
            " WHERE status = 'IN_PROGRESS' AND expires_at < now()"
        )
    return (time.perf_counter() - started) * 1000


async def _once(call: Call) -> float:
    return (await call.once()).seconds * 1000


async def _into_empty(env: Environment, call: Call) -> float:
    """Into tables as empty as those that the bare INSERT found."""
    await _forget_jobs(env)
    return await _once(call)


async def _repeated(call: Call) -> float:
    return statistics.median([await _once(call) for _ in range(_REPEATED)])


async def _bare(env: Environment, sql: str, tenant: str) -> float:
    started = time.perf_counter()
    await env.service.execute(sql, tenant)
    return (time.perf_counter() - started) * 1000


async def _expect(env: Environment, size: int) -> None:
    """Both have created what they were to create."""
    for connection, table in (
        (env.service, "jobs.job_executions"),
        (env.document, "job_executions"),
    ):
        count = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE job_id = 'j'")
        if count != size:
            raise Void(f"{table} has {count} rows of a job of {size} devices")


async def _forget_jobs(env: Environment) -> None:
    await env.service.execute("TRUNCATE jobs.jobs, jobs.job_progress, jobs.job_executions")
    await env.document.execute("TRUNCATE jobs, job_executions")
