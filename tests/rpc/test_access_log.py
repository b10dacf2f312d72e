"""The access log: one line per call, as text or JSON, without documents."""

import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.callers import Operator, read_to_end
from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.health import is_healthy
from tests.support.logging_setup import configured_logging
from tests.support.postgres import Postgres, connect
from tests.support.report_streams import Stream, reporting
from tests.support.server import DEFAULT_OPTIONS, Server, running_server
from tests.support.waiting import wait_until

SECRET = "hunter2"


async def _line(written: io.StringIO, text: str) -> str:
    """Wait for the only line with `text`. A call is logged shortly after its response."""

    async def is_written() -> bool:
        return text in written.getvalue()

    await wait_until(is_written)
    [line] = [line for line in written.getvalue().splitlines() if text in line]
    return line


@pytest.fixture
async def broken_server(cluster: tuple[Postgres, str]) -> AsyncIterator[Server]:
    """A server whose database rejects each new job with an error that the code does not expect."""
    postgres, template = cluster
    async with postgres.database(template) as name:
        owner = await connect(postgres.dsn(name))
        dsn = postgres.dsn(name, postgres.role)
        await owner.execute("ALTER TABLE jobs.jobs ADD CONSTRAINT unexpected CHECK (false)")
        await Database(postgres.dsn(name), dsn, owner).add_devices("tenant", 1)
        await owner.close()
        async with running_server(dsn) as server:
            yield server


async def test_call_is_logged_as_one_line_of_text(operator: Operator) -> None:
    with configured_logging("text") as written:
        await operator.list()
        line = await _line(written, "ListJobs")

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 INFO    ListJobs OK"
        rf" tenant={operator.tenant} ms=\d+(\.\d+)? request_id=[0-9a-f-]{{36}}",
        line,
    )
    assert written.getvalue().count("\n") == 1


async def test_call_is_logged_as_one_line_of_json(operator: Operator) -> None:
    with configured_logging("json") as written:
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
            await operator.get("missing")
        record: dict[str, Any] = json.loads(await _line(written, "GetJob"))

    assert record["message"] == "GetJob NOT_FOUND"
    assert record["level"] == "INFO"
    assert record["logger"] == "jobs_grpc.calls"
    assert record["tenant"] == operator.tenant
    assert record["ms"] > 0
    assert record["request_id"] == failure.request_id


async def test_unauthenticated_call_is_logged_without_a_tenant(server: Server) -> None:
    with configured_logging("json") as written:
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_METADATA"):
            await server.operator("").list()
        record = json.loads(await _line(written, "ListJobs"))

    assert record["message"] == "ListJobs UNAUTHENTICATED"
    assert "tenant" not in record


async def test_request_id_of_the_caller_is_logged(operator: Operator) -> None:
    metadata = (*operator.metadata, ("x-request-id", "order-66"))
    with configured_logging("json") as written:
        with expect_failure(StatusCode.NOT_FOUND, "JOB_NOT_FOUND") as failure:
            await operator.stub.GetJob(pb.GetJobRequest(job_id="missing"), metadata=metadata)
        record = json.loads(await _line(written, "GetJob"))

    assert record["request_id"] == failure.request_id == "order-66"


