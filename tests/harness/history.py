"""The history of calls: when each began and ended, what it asked for, and what the answer said.

`tests/histories/` decides whether the service could have made these calls one at a time.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.json_format import MessageToDict

from jobs_grpc.client import JobsError

_METHODS = {
    *("CreateJob", "GetJob", "ListJobs", "PauseJob", "ResumeJob", "UpdateJob", "CancelJob"),
    *("DeleteJob", "ApproveStage", "RejectStage", "AdvanceJob", "ApproveStart", "RejectStart"),
    *("RetryExecutions", "CancelExecution", "ListJobExecutions", "ListExecutionAttempts"),
    *("ExplainExecution", "StartNextExecution", "StartExecution", "UpdateExecution"),
    *("GetExecution", "ListPendingExecutions", "AcknowledgeExecutions"),
    *("UpdateDevices", "DeleteDevices"),
}
_STATUS = pb.JobExecution.Status
CHECKER = Path(__file__).parents[1] / "histories"
_NAME = "calls.jsonl"


class History:
    """Writes the calls that the checker knows to a file in a new folder, a line of JSON each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._file = (folder / _NAME).open("w")
        self._unanswered: list[Call] = []

    def begin(self, request: Any, tenant: str, device: str = "") -> "Call":
        return Call(self, request, tenant, device)

    def close(self) -> None:
        self._file.close()

    def take_unanswered(self) -> "list[Call]":
        """Return the calls without an answer since the last time."""
        taken, self._unanswered = self._unanswered, []
        return taken

    def pass_deadlines(self) -> None:
        """Record that from now on, any timeout and expiry may pass."""
        line = {"start": time.monotonic_ns(), "end": time.monotonic_ns(), "answered": True}
        self._file.write(json.dumps(line | {"method": "DeadlinesPass"}) + "\n")

    def write(self, call: "Call", line: dict[str, Any]) -> None:
        if call.method in _METHODS:
            if not line["answered"]:
                self._unanswered.append(call)
            self._file.write(json.dumps(line) + "\n")


class Call:
    """A call that has begun. One of the other methods ends it.

    StartNextExecutions is recorded as a call of each of its devices.
    """

    def __init__(self, history: History, request: Any, tenant: str, device: str) -> None:
        self.request = request
        self.tenant = tenant
        self.device = device
        self.method = type(request).__name__.removesuffix("Request")
        self._history = history
        self._started = time.monotonic_ns()
        self._parts: list[Call] = []
        if isinstance(request, device_pb.StartNextExecutionsRequest):
            start = device_pb.StartNextExecutionRequest()
            self._parts = [Call(history, start, tenant, each) for each in request.device_ids]

    def answer(self, response: Any) -> None:
        """End the call with a response, or with what a ReportExecutions stream answers."""
        if self._parts:
            for part, result in zip(self._parts, response.results, strict=True):
                part.lose() if result.HasField("error") else part.answer(result)
            return
        if isinstance(response, device_pb.DeviceExecution):
            response = device_pb.UpdateExecutionResponse(execution=response)
        jobs = _of(response, "job", "jobs")
        executions = _of(response, "execution", "executions", "attempts")
        for job in jobs:
            executions += job.executions
        self._end(
            answered=True,
            jobs=[_job(each) for each in jobs if isinstance(each, pb.Job)],
            executions=[self._execution(each) for each in executions],
            ended=[_attempt(each) for each in _of(response, "ended_executions")],
            retried_count=getattr(response, "retried_count", 0),
            has_more=bool(getattr(response, "next_page_token", "")),
        )

    def fail(self, error: JobsError) -> None:
        """End the call with an error: a refusal, or one after which the client knows nothing."""
        self._end(answered=is_refusal(error), error=error.reason or error.code.name)

    def lose(self) -> None:
        """End the call without an answer."""
        self._end(answered=False)

    def _end(self, **outcome: Any) -> None:
        for part in self._parts:
            part._end(**outcome)
        line = {
            "start": self._started,
            "end": time.monotonic_ns(),
            "tenant": self.tenant,
            "device": self.device,
            "method": self.method,
            "request": MessageToDict(self.request, preserving_proto_field_name=True),
        }
        self._history.write(self, line | outcome)

    def _execution(self, execution: Any) -> dict[str, Any]:
        return {
            "job_id": execution.job_id or self.request.job_id,
            "device_id": execution.device_id or self.device,
            "status": _STATUS.Name(execution.status),
            "execution_number": execution.execution_number,
            "version": execution.version,
            # Only devices see it.
            "cancel_requested": getattr(execution, "cancel_requested", None),
        }


def _attempt(ended: device_pb.EndedExecution) -> dict[str, Any]:
    return {"job_id": ended.job_id, "execution_number": ended.execution_number}


def is_refusal(error: JobsError) -> bool:
    """Whether a rule of the service refused a call, which so changed nothing."""
    return error.code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
    )


def _of(response: Any, *fields: str) -> list[Any]:
    """Return the messages in those fields that the response has."""
    found: list[Any] = []
    for name in fields:
        field = response.DESCRIPTOR.fields_by_name.get(name)
        if field is None or field.message_type is None:
            continue
        if field.is_repeated:
            found += getattr(response, name)
        elif response.HasField(name):
            found.append(getattr(response, name))
    return found


def _job(job: pb.Job) -> dict[str, Any]:
    opened = [n for n, s in enumerate(job.stages) if s.state != pb.JobStage.PENDING]
    start = ""
    if job.HasField("start_approval"):
        start = "APPROVED" if job.start_approval.HasField("approved_at") else "WAITING"
    return {
        "job_id": job.job_id,
        "status": pb.Job.Status.Name(job.status),
        "etag": int(job.etag),
        "pause": pb.Pause.Cause.Name(job.pause.cause) if job.HasField("pause") else "",
        "start_approval": start,
        "replaced_by_job_id": job.replaced_by_job_id,
        "total_executions": job.total_executions,
        "open_stage": opened[-1] if opened else -1,
        "approved_stages": [n for n, s in enumerate(job.stages) if s.HasField("approval")],
    }


def check_history(folder: Path) -> str:
    """Check the history in a folder, and write visualizations of violations there. Needs Go.

    Returns the line in which the checker says what it has checked. Raises
    ImpossibleHistory.
    """
    go = ("go", "run", ".", "-html", str(folder), str(folder / _NAME))
    environment = os.environ | {"CGO_ENABLED": "0"}
    result = subprocess.run(  # noqa: S603
        go, cwd=CHECKER, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise ImpossibleHistory(result.stdout + result.stderr)
    return result.stdout.strip()


class ImpossibleHistory(Exception):
    """No order of the calls is possible, or none was found in time, or the checker has failed."""
