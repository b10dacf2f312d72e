"""Fixtures: a certificate authority that deliveries trust, and HTTPS endpoints."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.endpoints import Endpoint, running_endpoint, server_context
from tests.support.identities import Authority


@pytest.fixture(scope="module")
def endpoint_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """The TLS of endpoints on 127.0.0.1 and localhost, and the file of its authority."""
    folder = tmp_path_factory.mktemp("endpoint")
    authority = Authority()
    path = folder / "ca.pem"
    path.write_bytes(authority.certificate)
    return server_context(authority.server(), folder), path


@pytest.fixture
async def endpoint(
    endpoint_tls: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Endpoint]:
    """An HTTPS endpoint whose authority is that of the system."""
    context, authority = endpoint_tls
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with running_endpoint(context) as running:
        yield running
