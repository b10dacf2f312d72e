"""How the gateway runs: health, pages, deadlines, cancellation, logs, metrics, a stop."""

import asyncio
import json
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import GATEWAY, TIMEOUT, Gateway, Rest, assert_error, running
from tests.support.database import Database, job_lock_held
from tests.support.server import Server
from tests.support.waiting import wait_until

JOBS = "/customer/jobs"


async def test_health_is_the_servers(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "SERVING"})

    response = await client.get("/healthz?service=none")
    assert response.status_code == 404


async def test_the_openapi_document_is_the_committed_one(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json")

    assert response.headers["content-type"] == "application/json"
    assert response.content == (GATEWAY / "gen" / "openapi.json").read_bytes()


async def test_the_api_page_comes_from_the_gateway_alone(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/"):
        page = await client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) >= 3
        for asset in loaded:
            assert asset.startswith("/docs/")
            assert (await client.get(asset)).status_code == 200
        assert '"/openapi.json"' in page.text
        # The browser is told to hold it to that.
        assert "connect-src 'self'" in page.headers["content-security-policy"]


async def test_the_clients_timeout_becomes_the_servers_deadline(
    database: Database, rest: Rest
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)

    async with job_lock_held(database, rest.tenant, "a"):
        timeout = [("Grpc-Timeout", "300m")]
        response = await rest.send("DELETE", f"{JOBS}/a", headers=timeout)
        assert_error(response, 504, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        await database.wait_for_blocked_sessions(0)  # the statement was canceled with the call

    assert (await rest.get("/a"))["status"] == "IN_PROGRESS"


async def test_a_timeout_that_is_none_is_refused(rest: Rest) -> None:
    response = await rest.send("GET", JOBS, headers=[("Grpc-Timeout", "soon")])

    assert_error(response, 400, "INVALID_ARGUMENT", "MALFORMED_REQUEST")


async def test_a_client_that_goes_away_cancels_the_call(
    gateway: Gateway, database: Database, rest: Rest
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)

    async with job_lock_held(database, rest.tenant, "a"):
        body = {"reason": "never mind"}
        headers = [("X-Request-Id", f"gone-{rest.tenant}")]
        call = asyncio.create_task(rest.send("DELETE", f"{JOBS}/a", body, headers=headers))
        await database.wait_for_blocked_sessions(1)
        call.cancel()
        await database.wait_for_blocked_sessions(0)

    assert (await rest.get("/a"))["status"] == "IN_PROGRESS"
    await gateway.logged("request", request_id=f"gone-{rest.tenant}", status=499)


async def test_each_request_is_one_line_of_json_in_the_log(gateway: Gateway, rest: Rest) -> None:
    headers = [("X-Request-Id", f"log-{rest.tenant}"), ("User-Agent", "tests")]
    await rest.send("GET", f"{JOBS}/none?executions_limit=1", headers=headers)

    line = await gateway.logged("request", request_id=f"log-{rest.tenant}")

    assert line["level"] == "INFO"
    assert {key: line[key] for key in ("method", "path", "route", "status", "tenant")} == {
        "method": "GET",
        "path": f"{JOBS}/none",
        "route": "/customer/jobs/{job_id}",
        "status": 404,
        "tenant": rest.tenant,
    }
    assert line["bytes"] > 0
    assert line["ms"] > 0


async def test_metrics_are_apart_from_the_api(gateway: Gateway, rest: Rest) -> None:
    await rest.send("GET", f"{JOBS}/none")
    await rest.send("BREW", "/coffee")

    async with httpx.AsyncClient(base_url=gateway.metrics_url, timeout=TIMEOUT) as client:
        text = ""

        async def idle() -> bool:
            nonlocal text
            text = (await client.get("/metrics")).text
            return "jobs_gateway_requests_in_flight 0" in text

        await wait_until(idle)  # A request is over a moment after its answer.
        assert (await client.get(JOBS)).status_code == 404

    for labels in (
        'method="GET",route="/customer/jobs/{job_id}",status="404"',
        'method="other",route="none",status="404"',
    ):
        assert f"jobs_gateway_request_seconds_count{{{labels}}}" in text
    assert "go_goroutines" in text
    assert rest.tenant not in text


async def test_a_stop_lets_calls_in_flight_end(
    gateway_binary: Path, server: Server, database: Database, rest: Rest
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)

    async with (
        running(gateway_binary, server.address) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as client,
    ):
        async with job_lock_held(database, rest.tenant, "a"):
            own = Rest(client, rest.tenant)
            call = asyncio.create_task(own.send("DELETE", f"{JOBS}/a"))
            await database.wait_for_blocked_sessions(1)
            gateway.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: _refuses(gateway.url))
            assert gateway.process.returncode is None
        assert (await call).json() == {"job_id": "a", "status": "CANCELED"}
        assert await gateway.process.wait() == 0
    assert gateway.log[-1]["msg"] == "stopped"


async def _refuses(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            await client.get(f"{url}/openapi.json")
    except httpx.TransportError:
        return True
    return False


async def test_browsers_may_call_only_from_origins_that_are_listed(
    gateway_binary: Path, server: Server, client: httpx.AsyncClient
) -> None:
    asked = {"Origin": "https://ops.example.com", "Access-Control-Request-Method": "POST"}

    assert (await client.options(JOBS, headers=asked)).status_code == 405
    off = await client.get(JOBS, headers=asked)
    assert not [name for name in off.headers if name.startswith("access-control")]

    origins = "https://ops.example.com, https://other.example.com"
    async with (
        running(gateway_binary, server.address, CORS_ORIGINS=origins) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as own,
    ):
        preflight = await own.options(JOBS, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://ops.example.com"
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert "x-device-id" in preflight.headers["access-control-allow-headers"]
        assert "x-tenant-id" in preflight.headers["access-control-allow-headers"]
        answer = await own.get(JOBS, headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://ops.example.com"
        assert "X-Next-Page-Token" in answer.headers["access-control-expose-headers"]
        stranger = await own.get(JOBS, headers={"Origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in stranger.headers
        assert stranger.headers["vary"] == "Origin"


TLS = {"TLS_CERT": "a.pem", "TLS_KEY": "a.pem", "TLS_CLIENT_CA": "a.pem"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"LISTEN": "0.0.0.0:0"}, "is not loopback"),
        ({"LISTEN": "0.0.0.0:0", "REQUIRE_TOKEN": "true"}, "tokens would be readable"),
        ({"LISTEN": "nowhere"}, "is not loopback"),
        (TLS | {"LISTEN": "0.0.0.0:0"}, "any caller could name any tenant"),
        ({"TRUSTED_PEERS": "proxy"}, "trusted-peers needs tls-client-ca"),
        ({"TIMEOUT": "soon"}, "JOBS_GATEWAY_TIMEOUT=soon"),
        ({"TIMEOUT": "0"}, "more than 0"),
        ({"CORS_ORIGINS": "*"}, "cors-origins=*"),
        ({"CORS_ORIGINS": "https://a.example, https://b.example/"}, "https://b.example/"),
        ({"CORS_ORIGINS": "ops.example.com"}, "each must be like https://"),
        ({"TLS_CERT": "a.pem"}, "tls-cert and tls-key"),
        ({"TLS_CERT": "no.pem", "TLS_KEY": "no.pem"}, "no.pem"),
        ({"UPSTREAM_CA": "no.pem"}, "no.pem"),
    ],
)
async def test_settings_that_are_wrong_end_the_start(
    gateway_binary: Path, settings: dict[str, str], words: str
) -> None:
    environment = {f"JOBS_GATEWAY_{name}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        gateway_binary, env=environment, stderr=subprocess.PIPE
    )
    _, stderr = await process.communicate()

    assert process.returncode in {1, 2}
    (line,) = stderr.decode().splitlines()
    assert words in (json.loads(line)["error"] if line.startswith("{") else line)
