"""Metrics: a scrape of a real server agrees with what was sent to it."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from jobs_grpc.cli.program import run
from jobs_grpc.errors import EvaluationRunning
from jobs_grpc.observability.call_metrics import CallMetrics
from tests.support.callers import Operator, read_to_end
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_error, expect_failure
from tests.support.health import is_healthy
from tests.support.metrics import METRICS_ON, Scrape, scrape, scrape_until, scrape_until_idle
from tests.support.proxy import running_proxy
from tests.support.server import DEFAULT_OPTIONS, Server, running_server
from tests.support.waiting import TIMEOUT

OPTIONS = replace(DEFAULT_OPTIONS, metrics_max_age=0.0)

JOB_SERVICE = "fleet.jobs.v1.JobService"
DEVICE_SERVICE = "fleet.jobs.v1.DeviceJobService"


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with running_server(database.request_dsn, OPTIONS, **METRICS_ON) as running:
        yield running


async def _wait_for(server: Server, name: str, value: float, **labels: str) -> Scrape:
    return await scrape_until(
        server.app.metrics_address, lambda read: read.value(name, **labels) == value
    )


async def test_unary_calls_are_counted_by_method_and_code(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    await asyncio.gather(*(operator.get("j") for _ in range(90)))
    for _ in range(3):
        await expect_error("JOB_NOT_FOUND", operator.get("none"))
    await expect_error("TENANT_REQUIRED", server.caller().get("j"))

    read = await scrape_until_idle(server.app.metrics_address)

    labels = {"grpc_type": "unary", "grpc_service": JOB_SERVICE}
    assert read.calls("started_total", "GetJob", **labels) == 94
    assert read.calls("handled_total", "GetJob", grpc_code="OK", **labels) == 90
    assert read.calls("handled_total", "GetJob", grpc_code="NotFound") == 3
    assert read.calls("handled_total", "GetJob", grpc_code="Unauthenticated") == 1
    assert read.calls("handled_total", "GetJob") == 94
    assert read.calls("handling_seconds_count", "GetJob", **labels) == 94
    assert read.calls("handling_seconds_bucket", "GetJob", le="+Inf") == 94
    assert 0 < read.calls("handling_seconds_sum", "GetJob") < 94 * TIMEOUT
    # The server does not read the request of a caller that it cannot authenticate.
    assert read.calls("msg_received_total", "GetJob", **labels) == 93
    assert read.calls("msg_sent_total", "GetJob", **labels) == 90
    assert read.calls("handled_total", "CreateJob", grpc_code="OK") == 1


async def test_streams_and_their_messages_are_counted(
    server: Server, database: Database, operator: Operator
) -> None:
    devices = [f"d{n}" for n in range(10)]
    await database.add_devices(operator.tenant, devices)
    await operator.create(job_id="j", target_all=True)
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    stream = stub.ReportExecutions(metadata=(("x-tenant-id", operator.tenant),), timeout=TIMEOUT)
    update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.IN_PROGRESS)
    for device in devices:
        await stream.write(
            device_pb.ReportExecutionsRequest(report_id=device, device_id=device, report=update)
        )
    await stream.done_writing()
    await read_to_end(stream)

    jobs: Any = operator.stub
    watch = jobs.WatchJob(
        pb.WatchJobRequest(job_id="j"), metadata=operator.metadata, timeout=TIMEOUT
    )
    await watch.read()
    open_watch = await scrape(server.app.metrics_address)
    await operator.cancel("j", force=True)
    await read_to_end(watch)

    read = await scrape_until_idle(server.app.metrics_address)

    report = {"grpc_type": "bidi_stream", "grpc_service": DEVICE_SERVICE}
    assert read.calls("started_total", "ReportExecutions", **report) == 1
    assert read.calls("handled_total", "ReportExecutions", grpc_code="OK", **report) == 1
    assert read.calls("msg_received_total", "ReportExecutions", **report) == 10
    assert read.calls("msg_sent_total", "ReportExecutions", **report) == 10
    assert open_watch.value("jobs_watches", grpc_method="WatchJob") == 1
    assert open_watch.calls("started_total", "WatchJob", grpc_type="server_stream") == 1
    assert open_watch.calls("handled_total", "WatchJob") == 0
    assert read.calls("handled_total", "WatchJob", grpc_code="OK") == 1
    assert read.calls("msg_sent_total", "WatchJob") == 2
    assert read.value("jobs_update_batch_size_sum") == 10
    assert 1 <= read.value("jobs_update_batch_size_count") <= 10
    assert read.value("jobs_update_wait_seconds_count") == 10
    await _wait_for(server, "jobs_watches", 0)


@pytest.mark.slow
async def test_finished_executions_are_counted_once_by_status(
    database: Database, tenant: str
) -> None:
    await database.owner.execute("DELETE FROM jobs.jobs")
    devices = [f"d{n}" for n in range(8)]
    await database.add_devices(tenant, devices)
    async with running_server(
        database.request_dsn, OPTIONS, JOBS_OWNER_DATABASE_URL=database.owner_dsn, **METRICS_ON
    ) as server:
        operator = server.operator(tenant)

        async def finished(**expected: int) -> None:
            for status, count in expected.items():
                read = await _wait_for(
                    server, "jobs_executions_finished_total", count, status=status
                )
            for status in {"SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED"} - expected.keys():
                assert read.value("jobs_executions_finished_total", status=status) == 0

        # 2 succeed, 1 fails, 2 reject (one by an operator), 1 is too slow, 2 stay queued.
        await operator.create(job_id="j", target_all=True, in_progress_timeout_minutes=1)
        device = [server.device(tenant, name) for name in devices]
        await device[0].start("j")
        for _ in range(2):  # Safe to repeat.
            await asyncio.gather(*(device[n].update("j", "SUCCEEDED") for n in (0, 1)))
        await device[2].update("j", "FAILED")
        await device[3].update("j", "REJECTED")
        await operator.cancel_execution("j", devices[4])
        await finished(SUCCEEDED=2, FAILED=1, REJECTED=2)
        await device[5].start("j")
        await database.make_overdue(tenant, "j")
        await finished(SUCCEEDED=2, FAILED=1, REJECTED=2, TIMED_OUT=1)
        # A cancel counts when the sweeper stores the statuses that readers derive.
        await operator.cancel("j")
        await finished(SUCCEEDED=2, FAILED=1, REJECTED=4, TIMED_OUT=1)
        # So does an expiry.
        await operator.create(job_id="k", target_all=True)
        await database.expire(tenant, "k")
        await finished(SUCCEEDED=2, FAILED=1, REJECTED=4, TIMED_OUT=9)


async def test_retry_of_an_expired_job_counts_the_executions_that_timed_out(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["a", "b", "c"])
    await operator.create(job_id="j", target_all=True)
    await database.expire(operator.tenant, "j")

    await operator.retry("j", pb.JobExecution.TIMED_OUT, device_ids=["a"], expires_in_hours=1)
    await operator.retry("j", pb.JobExecution.TIMED_OUT)

    read = await scrape(server.app.metrics_address)
    assert read.value("jobs_executions_finished_total", status="TIMED_OUT") == 3


async def test_canceled_call_is_counted_as_canceled(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    async with job_lock_held(database, operator.tenant, "j"):
        call = await database.blocked(operator.cancel("j"))
        in_use = await _wait_for(server, "jobs_database_connections", 1, state="in_use")
        call.cancel()
        read = await _wait_for(
            server, "grpc_server_handled_total", 1, grpc_method="CancelJob", grpc_code="Canceled"
        )

    assert in_use.calls("started_total", "CancelJob") == 1
    assert in_use.calls("handled_total", "CancelJob") == 0
    assert read.calls("msg_received_total", "CancelJob") == 1
    assert read.calls("msg_sent_total", "CancelJob") == 0


async def test_refused_calls_are_counted_by_the_setting_of_the_limit(
    database: Database, tenant: str
) -> None:
    variables = METRICS_ON | {
        "JOBS_MAX_TENANT_CALLS": "1",
        "JOBS_MAX_TARGETS": "1",
        "JOBS_POOL_MAX_SIZE": "1",
        "JOBS_POOL_TIMEOUT": "0.05",
    }
    async with running_server(database.request_dsn, OPTIONS, **variables) as server:
        operator = server.operator(tenant)
        await database.add_devices(tenant, ["pump", "valve"])
        await expect_error("LIMIT_EXCEEDED", operator.create(target_all=True))
        await operator.create(job_id="j", target_device_id="pump")
        before = await scrape(server.app.metrics_address)
        async with job_lock_held(database, tenant, "j"):
            blocked = await database.blocked(operator.cancel("j", force=True))
            await expect_error("LIMIT_EXCEEDED", operator.get("j"))
            # Another tenant waits for the only connection.
            await expect_error("OVERLOADED", server.operator("other").get("j"))
        await blocked
        read = await scrape_until_idle(server.app.metrics_address)

    assert before.value("jobs_refused_calls_total", setting="JOBS_MAX_TARGETS") == 1
    # A limit has a count from the start, so that a rate includes the first refusal.
    assert before.value("jobs_refused_calls_total", setting="JOBS_MAX_TENANT_CALLS") == 0
    assert "JOBS_MAX_TENANT_CALLS" in before.labels("jobs_refused_calls_total", "setting")
    assert read.value("jobs_refused_calls_total", setting="JOBS_MAX_TENANT_CALLS") == 1
    assert read.value("jobs_refused_calls_total", setting="JOBS_POOL_TIMEOUT") == 1
    assert read.value("jobs_refused_calls_total") == 3
    assert read.value("jobs_database_connection_wait_seconds_count") == 1
    assert read.value("jobs_database_connection_wait_seconds_sum") >= 0.05
    assert read.value("jobs_database_connections_max") == 1


def test_refused_call_is_counted_when_no_setting_changes_its_limit() -> None:
    calls = CallMetrics()
    handler: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: request)

    calls.add_method("/fleet.jobs.v1.JobService/CreateJob", handler).end(
        StatusCode.RESOURCE_EXHAUSTED, EvaluationRunning(), 0.1
    )

    assert calls.refused[""] == 1


async def test_labels_name_no_tenant_device_job_or_unknown_method(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["pump-4711"])
    await operator.create(job_id="job-4711", target_device_id="pump-4711")
    await server.device(operator.tenant, "pump-4711").start("job-4711")
    for method in (f"/{JOB_SERVICE}/Made-4711", "/made.4711/Get"):
        with expect_failure(StatusCode.UNIMPLEMENTED):
            call: Any = server.channel.unary_unary(method)
            await call(b"", timeout=TIMEOUT)

    read = await scrape_until_idle(server.app.metrics_address)

    values = {
        value
        for family in read.families.values()
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert not [value for value in values if "4711" in value or operator.tenant in value]


async def test_outage_of_the_database_is_counted_once(database: Database, tenant: str) -> None:
    async with (
        running_proxy(database.request_dsn) as proxy,
        running_server(proxy.dsn, OPTIONS, JOBS_QUERY_TIMEOUT="2", **METRICS_ON) as server,
    ):
        before = await scrape(server.app.metrics_address)
        proxy.freeze()
        down = await _wait_for(server, "jobs_database_up", 0)
        await expect_error("DATABASE_UNAVAILABLE", server.operator(tenant).get("j"))
        proxy.thaw()
        up = await _wait_for(server, "jobs_database_up", 1)

    assert before.value("jobs_database_up") == before.value("jobs_serving") == 1
    # On a busy machine, a slow connection at the start can count as an outage.
    outages = before.value("jobs_database_outages_total") + 1
    assert down.value("jobs_database_outages_total") == outages
    assert up.value("jobs_database_outages_total") == outages
    assert up.calls("handled_total", "GetJob", grpc_code="Unavailable") == 1


async def test_waiting_updates_and_buffered_bytes_are_shown(
    server: Server, database: Database, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, 3)
    await operator.create(job_id="j", target_all=True)
    (first, *others) = [server.device(operator.tenant, f"d0000{n}") for n in (1, 2, 3)]
    await first.start("j")
    async with job_lock_held(database, operator.tenant, "j"):
        calls = [asyncio.create_task(first.update("j", "SUCCEEDED"))]
        await database.wait_for_blocked_sessions(1)
        # Its batch has left the queue and waits for the lock; these wait for that batch.
        calls += [asyncio.create_task(device.start("j")) for device in others]
        queued = await _wait_for(server, "jobs_updates_queued", 2)
    await asyncio.gather(*calls)
    idle = await _wait_for(server, "jobs_buffered_bytes", 0)

    assert queued.value("jobs_buffered_bytes") > 0
    assert idle.value("jobs_buffered_bytes_max") == 134217728
    assert idle.value("jobs_updates_queued") == 0
    assert idle.value("jobs_update_wait_seconds_count") == 4


async def test_server_metrics_include_process_build_and_event_loop(server: Server) -> None:
    read = await scrape(server.app.metrics_address)

    assert read.value("process_resident_memory_bytes") > 1e6
    assert read.value("process_open_fds") > 1
    assert read.value("jobs_build_info") == 1
    assert await is_healthy(server.channel)
    lags = "jobs_event_loop_lag_seconds_count"
    await scrape_until(server.app.metrics_address, lambda read: read.value(lags) > 0)


async def test_server_without_the_setting_counts_nothing(database: Database) -> None:
    async with running_server(database.request_dsn) as server:
        assert server.app.metrics_address is None


Serve = Callable[..., tuple[int, str]]


@pytest.fixture
def serve(
    restored_logging: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Serve:
    """Runs `jobs-grpc serve` with an address of metrics; returns the exit code and stderr."""

    def serve(workers: str, metrics: str = "127.0.0.1:0") -> tuple[int, str]:
        variables = {"DATABASE_URL": "postgresql://127.0.0.1:1/none", "LISTEN": "127.0.0.1:0"}
        # No warning about the variables of the tests, such as JOBS_TEST_SCALE.
        variables |= {"METRICS_LISTEN": metrics, "LOG_LEVEL": "ERROR"}
        for name, value in variables.items():
            monkeypatch.setenv(f"JOBS_{name}", value)
        return run(["serve", "--workers", workers]), capsys.readouterr().err

    return serve


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_fails_with_one_line_when_extra_is_not_installed(
    workers: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    assert serve(workers) == (
        2,
        "jobs-grpc: JOBS_METRICS_LISTEN needs the extra metrics (prometheus_client can't be"
        ' imported): pip install "jobs-grpc[metrics]"\n',
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_fails_with_one_line_when_metrics_address_is_in_use(
    workers: str, serve: Serve
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        assert serve(workers, address) == (
            1,
            f"jobs-grpc: can't listen on {address} (JOBS_METRICS_LISTEN): it is in use or not"
            " an address of this machine\n",
        )
