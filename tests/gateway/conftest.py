"""Fixtures for tests of the REST gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import Gateway, RestClient, build_gateway, running_gateway
from tests.support.database import Database
from tests.support.server import Server
from tests.support.waiting import TIMEOUT


@pytest.fixture(scope="session")
def gateway_binary() -> Path:
    """Build the gateway once per session."""
    return build_gateway()


@pytest.fixture(scope="module")
async def gateway(gateway_binary: Path, server: Server) -> AsyncIterator[Gateway]:
    """Run the gateway in front of the module's gRPC server."""
    settings = {"METRICS_LISTEN": "127.0.0.1:0", "LOG_LEVEL": "DEBUG"}
    async with running_gateway(gateway_binary, server.address, **settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway that sends no identity headers."""
    # Reading CA certificates, which plain HTTP does not need, takes longer than many tests.
    async with httpx.AsyncClient(
        base_url=gateway.url,
        timeout=TIMEOUT,
        verify=False,  # noqa: S501
    ) as http:
        yield http


@pytest.fixture
def rest(http: httpx.AsyncClient, tenant: str) -> RestClient:
    return RestClient(http, tenant)


@pytest.fixture
async def job(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
