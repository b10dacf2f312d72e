"""CORS headers for web pages of allowed origins."""

from pathlib import Path

import httpx
import pytest

from tests.gateway.support import Gateway, assert_error, running_gateway
from tests.support.server import Server
from tests.support.waiting import TIMEOUT

JOBS = "/customer/jobs"
DETAIL = (
    "Web pages of https://ops.example.com may not call this API; an administrator can list the"
    " origin in JOBS_GATEWAY_CORS_ORIGINS"
)
ALLOWED = {"Origin": "https://ops.example.com", "Access-Control-Request-Method": "POST"}


async def test_cors_headers_are_absent_when_no_origin_is_configured(
    http: httpx.AsyncClient,
) -> None:
    for response in (
        await http.options(JOBS, headers=ALLOWED),
        await http.get(JOBS, headers=ALLOWED),
    ):
        assert_error(response, 403, "PERMISSION_DENIED", "ORIGIN_NOT_ALLOWED", DETAIL)
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "{url}"}, True),
        # A proxy has changed the Host; the browser knows the origin.
        ({"Origin": "https://ops.example.com", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://ops.example.com", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "{url}", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "//"}, False),
    ],
)
async def test_web_page_may_call_the_origin_that_served_it(
    http: httpx.AsyncClient, gateway: Gateway, headers: dict[str, str], allowed: bool
) -> None:
    sent = {name: value.format(url=gateway.url) for name, value in headers.items()}

    response = await http.get("/openapi.json", headers=sent)

    assert response.status_code == (200 if allowed else 403), response.text


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
        assert_error(other, 403, "PERMISSION_DENIED", "ORIGIN_NOT_ALLOWED")
        assert "access-control-allow-origin" not in other.headers
        assert other.headers["vary"] == "Origin"
