"""Metrics with several workers: one scrape has the metrics of all of them."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.support.database import Database
from tests.support.metrics import scrape, scrape_until
from tests.support.server_process import connected_operator, serving
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

CALLS = 60


@asynccontextmanager
async def _workers(database: Database) -> AsyncIterator[tuple[str, str, list[int]]]:
    """Run two workers; yields the address, that of the metrics, and the pids of the workers."""
    metrics_on = {"JOBS_METRICS_LISTEN": "127.0.0.1:0", "JOBS_LOG_LEVEL": "INFO"}
    async with serving(database.request_dsn, "--workers", "2", **metrics_on) as service:
        metrics = await service.wait_for_log(r"metrics on http://(\S+)/")
        pids = [int(await service.wait_for_log(r"is pid (\d+)")) for _ in range(2)]
        yield await service.address(), metrics, pids
        service.process.terminate()
        assert await service.wait_for_exit() == 0


async def _call(address: str, tenant: str, count: int) -> None:
    """List jobs on that many connections, one call each."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await (await stack.enter_async_context(connected_operator(address, tenant))).list()


async def test_one_scrape_has_the_calls_of_all_workers_until_one_hangs_or_is_replaced(
    database: Database, tenant: str
) -> None:
    """`rate` and `increase` of each series are right; a sum over the workers would not be."""
    async with _workers(database) as (address, metrics, pids):
        await _call(address, tenant, CALLS)
        read = await scrape_until(
            metrics,
            lambda read: (
                read.calls("handled_total", "ListJobs") == CALLS and read.value("jobs_serving") == 2
            ),
        )
        os.kill(pids[1], signal.SIGSTOP)
        # The page of the last second may still be sent.
        hanging = await scrape_until(metrics, lambda read: read.value("jobs_worker_up") == 1)
        os.kill(pids[1], signal.SIGCONT)
        reads = [await scrape_until(metrics, lambda read: read.value("jobs_worker_up") == 2)]
        os.kill(pids[1], signal.SIGKILL)

        async def worker_is_replaced() -> bool:
            reads.append(await scrape(metrics))
            return (
                reads[-1].value("jobs_worker_restarts_total") == 1
                and reads[-1].value("jobs_worker_up") == 2
            )

        await wait_until(worker_is_replaced)

    assert read.labels("jobs_worker_up", "worker") == {"1", "2"}
    assert read.labels("process_resident_memory_bytes", "worker") == {"1", "2"}
    assert read.value("jobs_worker_up") == read.value("jobs_serving") == 2
    by_worker = [read.calls("handled_total", "ListJobs", worker=worker) for worker in "12"]
    assert sum(by_worker) == CALLS
    assert min(by_worker) > 0
    [stopped] = [n for n in "12" if hanging.value("jobs_worker_up", worker=n) == 0]
    assert stopped not in hanging.labels("jobs_serving", "worker")
    restarts = [read.value("jobs_worker_restarts_total") for read in reads]
    assert restarts == sorted(restarts)
    assert restarts[0] == 0
    assert reads[-1].value("jobs_worker_restarts_total", worker=stopped) == 1
    kept = "12".replace(stopped, "")
    counts = [read.calls("handled_total", "ListJobs", worker=kept) for read in reads]
    assert counts == [counts[0]] * len(counts)
    assert reads[-1].calls("handled_total", "ListJobs", worker=stopped) == 0
