"""The calls that bench.release measures, on jobs that use no feature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
from fleet.jobs.v1 import device_jobs_pb2, fleet_pb2, jobs_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from bench import seed
from bench.requests import TENANT
from tests.harness.calls import Calls

_READ = "read"
"""A tenant with ten devices, and its job of all of them."""
_STARTED = "started"
"""A tenant with 100 devices, which have all started its job."""
_DEVICES = 500
"""Devices of the other tenant. Each start and report takes another execution of theirs."""

_Request: TypeAlias = tuple[Message, str, str]
"""A request, and its tenant and device."""


@dataclass(frozen=True)
class CoreCall:
    """A kind of call, and the maximum of its CPU time in the server, as a factor."""

    name: str
    goal: float
    request: Callable[[int], _Request]
    """Builds the n-th request."""


def core_calls() -> Sequence[CoreCall]:
    """Return the calls, which are made in this order: reports end what has been started."""
    return [
        CoreCall("GetJob, 10 executions", 1.03, _get),
        CoreCall("CreateJob, 1 device", 1.08, _create),
        CoreCall("StartNextExecution", 1.03, _start),
        CoreCall("UpdateExecution, one report", 1.03, _report),
        CoreCall("ReportExecutions, 100 reports", 1.03, _reports),
        CoreCall("ListJobs, 50 jobs", 1.03, _list),
        CoreCall("UpdateDevices, 1 device", 1.03, _update_device),
    ]


async def add_jobs(owner: asyncpg.Connection, calls: Calls, executions: int) -> None:
    """Add the jobs that the calls need, for that many starts."""
    await seed.add_devices(owner, _READ, 10)
    await seed.add_devices(owner, _STARTED, 100)
    await seed.add_devices(owner, TENANT, _DEVICES)
    names = [_job(number) for number in range(0, executions, _DEVICES)]
    own_jobs = ((tenant, tenant) for tenant in (_READ, _STARTED))
    for tenant, job_id in (*own_jobs, *((TENANT, name) for name in names)):
        await calls.call(_job_request(job_id, target_all=True), tenant)


def _get(_: int) -> _Request:
    return jobs_pb2.GetJobRequest(job_id=_READ), _READ, ""


def _create(number: int) -> _Request:
    return _job_request(f"one-{number}", target_device_id=_device(number % 10)), _READ, ""


def _start(number: int) -> _Request:
    return device_jobs_pb2.StartNextExecutionRequest(), TENANT, _device(number % _DEVICES)


def _report(number: int) -> _Request:
    request = device_jobs_pb2.UpdateExecutionRequest(
        job_id=_job(number), status=jobs_pb2.JobExecution.SUCCEEDED
    )
    return request, TENANT, _device(number % _DEVICES)


def _reports(number: int) -> _Request:
    request = device_jobs_pb2.ReportExecutionsRequest()
    for index in range(100):
        report = request.reports.add(device_id=_device(index)).report
        report.job_id, report.status = _STARTED, jobs_pb2.JobExecution.IN_PROGRESS
        report.status_details.update({"percent": number})
    return request, _STARTED, ""


def _list(_: int) -> _Request:
    return jobs_pb2.ListJobsRequest(limit=50), TENANT, ""


def _update_device(number: int) -> _Request:
    device = fleet_pb2.Device(device_id=_device(number % 100), labels={"ring": f"r{number}"})
    request = fleet_pb2.UpdateDevicesRequest(
        devices=[device], update_mask=FieldMask(paths=["labels"])
    )
    return request, _STARTED, ""


def _job(number: int) -> str:
    return f"job-{number // _DEVICES:03}"


def _device(index: int) -> str:
    return f"d{index:07}"


def _job_request(job_id: str, **target: Any) -> jobs_pb2.CreateJobRequest:
    params = Struct()
    params.update({"version": "2.1.0", "url": "https://example.com/firmware", "size": 1_048_576})
    return jobs_pb2.CreateJobRequest(
        job_id=job_id, document_type="firmware", document_params=params, **target
    )
