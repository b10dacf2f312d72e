"""CORS headers for web pages of allowed origins."""

from pathlib import Path

import httpx

from tests.gateway.support import assert_error, running_gateway
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

JOBS = "/customer/jobs"
ALLOWED = {"Origin": "https://ops.example.com", "Access-Control-Request-Method": "POST"}


async def test_cors_headers_are_absent_when_no_origin_is_configured(
    http: httpx.AsyncClient,
) -> None:
    preflight = await http.options(JOBS, headers=ALLOWED)
    assert_error(preflight, 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")

    response = await http.get(JOBS, headers=ALLOWED)
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_cors_headers_are_sent_only_to_allowed_origins(
    gateway_binary: Path, server: Server
) -> None:
    origins = "https://ops.example.com, https://other.example.com"
    async with (
        running_gateway(gateway_binary, server.address, CORS_ORIGINS=origins) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
    ):
        preflight = await http.options(JOBS, headers=ALLOWED)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://ops.example.com"
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert "x-device-id" in preflight.headers["access-control-allow-headers"]
        assert "x-tenant-id" in preflight.headers["access-control-allow-headers"]
        response = await http.get(JOBS, headers=ALLOWED)
        assert response.headers["access-control-allow-origin"] == "https://ops.example.com"
        assert "X-Next-Page-Token" in response.headers["access-control-expose-headers"]
        other = await http.get(JOBS, headers={"Origin": "https://evil.example.com"})
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "Origin"