async def test_call_of_a_device_is_logged_with_subject_device_and_job(
    database: Database, server: Server, operator: Operator
) -> None:
    await database.add_devices(operator.tenant, ["pump"])
    await operator.create(job_id="j", target_all=True)
    pump = server.device(operator.tenant, "pump")
    bridge = (*pump.metadata, ("x-roles", "bridge"), ("x-user-id", "mallory"))
    request = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
    with configured_logging("json") as written:
        await pump.start_next()
        await pump.stub.UpdateExecution(request, metadata=bridge)
        with expect_failure(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await pump.get("other")
        await pump.pending()
        await _line(written, "ListPendingExecutions")

    records = map(json.loads, written.getvalue().splitlines())
    names = ("message", "subject", "device_id", "job_id")
    assert [tuple(record.get(name) for name in names) for record in records] == [
        ("StartNextExecution OK", None, "pump", "j"),
        ("UpdateExecution OK", "mallory", "pump", "j"),
        ("GetExecution NOT_FOUND", None, "pump", "other"),
        ("ListPendingExecutions OK", None, "pump", None),
    ]


async def _report(stream: Stream, reports: int) -> None:
    """Send a message with that many reports, which all fail, and read the response."""
    update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
    report = device_pb.ExecutionReport(report_id="1", device_id="pump", report=update)
    await stream.write(device_pb.ReportExecutionsRequest(reports=[report] * reports))
    await stream.read()


async def test_reports_of_a_stream_are_counted_when_it_ends(
    server: Server, operator: Operator
) -> None:
    with configured_logging("json") as written:
        async with reporting(server, operator.tenant) as stream:
            await _report(stream, 3)
            await _report(stream, 1)
            assert "reports" not in written.getvalue()
            await stream.done_writing()
            await read_to_end(stream)
        record = json.loads(await _line(written, "ReportExecutions stream"))

    assert (record["tenant"], record["reports"]) == (operator.tenant, 4)


async def test_reports_of_a_stream_are_counted_while_it_is_open(
    database: Database, tenant: str
) -> None:
    options = replace(DEFAULT_OPTIONS, report_log_seconds=0.0)
    with configured_logging("json") as written:
        async with (
            running_server(database.request_dsn, options) as server,
            reporting(server, tenant, "pump") as stream,
        ):
            for count in (1, 2):
                await _report(stream, count)
                record = json.loads(await _line(written, f'"reports": {count}'))
                assert (record["device_id"], record["tenant"]) == ("pump", tenant)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_unexpected_error_is_logged_with_its_traceback(
    broken_server: Server, log_format: str
) -> None:
    with configured_logging(log_format) as written:
        with expect_failure(StatusCode.INTERNAL, "INTERNAL") as failure:
            await broken_server.operator("tenant").create(target_all=True)
        await _line(written, "CreateJob INTERNAL")
        line = await _line(written, "/fleet.jobs.v1.JobService/CreateJob failed")

    assert failure.message == "Internal error"
    assert str(failure.request_id) in line
    cause = json.loads(line)["exception"] if log_format == "json" else written.getvalue()
    assert "Traceback" in cause
    assert "unexpected" in cause


async def test_each_json_record_is_one_line_when_it_has_a_traceback(broken_server: Server) -> None:
    with configured_logging("json") as written:
        with expect_failure(StatusCode.INTERNAL, "INTERNAL"):
            await broken_server.operator("tenant").create(target_all=True)
        await _line(written, "CreateJob INTERNAL")

    records = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [record["level"] for record in records] == ["ERROR", "INFO", "INFO"]


async def test_documents_are_not_logged(
    database: Database, operator: Operator, broken_server: Server
) -> None:
    await database.add_devices(operator.tenant, 1)
    with configured_logging("text", "DEBUG") as written:
        await operator.create(job_id="a", target_all=True, document_params={"pw": SECRET})
        with expect_failure(StatusCode.ALREADY_EXISTS, "JOB_ALREADY_EXISTS"):
            await operator.create(job_id="a", target_all=True, document_params={SECRET: 1})
        with expect_failure(StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            await operator.create(
                target_all=True, document_params={"pw": SECRET, "n": float("nan")}
            )
        with expect_failure(StatusCode.INTERNAL, "INTERNAL"):
            await broken_server.operator("tenant").create(
                target_all=True, document_params={"pw": SECRET}
            )
        await _line(written, "CreateJob INTERNAL")

    assert SECRET not in written.getvalue()


async def test_health_checks_are_logged_only_at_debug(server: Server) -> None:
    with configured_logging("text") as written:
        await is_healthy(server.channel)
        await server.operator("tenant").list()
        await _line(written, "ListJobs")
    assert "Check" not in written.getvalue()

    with configured_logging("text", "DEBUG") as written:
        await is_healthy(server.channel)
        await _line(written, "Check OK")
