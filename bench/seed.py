"""Insert devices and jobs without the services, mostly the same into both databases."""

import asyncpg

from bench.environment import Environment


async def add_devices(connection: asyncpg.Connection, tenant: str, devices: int) -> None:
    """Insert devices d0000000, d0000001 … into one database."""
    await connection.execute(
        "INSERT INTO public.device_state (tenant_id, device_id)"
        " SELECT $1, 'd' || lpad(n::text, 7, '0') FROM generate_series(0, $2 - 1) n",
        tenant,
        devices,
    )


async def insert_devices(env: Environment, tenant: str, devices: int) -> None:
    """Insert the same devices into both databases."""
    for connection in (env.service, env.fastapi):
        await add_devices(connection, tenant, devices)


async def insert_job(env: Environment, tenant: str, job_id: str) -> None:
    """Insert a job for all devices of the tenant."""
    await env.service.fetch(
        "SELECT * FROM jobs.create_job($1, $2,"
        ' \'{"document_type": "bench", "target_all": true}\', \'{}\', NULL, 2000000, NULL, 24)',
        tenant,
        job_id,
    )
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


async def start_executions(env: Environment, tenant: str, job_id: str) -> None:
    """Start all executions of a job, each with its own started_at and last_updated_at."""
    start = (
        "UPDATE {} SET status = 'IN_PROGRESS', started_at = queued_at + n * interval '1 ms',"
        " last_updated_at = queued_at + n * interval '17 ms'"
        " FROM (SELECT device_id AS device, row_number() OVER (ORDER BY device_id) AS n"
        " FROM device_state WHERE tenant_id = $1) d"
        " WHERE tenant_id = $1 AND job_id = $2 AND device_id = device"
    )
    await env.fastapi.execute(start.format("job_executions"), tenant, job_id)
    await env.service.execute(start.format("jobs.job_executions"), tenant, job_id)
    await env.service.execute(
        "UPDATE jobs.job_progress SET in_progress = queued, queued = 0"
        " WHERE tenant_id = $1 AND job_id = $2",
        tenant,
        job_id,
    )


async def insert_jobs(env: Environment, tenant: str, prefix: str, count: int) -> list[str]:
    """Insert jobs for the tenant's device d0000000; return their IDs, all of the same length."""
    job_ids = [f"{prefix}-{number:07}" for number in range(count)]
    await env.service.execute(
        "SELECT count(*) FROM unnest($2::text[]) j, jobs.create_job($1, j,"
        ' \'{"document_type": "bench", "target_device_id": "d0000000"}\', \'{}\', NULL, 2000000,'
        " NULL, 24)",
        tenant,
        job_ids,
    )
    async with env.fastapi.transaction():
        await env.fastapi.execute(
            "INSERT INTO jobs (tenant_id, job_id, document_type, target_device_id, expires_at)"
            " SELECT $1, unnest($2::text[]), 'bench', 'd0000000', now() + interval '1 day'",
            tenant,
            job_ids,
        )
        await env.fastapi.execute(
            "INSERT INTO job_executions (tenant_id, job_id, device_id)"
            " SELECT $1, unnest($2::text[]), 'd0000000'",
            tenant,
            job_ids,
        )
    return job_ids
