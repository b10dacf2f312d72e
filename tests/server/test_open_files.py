"""The limit on open files: raised as far as possible, and logged if it is low."""

import asyncio
import logging
import resource

import pytest

from jobs_grpc.server.open_files import raise_open_file_limit
from tests.support.database import Database
from tests.support.health import wait_until_healthy
from tests.support.server import open_channel
from tests.support.server_process import running_server_process
from tests.support.waiting import TIMEOUT


def test_open_file_limit_is_raised_to_the_hard_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))

    raise_open_file_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_open_file_limit_is_logged_when_it_is_low(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 300))

    raise_open_file_limit()

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("at most 300 files can be open")
    assert "ulimit -n" in record.message


@pytest.mark.slow
async def test_connections_are_served_again_when_more_were_idle_than_files_can_be_open(
    database: Database, tenant: str
) -> None:
    """600 idle connections to a process that can open 300 files."""
    async with running_server_process(database.request_dsn) as process:
        operator = process.operator(tenant)
        await operator.list()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (300, 300))
        host, port = process.address.rsplit(":", 1)
        async with asyncio.timeout(TIMEOUT):
            idle = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(600)]
        await operator.list()
        async with open_channel(process.address) as channel:
            waiting = asyncio.create_task(wait_until_healthy(channel))
            await operator.list()
            assert not waiting.done()

            for writer in idle:
                writer.close()

            await waiting
