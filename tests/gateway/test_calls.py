"""Calls to the gRPC server: health check, deadlines, cancellation, shutdown."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import Gateway, RestClient, assert_error, running_gateway
from tests.support.database import Database, job_lock_held
from tests.support.server import Server
from tests.support.waiting import TIMEOUT, wait_until

JOBS = "/customer/jobs"


async def test_health_check_asks_the_grpc_server(http: httpx.AsyncClient) -> None:
    response = await http.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "SERVING"})

    response = await http.get("/healthz?service=none")
    assert response.status_code == 404


@pytest.mark.usefixtures("job")
async def test_call_is_canceled_on_the_server_when_grpc_timeout_expires(
    database: Database, rest: RestClient
) -> None:
    async with job_lock_held(database, rest.tenant, "a"):
        timeout = [("Grpc-Timeout", "300m")]
        response = await rest.send("DELETE", f"{JOBS}/a", headers=timeout)
        assert_error(response, 504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        await database.wait_for_blocked_sessions(0)  # the server canceled the SQL statement

    assert (await rest.get("/a"))["status"] == "IN_PROGRESS"


@pytest.mark.usefixtures("job")
async def test_call_is_canceled_when_client_disconnects(
    gateway: Gateway, database: Database, rest: RestClient
) -> None:
    async with job_lock_held(database, rest.tenant, "a"):
        headers = [("X-Request-Id", f"canceled-{rest.tenant}")]
        call = asyncio.create_task(
            rest.send("DELETE", f"{JOBS}/a", {"reason": "x"}, headers=headers)
        )
        await database.wait_for_blocked_sessions(1)
        call.cancel()
        await database.wait_for_blocked_sessions(0)

    assert (await rest.get("/a"))["status"] == "IN_PROGRESS"
    await gateway.wait_for_log("request", request_id=f"canceled-{rest.tenant}", status=499)


@pytest.mark.usefixtures("job")
async def test_shutdown_waits_for_requests_in_flight(
    gateway_binary: Path, server: Server, database: Database, rest: RestClient
) -> None:
    async with (
        running_gateway(gateway_binary, server.address) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
    ):
        async with job_lock_held(database, rest.tenant, "a"):
            client = RestClient(http, rest.tenant)
            call = asyncio.create_task(client.send("DELETE", f"{JOBS}/a"))
            await database.wait_for_blocked_sessions(1)
            gateway.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: _refuses_connections(gateway.url))
            assert gateway.process.returncode is None
        assert (await call).json() == {"job_id": "a", "status": "CANCELED"}
        assert await gateway.process.wait() == 0
    assert gateway.log[-1]["msg"] == "stopped"


async def _refuses_connections(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            await http.get(f"{url}/openapi.json")
    except httpx.TransportError:
        return True
    return False
