"""CancelJob by a growing number of clients; each call needs a job that is not canceled yet.

One ghz process makes the calls to the service, although ghz uses more CPU than h2load. For the
FastAPI service, each client is an h2load process; 64 of them start within a tenth of a second.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import asyncpg

from bench import ghz, seed
from bench.environment import Environment, Server
from bench.figures import FASTAPI, SERVICE, Results, Scale
from bench.h2load import run_clients
from bench.requests import InvalidRun, rest_delete_call

_TENANT = "canceling"

# Jobs that are canceled as a warm-up, as a part of the jobs that are measured.
_WARM_UP_SHARE = 0.25


async def run(
    env: Environment, scale: Scale, results: Results, service: Server, fastapi: Server
) -> None:
    """Measure cancel_by_clients, in calls per second."""
    try:
        program = await ghz.build(env.folder)
    except ghz.GhzUnavailable as e:
        print(f"  skipping cancel_by_clients: {e}", flush=True)
        return
    await seed.insert_devices(env, _TENANT, 1)
    for clients in scale.client_counts:
        warm_up = await seed.insert_jobs(
            env, _TENANT, f"w{clients}", int(scale.canceled_jobs * _WARM_UP_SHARE)
        )
        jobs = await seed.insert_jobs(env, _TENANT, f"j{clients}", scale.canceled_jobs)
        await env.vacuum()
        subjects = {
            SERVICE: partial(_cancel_in_service, env, service, program, clients),
            FASTAPI: partial(_cancel_in_fastapi, env, fastapi, clients),
        }
        for subject, cancel in subjects.items():
            await cancel(warm_up)
            rate = await cancel(jobs)
            results.add("cancel_by_clients", f"{clients}", subject, "/s", rate)


async def _cancel_in_service(
    env: Environment, service: Server, program: Path, clients: int, job_ids: Sequence[str]
) -> float:
    requests = [{"job_id": job_id} for job_id in job_ids]
    rate = await ghz.measure_rate(
        program, service.address, "CancelJob", requests, tenant=_TENANT, clients=clients
    )
    await _check_canceled(env.service, "jobs.jobs", job_ids)
    return rate


async def _cancel_in_fastapi(
    env: Environment, fastapi: Server, clients: int, job_ids: Sequence[str]
) -> float:
    calls = [rest_delete_call(fastapi.address, job_id, tenant=_TENANT) for job_id in job_ids]
    response = json.dumps({"job_id": job_ids[0], "status": "CANCELED"}, separators=(",", ":"))
    seconds = await run_clients(
        [calls[client::clients] for client in range(clients)],
        responses=len(calls),
        sample_response=response.encode(),
    )
    await _check_canceled(env.fastapi, "jobs", job_ids)
    return len(calls) / seconds


async def _check_canceled(
    connection: asyncpg.Connection, table: str, job_ids: Sequence[str]
) -> None:
    """Raise InvalidRun unless all jobs are canceled."""
    canceled = await connection.fetchval(
        f"SELECT count(*) FROM {table}"
        " WHERE tenant_id = $1 AND job_id = ANY ($2::text[]) AND status = 'CANCELED'",
        _TENANT,
        job_ids,
    )
    if canceled != len(job_ids):
        raise InvalidRun(f"{table}: {canceled} jobs are canceled after {len(job_ids)} calls")
