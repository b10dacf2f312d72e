"""Traces: spans of calls and statements, and trace ids in the log."""

import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from jobs_grpc.observability import logs, tracing
from tests.support.callers import Operator
from tests.support.database import Database, job_lock_held
from tests.support.failures import expect_error
from tests.support.otlp import Receiver, running_receiver
from tests.support.server import Server
from tests.support.server_process import connected_operator, serving
from tests.support.waiting import wait_until_true

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
TRACEPARENT = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")
LIST_JOBS = "fleet.jobs.v1.JobService/ListJobs"
CANCEL_JOB = "fleet.jobs.v1.JobService/CancelJob"


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as running:
        yield running


@asynccontextmanager
async def _running(
    database: Database, **variables: str
) -> AsyncIterator[tuple[Operator, list[str]]]:
    """Run `jobs-grpc serve`; yield an operator of the tenant "acme" and the lines of the log."""
    async with serving(database.request_dsn, **variables) as service:
        async with connected_operator(await service.address(), "acme") as operator:
            yield operator, service.log
        service.process.terminate()
        await service.wait_for_exit()


@pytest.fixture(scope="module")
async def traced(
    database: Database, receiver: Receiver
) -> AsyncIterator[tuple[Operator, list[str]]]:
    async with _running(database, **receiver.variables) as running:
        yield running


def _with_metadata(operator: Operator, *metadata: tuple[str, str]) -> Operator:
    return Operator(
        operator.stub, operator.tenant, explicit_metadata=(*operator.metadata, *metadata)
    )


@pytest.mark.slow
async def test_call_and_its_statement_are_spans_of_the_trace_of_the_caller(
    traced: tuple[Operator, list[str]], receiver: Receiver
) -> None:
    operator, log = traced
    await _with_metadata(operator, TRACEPARENT, ("x-request-id", "order-66")).list()

    call = await receiver.wait_for(LIST_JOBS, TRACE_ID)
    assert call.service == "jobs-grpc"
    assert call.span.kind == Span.SPAN_KIND_SERVER
    assert call.span.parent_span_id.hex() == PARENT_ID
    assert call.span.status.code == Status.STATUS_CODE_UNSET
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": LIST_JOBS,
        "rpc.response.status_code": "OK",
        "jobs.request_id": "order-66",
        "jobs.tenant": "acme",
    }
    statement = await receiver.wait_for("jobs.list_jobs", TRACE_ID)
    assert statement.span.kind == Span.SPAN_KIND_CLIENT
    assert statement.span.parent_span_id == call.span.span_id
    assert statement.attributes["db.query.text"].startswith(
        "SELECT * FROM jobs.list_jobs(p_tenant_id =>"
    )
    assert (await _line(log, "order-66")).endswith(f"trace_id={TRACE_ID}")


async def _line(log: list[str], text: str) -> str:
    await wait_until_true(lambda: any(text in line for line in log))
    [line] = [line for line in log if text in line]
    return line


@pytest.mark.slow
async def test_call_without_a_trace_starts_one_that_the_log_names(
    traced: tuple[Operator, list[str]], receiver: Receiver
) -> None:
    operator, log = traced
    await _with_metadata(operator, ("x-request-id", "new-trace")).list()

    trace_id = (await _line(log, "new-trace")).rpartition("trace_id=")[2]
    call = await receiver.wait_for(LIST_JOBS, trace_id)
    assert call.span.parent_span_id == b""
    assert call.attributes["jobs.request_id"] == "new-trace"


@pytest.mark.slow
async def test_span_of_a_rejected_call_has_its_status_and_reason(
    traced: tuple[Operator, list[str]], receiver: Receiver
) -> None:
    operator, _ = traced
    await expect_error("JOB_NOT_FOUND", operator.get("missing"))

    call = await receiver.wait_for("fleet.jobs.v1.JobService/GetJob")
    assert call.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert call.attributes["error.type"] == "JOB_NOT_FOUND"
    assert call.span.status.code == Status.STATUS_CODE_UNSET  # the caller's mistake
    statement = await receiver.wait_for("jobs.get_job", call.trace_id)
    assert statement.attributes["error.type"] == "JB005"


@pytest.mark.slow
async def test_spans_of_a_call_that_times_out_are_errors(
    database: Database, server: Server, receiver: Receiver
) -> None:
    await database.add_devices("acme", ["d"])
    await server.operator("acme").create(job_id="j", target_all=True)
    async with (
        job_lock_held(database, "acme", "j"),
        _running(database, JOBS_QUERY_TIMEOUT="0.5", **receiver.variables) as (operator, _),
    ):
        await expect_error("QUERY_TIMEOUT", operator.cancel("j"))

    call = await receiver.wait_for(CANCEL_JOB)
    assert call.attributes["rpc.response.status_code"] == "UNAVAILABLE"
    assert call.span.status.code == Status.STATUS_CODE_ERROR
    statement = await receiver.wait_for("jobs.cancel_job", call.trace_id)
    assert statement.span.status.code == Status.STATUS_CODE_ERROR
    assert statement.attributes["error.type"] == "TimeoutError"


@pytest.mark.slow
async def test_calls_succeed_and_the_server_stops_when_the_collector_is_away(
    database: Database,
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "9",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "3",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
    }
    async with _running(database, **variables) as (operator, log):
        for _ in range(100):
            await operator.list()

    assert "Traceback" not in "".join(log)
    dropped = [line for line in log if "Queue full, dropping Span" in line]
    assert 1 <= len(dropped) <= 2
    assert not any("request_id" in line for line in dropped)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-01 trace_id=x",
    ],
)
def test_malformed_traceparent_is_ignored(traceparent: str) -> None:
    assert tracing.start_call("/s/M", [("traceparent", traceparent)]) is None
    assert logs.trace_id.get() is None


@pytest.mark.slow
async def test_log_names_the_trace_of_the_caller_when_tracing_is_off(
    server: Server, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs_grpc.calls")
    caplog.handler.setFormatter(logs.TextFormatter())
    await server.caller(("x-tenant-id", tenant), TRACEPARENT).list()

    await wait_until_true(
        lambda: any(f"trace_id={TRACE_ID}" in line for line in caplog.text.splitlines())
    )


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER=zipkin is not supported"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            },
            "the OTLP protocol http/protobuf is not supported",
        ),
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ""),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ""),
    ],
)
def test_tracing_is_off_and_the_log_says_why(
    environ: dict[str, str], problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tracing.exporting(environ):
        assert tracing.start_call("/s/M", []) is None

    assert (problem in caplog.text) if problem else not caplog.text


@pytest.mark.slow
def test_opentelemetry_is_not_imported_when_tracing_is_off() -> None:
    code = (
        "import sys; from jobs_grpc.observability import tracing; import jobs_grpc.server.run\n"
        "with tracing.exporting({}): tracing.start_call('/s/M', [])\n"
        "assert 'opentelemetry' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603


@pytest.mark.slow
def test_log_names_the_extra_when_it_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from jobs_grpc.observability import tracing\n"
        "with tracing.exporting({'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:1'}):\n"
        "    assert tracing.start_call('/s/M', []) is None"
    )
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert "the extra `otel` is not installed" in result.stderr
