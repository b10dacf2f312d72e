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

from tests.support.callers import Operator, read_to_end
from tests.support.database import Database, fresh_database
from tests.support.failures import expect_error
from tests.support.health import is_healthy
from tests.support.logging_setup import configured_logging
from tests.support.postgres import Postgres
from tests.support.report_streams import Stream, reporting
from tests.support.server import DEFAULT_OPTIONS, Server, running_server
from tests.support.waiting import wait_until_true
from tests.support.world import World

SECRET = "hunter2"


async def _line(written: io.StringIO, text: str) -> str:
    """Wait for the only line with `text`. A call is logged shortly after its response."""

    await wait_until_true(lambda: text in written.getvalue())
    [line] = [line for line in written.getvalue().splitlines() if text in line]
    return line


@pytest.fixture(scope="module")
async def broken_server(cluster: tuple[Postgres, str]) -> AsyncIterator[Server]:
    """A server whose database rejects each new job with an error that the code does not expect."""
    async with fresh_database(cluster) as database:
        await database.owner.execute(
            "ALTER TABLE jobs.jobs ADD CONSTRAINT unexpected CHECK (false)"
        )
        await database.add_devices("tenant", 1)
        async with running_server(database.request_dsn) as server:
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
        failure = await expect_error("JOB_NOT_FOUND", operator.get("missing"))
        record: dict[str, Any] = json.loads(await _line(written, "GetJob"))

    assert record.pop("ms") > 0
    assert record.items() >= {
        ("message", "GetJob NOT_FOUND"),
        ("level", "INFO"),
        ("logger", "jobs_grpc.calls"),
        ("tenant", operator.tenant),
        ("request_id", failure.request_id),
    }


async def test_unauthenticated_call_is_logged_without_a_tenant(server: Server) -> None:
    with configured_logging("json") as written:
        await expect_error("INVALID_METADATA", server.operator("").list())
        record = json.loads(await _line(written, "ListJobs"))

    assert record["message"] == "ListJobs UNAUTHENTICATED"
    assert "tenant" not in record


async def test_call_of_a_device_is_logged_with_subject_device_and_job(world: World) -> None:
    await world.add_devices(["pump"])
    await world.create()
    pump = world.device("pump")
    bridge = (*pump.metadata, ("x-roles", "bridge"), ("x-user-id", "mallory"))
    request = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
    with configured_logging("json") as written:
        await pump.start_next()
        await pump.stub.UpdateExecution(request, metadata=bridge)
        await expect_error("EXECUTION_NOT_FOUND", pump.get("other"))
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


async def test_access_log_names_devices_when_a_bridge_names_them(world: World) -> None:
    await world.add_devices(["pump", "valve"])
    devices = [device_pb.DeviceFacts(device_id=device) for device in ("pump", "valve")]
    bridge = (("x-tenant-id", world.tenant), ("x-user-id", "broker"), ("x-roles", "bridge"))
    with configured_logging("json") as written:
        await world.pump.facts({"version": "2.1"})
        request = device_pb.UpdateFactsRequest(devices=devices)
        await world.pump.stub.UpdateFacts(request, metadata=bridge)
        await world.server.bridge(world.tenant, "broker").start_next("valve")
        await _line(written, "StartNextExecutions")

    records = map(json.loads, written.getvalue().splitlines())
    names = ("message", "subject", "device_id", "device_ids")
    assert [tuple(record.get(name) for name in names) for record in records] == [
        ("UpdateFacts OK", None, "pump", None),
        ("UpdateFacts OK", "broker", None, ["pump", "valve"]),
        ("StartNextExecutions OK", "broker", None, ["valve"]),
    ]


async def _report(stream: Stream, reports: int) -> None:
    """Send a message with that many reports, which all fail, and read the response."""
    update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
    report = device_pb.ExecutionReport(report_id="1", device_id="pump", report=update)
    await stream.write(device_pb.ReportExecutionsRequest(reports=[report] * reports))
    await stream.read()


async def test_reports_of_a_stream_are_counted_when_it_ends(world: World) -> None:
    with configured_logging("json") as written:
        async with reporting(world.server, world.tenant) as stream:
            await _report(stream, 3)
            await _report(stream, 1)
            assert "reports" not in written.getvalue()
            await stream.done_writing()
            await read_to_end(stream)
        record = json.loads(await _line(written, "ReportExecutions stream"))

    assert (record["tenant"], record["reports"]) == (world.tenant, 4)


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
        failure = await expect_error(
            "INTERNAL", broken_server.operator("tenant").create(target_all=True)
        )
        await _line(written, "CreateJob INTERNAL")
        line = await _line(written, "/fleet.jobs.v1.JobService/CreateJob failed")

    assert failure.message == "Internal error"
    assert str(failure.request_id) in line
    cause = written.getvalue()
    if log_format == "json":
        levels = [json.loads(text)["level"] for text in cause.splitlines()]
        assert levels == ["ERROR", "INFO", "INFO"]
        cause = json.loads(line)["exception"]
    assert "Traceback" in cause
    assert "unexpected" in cause


async def test_documents_are_not_logged(world: World, broken_server: Server) -> None:
    await world.add_devices(1)
    with configured_logging("text", "DEBUG") as written:
        await world.create("a", document_params={"pw": SECRET})
        await expect_error("JOB_ALREADY_EXISTS", world.create("a", document_params={SECRET: 1}))
        await expect_error(
            "INVALID_FIELD",
            world.operator.create(
                target_all=True, document_params={"pw": SECRET, "n": float("nan")}
            ),
        )
        await expect_error(
            "INTERNAL",
            broken_server.operator("tenant").create(
                target_all=True, document_params={"pw": SECRET}
            ),
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
