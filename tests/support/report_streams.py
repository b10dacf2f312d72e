"""Streams of reports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from tests.support.server import Server
from tests.support.waiting import TIMEOUT

Stream = grpc.aio.StreamStreamCall[
    device_pb.ReportExecutionsRequest, device_pb.ReportExecutionsResponse
]


@asynccontextmanager
async def reporting(server: Server, tenant: str, device: str = "") -> AsyncIterator[Stream]:
    """Open a stream of a bridge, or of a device if it is given."""
    stub = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    device_metadata = (("x-device-id", device),) if device else ()
    call: Any = stub.ReportExecutions(
        metadata=(("x-tenant-id", tenant), *device_metadata), timeout=TIMEOUT
    )
    try:
        yield call
    finally:
        call.cancel()


def report(
    device: str, status: str, report_id: str = "", **fields: Any
) -> device_pb.ExecutionReport:
    """One report; its job_id defaults to "j"."""
    update = device_pb.UpdateExecutionRequest(**({"job_id": "j", "status": status} | fields))
    return device_pb.ExecutionReport(report_id=report_id, device_id=device, report=update)


def message(*reports: device_pb.ExecutionReport) -> device_pb.ReportExecutionsRequest:
    return device_pb.ReportExecutionsRequest(reports=reports)


def single(of: device_pb.ExecutionReport) -> device_pb.ReportExecutionsRequest:
    return device_pb.ReportExecutionsRequest(
        report_id=of.report_id, device_id=of.device_id, report=of.report
    )


async def respond(stream: Stream, request: device_pb.ReportExecutionsRequest) -> Any:
    """Send a message and return its response."""
    await stream.write(request)
    return await stream.read()
