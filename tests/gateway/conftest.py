"""Fixtures: the binary a session, a running gateway a module, a caller a test."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.support import TIMEOUT, Gateway, Rest, go_build, running
from tests.support.server import Server


@pytest.fixture(scope="session")
def gateway_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway, built from the tree."""
    return go_build(tmp_path_factory.mktemp("gateway") / "jobs-gateway", ".")


@pytest.fixture(scope="module")
async def gateway(gateway_binary: Path, server: Server) -> AsyncIterator[Gateway]:
    """The gateway in front of the module's server."""
    settings = {"METRICS_LISTEN": "127.0.0.1:0", "LOG_LEVEL": "DEBUG"}
    async with running(gateway_binary, server.address, **settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the gateway, nobody in particular."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
def rest(client: httpx.AsyncClient, tenant: str) -> Rest:
    """A caller in the test's tenant."""
    return Rest(client, tenant)
