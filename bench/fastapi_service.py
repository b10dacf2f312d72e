"""A FastAPI service written after the reference design, which this project implements.

The reference design is four REST endpoints of an operator jobs API, given as FastAPI routes with
one SQL statement for each step. It has two changes without which it does not work: the validator
accepts all three kinds of target, and each endpoint runs in one transaction, so that row-level
security sees the tenant. uvicorn serves it, on the database of FASTAPI_DSN.
"""

import json
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request
from pydantic import BaseModel, Field, model_validator


class JobCreate(BaseModel):
    """The body of a POST."""

    job_id: str | None = None
    document_type: str = Field(min_length=1, max_length=100)
    document_params: dict[str, Any] = Field(default_factory=dict)
    target_device_id: str | None = None
    target_group_id: str | None = None
    target_all: bool = False
    expires_in_hours: int | None = Field(default=24, ge=1, le=720)

    @model_validator(mode="after")
    def _one_target(self) -> "JobCreate":
        targets = (self.target_device_id, self.target_group_id, self.target_all)
        if sum(map(bool, targets)) != 1:
            raise ValueError("Exactly one of the targets must be set")
        return self


class JobCancelRequest(BaseModel):
    """The body of a DELETE."""

    reason: str | None = None


async def _use_json(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
    )


@asynccontextmanager
async def _pool(app: FastAPI) -> AsyncIterator[None]:
    # The maximum of the service is 10 connections, too.
    async with asyncpg.create_pool(
        os.environ["FASTAPI_DSN"], min_size=1, max_size=10, init=_use_json
    ) as pool:
        app.state.pool = pool
        yield


async def _in_tenant(
    request: Request, x_tenant_id: Annotated[str, Header()]
) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT set_config('app.tenant_id', $1, true)", x_tenant_id)
        yield connection, x_tenant_id


Tenant = Annotated[tuple[asyncpg.Connection, str], Depends(_in_tenant, scope="function")]

app = FastAPI(lifespan=_pool)


@app.post("/customer/jobs", status_code=201)
async def create_job(body: JobCreate, tenant: Tenant) -> dict[str, Any]:
    """Create a job."""
    connection, tenant_id = tenant
    job_id = body.job_id or str(uuid.uuid4())
    expires_at = (
        datetime.now(UTC) + timedelta(hours=body.expires_in_hours)
        if body.expires_in_hours
        else None
    )
    if body.target_device_id:
        exists = await connection.fetchval(
            "SELECT 1 FROM device_state WHERE tenant_id=$1 AND device_id=$2",
            tenant_id,
            body.target_device_id,
        )
        if not exists:
            raise HTTPException(404, "Device not found")
        device_ids = [body.target_device_id]
    else:
        rows = await connection.fetch(
            "SELECT device_id FROM device_state WHERE tenant_id=$1", tenant_id
        )
        device_ids = [row["device_id"] for row in rows]
        if not device_ids:
            raise HTTPException(400, "No devices in tenant")
    await connection.execute(
        """
        INSERT INTO jobs
          (job_id, tenant_id, document_type, document_params,
           target_device_id, target_group_id, target_all,
           expires_at, created_by)
        VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9)
        """,
        job_id,
        tenant_id,
        body.document_type,
        body.document_params,
        body.target_device_id,
        body.target_group_id,
        body.target_all,
        expires_at,
        "bench",
    )
    await connection.executemany(
        """
        INSERT INTO job_executions (job_id, tenant_id, device_id)
        VALUES ($1, $2, $3)
        ON CONFLICT DO NOTHING
        """,
        [(job_id, tenant_id, device_id) for device_id in device_ids],
    )
    return {
        "job_id": job_id,
        "status": "IN_PROGRESS",
        "execution_count": len(device_ids),
        "expires_at": expires_at.isoformat() if expires_at else None,
    }


@app.get("/customer/jobs")
async def list_jobs(
    tenant: Tenant,
    status: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> list[dict[str, Any]]:
    """List jobs."""
    connection, tenant_id = tenant
    conditions, params = ["tenant_id = $1"], [tenant_id]
    if status:
        params.append(status)
        conditions.append(f"status = ${len(params)}")
    rows = await connection.fetch(
        f"""
        SELECT job_id, document_type, document_params, status,
               target_device_id, target_group_id, target_all,
               expires_at, created_by, created_at,
               (SELECT COUNT(*) FROM job_executions e
                WHERE e.tenant_id=j.tenant_id AND e.job_id=j.job_id) AS total_executions,
               (SELECT COUNT(*) FROM job_executions e
                WHERE e.tenant_id=j.tenant_id AND e.job_id=j.job_id
                AND e.status='SUCCEEDED') AS succeeded_count,
               (SELECT COUNT(*) FROM job_executions e
                WHERE e.tenant_id=j.tenant_id AND e.job_id=j.job_id
                AND e.status IN ('FAILED','TIMED_OUT','REJECTED')) AS failed_count
        FROM jobs j
        WHERE {" AND ".join(conditions)}
        ORDER BY created_at DESC
        LIMIT ${len(params) + 1} OFFSET ${len(params) + 2}
        """,
        *params,
        limit,
        offset,
    )
    return [dict(row) for row in rows]


@app.get("/customer/jobs/{job_id}")
async def get_job(job_id: str, tenant: Tenant) -> dict[str, Any]:
    """Get a job with all of its executions."""
    connection, tenant_id = tenant
    job = await connection.fetchrow(
        "SELECT * FROM jobs WHERE tenant_id=$1 AND job_id=$2", tenant_id, job_id
    )
    if not job:
        raise HTTPException(404, "Job not found")
    executions = await connection.fetch(
        """
        SELECT device_id, status, status_details,
               queued_at, started_at, last_updated_at, execution_number
        FROM job_executions
        WHERE tenant_id=$1 AND job_id=$2
        ORDER BY device_id
        """,
        tenant_id,
        job_id,
    )
    return {**dict(job), "executions": [dict(execution) for execution in executions]}


@app.delete("/customer/jobs/{job_id}")
async def cancel_job(
    job_id: str, tenant: Tenant, body: JobCancelRequest | None = None
) -> dict[str, Any]:
    """Cancel a job."""
    connection, tenant_id = tenant
    job = await connection.fetchrow(
        "SELECT status FROM jobs WHERE tenant_id=$1 AND job_id=$2", tenant_id, job_id
    )
    if not job:
        raise HTTPException(404, "Job not found")
    if job["status"] != "IN_PROGRESS":
        raise HTTPException(400, f"Cannot cancel job in status {job['status']}")
    reason = body.reason if body else None
    await connection.execute(
        """
        UPDATE job_executions
        SET status='REJECTED', status_details=$1, last_updated_at=NOW()
        WHERE tenant_id=$2 AND job_id=$3 AND status='QUEUED'
        """,
        {"reason": reason or "canceled by operator"},
        tenant_id,
        job_id,
    )
    await connection.execute(
        "UPDATE jobs SET status='CANCELED', updated_at=NOW() WHERE tenant_id=$1 AND job_id=$2",
        tenant_id,
        job_id,
    )
    return {"job_id": job_id, "status": "CANCELED"}
