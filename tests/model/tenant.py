"""All jobs and devices of a tenant, and the step of the model: a call at a time.

    state, answer = step(state, Call(pause_job, "j", "olivia"), now)

The functions of calls are in operator_calls.py, update_calls.py and device_calls.py. Their first
parameter is the state at the time of the call. They return the next state, and the value that the
response is compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tests.model.execution import Execution, Seconds
from tests.model.job import Job
from tests.model.rules import pass_time
from tests.model.targets import Device


class Rejected(Exception):
    """The call fails with this ErrorReason and changes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class State:
    """The jobs and the devices of a tenant. It can be hashed."""

    now: Seconds = 0
    jobs: tuple[Job, ...] = ()
    devices: tuple[Device, ...] = ()
    """The registered devices, in the order of their IDs."""

    def job(self, job_id: str) -> Job:
        for job in self.jobs:
            if job.job_id == job_id:
                return job
        raise Rejected("JOB_NOT_FOUND")

    def find(self, job_id: str, device: str) -> tuple[Job, Execution]:
        """Return a job and the execution of a device."""
        job = self.job(job_id)
        execution = job.execution(device)
        if execution is None:
            raise Rejected("EXECUTION_NOT_FOUND")
        return job, execution

    def device(self, device_id: str) -> Device | None:
        return next((d for d in self.devices if d.device_id == device_id), None)

    def with_job(self, job: Job) -> "State":
        return replace(self, jobs=(*self.without_job(job.job_id).jobs, job))

    def without_job(self, job_id: str) -> "State":
        return replace(self, jobs=tuple(job for job in self.jobs if job.job_id != job_id))


Result: TypeAlias = tuple[State, Any]


@dataclass(frozen=True)
class Answer:
    """The answer to a call: the reason of its error (None: it succeeds), or the value."""

    reason: str | None
    value: Any = None


class Call:
    """A call: its function, and the arguments after the state."""

    def __init__(self, function: Callable[..., Result], *values: Any, **named: Any) -> None:
        self.function, self.values, self.named = function, values, named

    def __str__(self) -> str:
        return f"{self.function.__name__}{self.values} {self.named or ''}"


def step(state: State, each: Call, now: Seconds) -> tuple[State, Answer]:
    """Let time pass until `now`, and carry out a call."""
    state = replace(state, now=now, jobs=tuple(pass_time(job, now) for job in state.jobs))
    try:
        state, value = each.function(state, *each.values, **each.named)
    except Rejected as e:
        return state, Answer(e.reason)
    return state, Answer(None, value)
