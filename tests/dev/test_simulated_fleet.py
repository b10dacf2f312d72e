"""The devices of `jobs-grpc dev --simulate`; tests/cli/test_dev.py runs them with a server."""

import asyncio

import pytest

from jobs_grpc.dev.simulated_fleet import start_simulated_fleet
from tests.support.server import reserved_address
from tests.support.waiting import TIMEOUT


@pytest.mark.slow
async def test_simulated_fleet_ends_when_its_stdin_is_closed() -> None:
    with reserved_address() as address:
        process = start_simulated_fleet(address)
        assert process.stdin is not None
        process.stdin.close()

        assert await asyncio.to_thread(process.wait, TIMEOUT) == 0
