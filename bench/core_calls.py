"""The calls that bench.release measures, on jobs that use no feature."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2, jobs_pb2, jobs_pb2_grpc
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from bench import seed
from bench.requests import DEVICE_JOB_SERVICE, JOB_SERVICE, TENANT

_READ = "read"
"""A tenant with ten devices, and its job of all of them."""
_DEVICES = 500
"""Devices of the other tenant. Each start and report takes another execution of theirs."""

_Request: TypeAlias = tuple[Message, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class CoreCall:
    """A kind of call, and the maximum of its CPU time in the server, as a factor."""

    name: str
    path: str
    goal: float
    request: Callable[[int], _Request]
    """Returns the request with a number and its metadata."""


def core_calls() -> Sequence[CoreCall]:
    """Return the calls, which are made in this order: reports end what has been started."""
    jobs, devices = f"/{JOB_SERVICE}", f"/{DEVICE_JOB_SERVICE}"
    return [
        CoreCall("GetJob, 10 executions", f"{jobs}/GetJob", 1.03, _get),
        CoreCall("CreateJob, 1 device", f"{jobs}/CreateJob", 1.08, _create),
        CoreCall("StartNextExecution", f"{devices}/StartNextExecution", 1.03, _start),
        CoreCall("UpdateExecution, one report", f"{devices}/UpdateExecution", 1.03, _report),
    ]


async def add_jobs(owner: asyncpg.Connection, channel: grpc.aio.Channel, executions: int) -> None:
    """Add the jobs that the calls need, for that many starts."""
    stub: jobs_pb2_grpc.JobServiceAsyncStub = jobs_pb2_grpc.JobServiceStub(channel)
    await seed.add_devices(owner, _READ, 10)
    await seed.add_devices(owner, TENANT, _DEVICES)
    names = [_job(number) for number in range(0, executions, _DEVICES)]
    for tenant, job_id in ((_READ, _READ), *((TENANT, name) for name in names)):
        request = jobs_pb2.CreateJobRequest(
            job_id=job_id, document_type="firmware", document_params=_params(), target_all=True
        )
        await stub.CreateJob(request, metadata=[("x-tenant-id", tenant)])


def _get(_: int) -> _Request:
    return jobs_pb2.GetJobRequest(job_id=_READ), [("x-tenant-id", _READ)]


def _create(number: int) -> _Request:
    request = jobs_pb2.CreateJobRequest(
        job_id=f"one-{number}",
        document_type="firmware",
        document_params=_params(),
        target_device_id=_device(number % 10),
    )
    return request, [("x-tenant-id", _READ)]


def _start(number: int) -> _Request:
    return device_jobs_pb2.StartNextExecutionRequest(), _caller(number)


def _report(number: int) -> _Request:
    request = device_jobs_pb2.UpdateExecutionRequest(
        job_id=_job(number), status=jobs_pb2.JobExecution.SUCCEEDED
    )
    return request, _caller(number)


def _job(number: int) -> str:
    return f"job-{number // _DEVICES:03}"


def _caller(number: int) -> Sequence[tuple[str, str]]:
    return [("x-tenant-id", TENANT), ("x-device-id", _device(number % _DEVICES))]


def _device(index: int) -> str:
    return f"d{index:07}"


def _params() -> Struct:
    params = Struct()
    params.update({"version": "2.1.0", "url": "https://example.com/firmware", "size": 1_048_576})
    return params
