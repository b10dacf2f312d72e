"""CancelJob by more and more clients: each call needs a job that none has canceled.

The service's clients are those of one ghz, which costs it more than h2load would; the
document's are an h2load each, of which 64 begin within a tenth of a second.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import asyncpg

from bench import ghz, seed
from bench.calls import Void, rest_delete
from bench.environment import Environment, Server
from bench.h2load import together
from bench.measure import DOCUMENT, SERVICE, Results, Scale

_TENANT = "canceling"

# Jobs that are canceled to warm up, of those that are to be measured.
_WARM_UP = 0.25


async def run(
    env: Environment, scale: Scale, results: Results, service: Server, document: Server
) -> None:
    """cancel_by_clients: calls a second."""
    try:
        program = await ghz.build(env.folder)
    except ghz.Missing as e:
        print(f"  cancel_by_clients is left out: {e}", flush=True)
        return
    await seed.fleet(env, _TENANT, 1)
    for clients in scale.clients:
        warm_up = await seed.jobs(env, _TENANT, f"w{clients}", int(scale.canceled * _WARM_UP))
        jobs = await seed.jobs(env, _TENANT, f"j{clients}", scale.canceled)
        await env.settle()
        subjects = {
            SERVICE: partial(_service, env, service, program, clients),
            DOCUMENT: partial(_document, env, document, clients),
        }
        for subject, cancel in subjects.items():
            await cancel(warm_up)
            rate = await cancel(jobs)
            results.add("cancel_by_clients", f"{clients}", subject, "/s", rate)


async def _service(
    env: Environment, service: Server, program: Path, clients: int, job_ids: Sequence[str]
) -> float:
    requests = [{"job_id": job_id} for job_id in job_ids]
    rate = await ghz.rate(
        program, service.address, "CancelJob", requests, tenant=_TENANT, clients=clients
    )
    await _expect(env.service, "jobs.jobs", job_ids)
    return rate


async def _document(
    env: Environment, document: Server, clients: int, job_ids: Sequence[str]
) -> float:
    calls = [rest_delete(document.address, job_id, tenant=_TENANT) for job_id in job_ids]
    answer = json.dumps({"job_id": job_ids[0], "status": "CANCELED"}, separators=(",", ":"))
    seconds = await together(
        [calls[client::clients] for client in range(clients)],
        answers=len(calls),
        like=answer.encode(),
    )
    await _expect(env.document, "jobs", job_ids)
    return len(calls) / seconds


async def _expect(connection: asyncpg.Connection, table: str, job_ids: Sequence[str]) -> None:
    """Each call has canceled its job."""
    canceled = await connection.fetchval(
        f"SELECT count(*) FROM {table}"
        " WHERE tenant_id = $1 AND job_id = ANY ($2::text[]) AND status = 'CANCELED'",
        _TENANT,
        job_ids,
    )
    if canceled != len(job_ids):
        raise Void(f"{table}: {canceled} jobs are canceled by {len(job_ids)} calls")
