"""Fixtures: a server with JOBS_AUTH=jwt, and an endpoint with keys."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.auth.support import OLD, JwksEndpoint, jwt_settings
from tests.support.database import Database
from tests.support.server import Server, running_server


@pytest.fixture(scope="module")
async def jwt(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    settings = jwt_settings(tmp_path_factory.mktemp("keys"))
    async with running_server(database.request_dsn, **settings) as server:
        yield server


@pytest.fixture
def endpoint() -> Iterator[JwksEndpoint]:
    endpoint = JwksEndpoint(OLD)
    yield endpoint
    endpoint.close()
