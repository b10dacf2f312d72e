"""Fixtures: clients of the test's tenant, which reconnect quickly."""

from collections.abc import AsyncIterator

import pytest

from jobs_grpc.client import JobsClient, RetryPolicy
from tests.client.scripted import QUICK
from tests.support.server import Server


@pytest.fixture
def quick() -> RetryPolicy:
    return QUICK


@pytest.fixture
async def jobs(server: Server, tenant: str) -> AsyncIterator[JobsClient]:
    async with JobsClient(server.address, tenant=tenant, user="olivia", retry=QUICK) as client:
        yield client
