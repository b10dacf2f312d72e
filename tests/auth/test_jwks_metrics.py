"""Metrics of the keys that verify tokens."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.auth.support import JWT_SETTINGS, KEY, JwksEndpoint
from tests.support.database import Database
from tests.support.metrics import METRICS_ON, scrape
from tests.support.server import DEFAULT_OPTIONS, running_server
from tests.support.waiting import wait_until

OPTIONS = replace(DEFAULT_OPTIONS, metrics_max_age=0.0)


@pytest.fixture
def endpoint() -> Iterator[JwksEndpoint]:
    """A JWKS endpoint with KEY."""
    endpoint = JwksEndpoint(KEY)
    yield endpoint
    endpoint.close()


@pytest.mark.slow
async def test_age_of_the_keys_grows_while_refreshes_fail(
    database: Database, endpoint: JwksEndpoint
) -> None:
    settings = JWT_SETTINGS | METRICS_ON
    async with running_server(
        database.request_dsn,
        OPTIONS,
        JOBS_JWT_KEYS=endpoint.url,
        JOBS_JWT_REFRESH_INTERVAL="1",
        **settings,
    ) as server:
        first = await scrape(server.app.metrics_address)
        await asyncio.to_thread(setattr, endpoint, "status", 500)

        async def refresh_failed() -> bool:
            read = await scrape(server.app.metrics_address)
            return read.value("jobs_jwks_refresh_failures_total") > 0

        await wait_until(refresh_failed)
        read = await scrape(server.app.metrics_address)

    assert first.value("jobs_jwks_keys") == read.value("jobs_jwks_keys") == 1
    assert "jobs_jwks_refresh_failures" in first.families
    assert read.value("jobs_jwks_age_seconds") >= 1
