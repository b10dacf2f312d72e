"""Insert devices and jobs without the services."""

from typing import Any

import asyncpg
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.peers import Peers
from jobs_grpc.db.store import Store
from jobs_grpc.services.job_request import job_request, present_fields
from jobs_grpc.services.targets import selector_terms


async def add_devices(owner: asyncpg.Connection, tenant: str, devices: int) -> None:
    """Insert devices d0000000, d0000001 … into a database."""
    await owner.execute(
        "INSERT INTO public.device_state (tenant_id, device_id)"
        " SELECT $1, 'd' || lpad(n::text, 7, '0') FROM generate_series(0, $2 - 1) n",
        tenant,
        devices,
    )


async def add_job(owner: asyncpg.Connection, tenant: str, job_id: str) -> None:
    """Create a job of this service for all devices of the tenant."""
    await owner.fetch(
        "SELECT * FROM jobs.create_job($1, $2,"
        ' \'{"document_type": "bench", "target_all": true}\', \'{}\', NULL, 2000000, NULL, 24)',
        tenant,
        job_id,
    )


async def create_job(
    store: Store, tenant: str, request: pb.CreateJobRequest, document_params: str = "{}"
) -> Any:
    """Create a job by the SQL function that CreateJob runs, as the role of the store."""
    return await store.create_job(
        tenant,
        job_id=request.job_id,
        request=job_request(present_fields(request)),
        document_params=document_params,
        created_by="olivia",
        max_targets=2_000_000,
        max_active_jobs=None,
        default_expires_in_hours=24,
        selector_terms=selector_terms(request),
    )


async def insert_devices(env: Peers, tenant: str, devices: int) -> None:
    """Insert the same devices into both databases."""
    for connection in (env.owner, env.fastapi):
        await add_devices(connection, tenant, devices)


async def insert_job(env: Peers, tenant: str, job_id: str) -> None:
    """Insert a job for all devices of the tenant into both databases."""
    await add_job(env.owner, tenant, job_id)
    async with env.fastapi.transaction():
        await env.fastapi.execute(
            "INSERT INTO jobs (tenant_id, job_id, document_type, target_all, expires_at)"
            " VALUES ($1, $2, 'bench', true, now() + interval '1 day')",
            tenant,
            job_id,
        )
        await env.fastapi.execute(
            "INSERT INTO job_executions (tenant_id, job_id, device_id)"
            " SELECT tenant_id, $2, device_id FROM device_state WHERE tenant_id = $1",
            tenant,
            job_id,
        )


async def start_executions(env: Peers, tenant: str, job_id: str) -> None:
    """Start all executions of a job, each with its own started_at and last_updated_at."""
    start = (
        "UPDATE {} SET status = 'IN_PROGRESS', started_at = queued_at + n * interval '1 ms',"
        " last_updated_at = queued_at + n * interval '17 ms'"
        " FROM (SELECT device_id AS device, row_number() OVER (ORDER BY device_id) AS n"
        " FROM device_state WHERE tenant_id = $1) d"
        " WHERE tenant_id = $1 AND job_id = $2 AND device_id = device"
    )
    await env.fastapi.execute(start.format("job_executions"), tenant, job_id)
    await env.owner.execute(start.format("jobs.job_executions"), tenant, job_id)
    await env.owner.execute(
        "UPDATE jobs.job_progress SET in_progress = queued, queued = 0"
        " WHERE tenant_id = $1 AND job_id = $2",
        tenant,
        job_id,
    )
