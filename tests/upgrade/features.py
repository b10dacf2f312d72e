"""What the earlier version does not know: this version creates it, the earlier one serves it.

A release adds its new statuses and settings to `create_features`; those that the earlier version
knows too do no harm.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.chaos.history import History
from tests.chaos.system import System
from tests.support.waiting import TIMEOUT

TENANT = "gamma"
"""A tenant of its own, without other traffic."""
DEVICES = [f"d{number:02}" for number in range(6)]

_Call: TypeAlias = tuple[Any, Any, Any]
"""A method of a stub, its request, and its metadata."""

_JOB_STATUSES = [s for s in pb.Job.Status.values() if s]
_FORBIDDEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)

_STAGED = pb.Rollout(stages=[pb.Stage(device_count=2), pb.Stage(remainder=True)])
_APPROVED = pb.Rollout(
    stages=[
        pb.Stage(device_count=1, gate=pb.Gate(require_approval=True, allow_self_approval=True)),
        pb.Stage(remainder=True),
    ]
)
# Paused by an operator, by a failure criterion, or not due: no device may start an execution.
_NOT_STARTABLE = ("paused", "tripped", "scheduled", "scheduled-stages", "windowed")
# The device whose next attempt waits for its backoff.
_WAITING = DEVICES[1]
_POLICY = pb.RetryPolicy(
    rules=[
        pb.RetryRule(
            max_attempts=3,
            # The backoff is random: it is shorter than this test with a probability of 1 in 10,000.
            initial_backoff=Duration(seconds=7 * 24 * 3600),
            max_backoff=Duration(seconds=7 * 24 * 3600),
        )
    ]
)
_CRITERION = pb.FailureCriterion(count=1, failure_codes=["E1"])


async def add_devices(system: System) -> None:
    """Add the devices of the tenant."""
    async with system.owner() as owner:
        await owner.execute(
            "INSERT INTO public.device_state (tenant_id, device_id) SELECT $1, unnest($2::text[])",
            TENANT,
            DEVICES,
        )


async def create_features(system: System, server: int) -> list[str]:
    """Create a job with each feature on a server. Return their ids."""
    jobs = system.jobs(server)
    now = datetime.now(UTC)
    requests: dict[str, dict[str, Any]] = {
        "staged": {"rollout": _STAGED},
        "approved": {"rollout": _APPROVED},
        "limited": {"rollout": pb.Rollout(stages=[pb.Stage(remainder=True)], max_in_progress=1)},
        "paused": {},
        "tripped": {"failure_criteria": [_CRITERION]},
        "canceled": {"rollout": _STAGED},
        "scheduled": {"start_at": now + timedelta(days=1)},
        "scheduled-stages": {"start_at": now + timedelta(days=1), "rollout": _STAGED},
        # On another day of the week.
        "windowed": {
            "start_windows": [
                pb.StartWindow(
                    days=[pb.StartWindow.Day.values()[(now + timedelta(days=3)).isoweekday()]],
                    start_time="12:00",
                    duration=Duration(seconds=3600),
                )
            ],
            "never_expires": True,
        },
        "retried": {"retry_policy": _POLICY, "never_expires": True},
        "urgent": {"priority": pb.Job.HIGH},
    }
    for job_id, fields in requests.items():
        request = pb.CreateJobRequest(
            job_id=job_id, document_type="reboot", target_all=True, **fields
        )
        await jobs.CreateJob(request, metadata=_operator())
    await jobs.PauseJob(pb.PauseJobRequest(job_id="paused", reason="wait"), metadata=_operator())
    await jobs.CancelJob(pb.CancelJobRequest(job_id="canceled"), metadata=_operator())
    for job_id, device in (("tripped", DEVICES[0]), ("retried", _WAITING)):
        await system.devices(server).UpdateExecution(
            device_pb.UpdateExecutionRequest(
                job_id=job_id, status=pb.JobExecution.FAILED, failure_code="E1"
            ),
            metadata=_device(device),
        )
    return list(requests)


async def use_features(system: System, history: History, server: int, job_ids: list[str]) -> None:
    """Make every call of a server with each of the jobs. Each may fail, but not as a defect."""
    jobs, devices = system.jobs(server), system.devices(server)
    listed = await jobs.ListJobs(pb.ListJobsRequest(limit=100), metadata=_operator())
    if missing := set(job_ids) - {job.job_id for job in listed.jobs}:
        history.add_violation("a server does not list jobs", f"{missing}")
    calls: list[_Call] = [
        (jobs.ListJobs, pb.ListJobsRequest(status=status), _operator()) for status in _JOB_STATUSES
    ]
    for job_id in job_ids:
        calls += _reads(jobs, job_id)
        for device in DEVICES:
            calls += _device_reads(devices, job_id, _device(device))
    for job_id in job_ids:
        calls += _changes(jobs, devices, job_id)
    for call, request, metadata in calls:
        await _make(history, server, call, request, metadata)


def _reads(jobs: Any, job_id: str) -> list[_Call]:
    page = pb.ListJobExecutionsRequest
    return [
        (jobs.GetJob, pb.GetJobRequest(job_id=job_id, executions_limit=10), _operator()),
        (jobs.WatchJob, pb.WatchJobRequest(job_id=job_id), _operator()),
        *(
            (jobs.ListJobExecutions, page(job_id=job_id, status=status), _operator())
            for status in pb.JobExecution.Status.values()
        ),
        *(
            (
                jobs.ListExecutionAttempts,
                pb.ListExecutionAttemptsRequest(job_id=job_id, device_id=device),
                _operator(),
            )
            for device in DEVICES[:2]
        ),
    ]


def _device_reads(devices: Any, job_id: str, metadata: Any) -> list[_Call]:
    return [
        (devices.GetExecution, device_pb.GetExecutionRequest(job_id=job_id), metadata),
        (devices.ListPendingExecutions, device_pb.ListPendingExecutionsRequest(), metadata),
        (devices.WatchPendingExecutions, device_pb.WatchPendingExecutionsRequest(), metadata),
    ]


def _changes(jobs: Any, devices: Any, job_id: str) -> list[_Call]:
    """Changes that devices make first, and then operators."""
    calls: list[_Call] = []
    for device in DEVICES:
        report = device_pb.UpdateExecutionRequest(job_id=job_id, status=pb.JobExecution.SUCCEEDED)
        calls += [
            (
                devices.StartExecution,
                device_pb.StartExecutionRequest(job_id=job_id),
                _device(device),
            ),
            (devices.StartNextExecution, device_pb.StartNextExecutionRequest(), _device(device)),
            (devices.UpdateExecution, report, _device(device)),
        ]
    cancel = pb.CancelExecutionRequest(job_id=job_id, device_id=DEVICES[-1], force=True)
    failed = [pb.JobExecution.FAILED, pb.JobExecution.REJECTED]
    return [
        *calls,
        (jobs.CancelExecution, cancel, _operator()),
        (
            jobs.RetryExecutions,
            pb.RetryExecutionsRequest(job_id=job_id, statuses=failed),
            _operator(),
        ),
        *_reads(jobs, job_id),
        (jobs.CancelJob, pb.CancelJobRequest(job_id=job_id, force=True), _operator()),
        (jobs.DeleteJob, pb.DeleteJobRequest(job_id=job_id), _operator()),
    ]


async def _make(history: History, server: int, call: Any, request: Any, metadata: Any) -> None:
    """Make a call. Of a watch, read the first response."""
    method = type(request).__name__.removesuffix("Request")
    try:
        result = call(request, metadata=metadata, timeout=TIMEOUT)
        if method.startswith("Watch"):
            await result.read()
            result.cancel()
        else:
            _check_not_started(history, method, await result, dict(metadata).get("x-device-id"))
    except grpc.aio.AioRpcError as e:
        if e.code() in _FORBIDDEN:
            text = f"{method} on server {server}: {request}: {e.code().name} {e.details()}"
            history.add_violation("a server does not serve what another version created", text)


def _check_not_started(history: History, method: str, response: Any, device: str | None) -> None:
    if method not in ("StartExecution", "StartNextExecution"):
        return
    job_id = response.execution.job_id
    if job_id in _NOT_STARTABLE or (job_id, device) == ("retried", _WAITING):
        history.add_violation("a device started what is not due", f"{method}: {response}")


def _operator() -> list[tuple[str, str]]:
    return [("x-tenant-id", TENANT), ("x-user-id", "olivia")]


def _device(device: str) -> list[tuple[str, str]]:
    return [("x-tenant-id", TENANT), ("x-device-id", device)]
