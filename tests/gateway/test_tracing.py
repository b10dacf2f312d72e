"""Traces of REST calls: the gateway, the server and the statement have spans in one trace."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.gateway.support import Gateway, running_gateway
from tests.support.database import Database
from tests.support.otlp import Receiver, running_receiver
from tests.support.server import Server
from tests.support.server_process import running_server_process
from tests.support.waiting import TIMEOUT

pytestmark = pytest.mark.slow

JOBS = "/customer/jobs"
HEADERS = {"X-Tenant-Id": "acme"}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
GET_JOB = f"GET {JOBS}/{{job_id}}"


@dataclass(frozen=True)
class Traced:
    """A gateway and a server that send their spans to a receiver."""

    gateway: Gateway
    http: httpx.AsyncClient
    receiver: Receiver


@pytest.fixture(scope="module")
async def traced(database: Database, gateway_binary: Path) -> AsyncIterator[Traced]:
    async with (
        running_receiver() as receiver,
        running_server_process(database.request_dsn, **receiver.variables) as server,
        running_gateway(gateway_binary, server.address, receiver.variables) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers=HEADERS, timeout=TIMEOUT) as http,
    ):
        yield Traced(gateway, http, receiver)


async def test_rest_call_is_one_trace_through_gateway_server_and_statement(traced: Traced) -> None:
    response = await traced.http.get(JOBS, headers={"X-Request-Id": "order-66"})

    trace_id = response.headers["Traceparent"].split("-")[1]
    request = await traced.receiver.wait_for(f"GET {JOBS}", trace_id)
    call = await traced.receiver.wait_for("fleet.jobs.v1.JobService/ListJobs", trace_id)
    statement = await traced.receiver.wait_for("jobs.list_jobs", trace_id)
    assert [s.service for s in (request, call, statement)] == [
        "jobs-gateway",
        "jobs-grpc",
        "jobs-grpc",
    ]
    assert request.span.parent_span_id == b""
    assert call.span.parent_span_id == request.span.span_id
    assert statement.span.parent_span_id == call.span.span_id
    assert request.span.kind == Span.SPAN_KIND_SERVER
    assert request.attributes == {
        "http.request.method": "GET",
        "http.route": JOBS,
        "http.response.status_code": 200,
        "jobs.request_id": "order-66",
    }
    line = await traced.gateway.wait_for_log("request", request_id="order-66")
    assert line["traceparent"] == f"00-{trace_id}-{request.span.span_id.hex()}-01"


async def test_rest_call_continues_the_trace_of_its_client(traced: Traced) -> None:
    headers = {"Traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "Tracestate": "a=1"}
    response = await traced.http.get(f"{JOBS}/none", headers=headers)

    assert response.status_code == 404
    request = await traced.receiver.wait_for(GET_JOB, TRACE_ID)
    call = await traced.receiver.wait_for("fleet.jobs.v1.JobService/GetJob", TRACE_ID)
    assert request.span.parent_span_id.hex() == PARENT_ID
    assert request.span.trace_state == call.span.trace_state == "a=1"
    assert request.attributes["http.response.status_code"] == 404
    assert request.span.status.code == Status.STATUS_CODE_UNSET
    assert call.attributes["rpc.response.status_code"] == "NOT_FOUND"


async def test_gateway_makes_no_trace_when_it_is_not_configured(
    gateway_binary: Path, server: Server
) -> None:
    async with (
        running_gateway(gateway_binary, server.address) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers=HEADERS, timeout=TIMEOUT) as http,
    ):
        response = await http.get(JOBS)

    assert response.status_code == 200
    assert "Traceparent" not in response.headers


async def test_gateway_serves_requests_and_stops_when_the_collector_is_away(
    gateway_binary: Path, server: Server
) -> None:
    away = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "10"}
    async with (
        running_gateway(gateway_binary, server.address, away) as gateway,
        httpx.AsyncClient(base_url=gateway.url, headers=HEADERS, timeout=TIMEOUT) as http,
    ):
        for _ in range(20):
            assert (await http.get(JOBS)).status_code == 200

    assert gateway.process.returncode == 0
