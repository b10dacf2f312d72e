"""Fixtures of the tests that need a server with JOBS_AUTH=jwt."""

from collections.abc import AsyncIterator

import pytest

from tests.auth.support import JWT_SETTINGS, KEY
from tests.support.database import Database
from tests.support.identities import jwks
from tests.support.server import Server, running_server


@pytest.fixture(scope="module")
async def jwt(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server that verifies tokens with KEY."""
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(jwks(KEY))
    async with running_server(
        database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT_SETTINGS
    ) as server:
        yield server
