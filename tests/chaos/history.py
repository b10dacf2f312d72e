"""Records what clients received in a trial: acknowledged changes, and the status of each call."""

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx

from jobs_grpc.client import JobsError
from jobs_grpc.client.errors import CALL_RESET

# No fault may cause these.
_FORBIDDEN_CODES = ("CANCELLED", "INTERNAL", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED")
_FORBIDDEN_STATUSES = (499, 500, 501, 502)

_MAX_EVENTS = 200_000
_MAX_EXAMPLES = 5

Job = tuple[str, str]
"""The tenant and the id of a job."""
Device = tuple[str, str]
"""The tenant and the id of a device."""
Attempt = tuple[str, str, str, int]
"""The tenant, the job, the device and the number of the execution."""


@dataclass
class OperatorCall:
    """A call that changes a job. Its user is its own, so that an event names the call."""

    tenant: str
    job_id: str
    method: str
    started_at: datetime
    ended_at: datetime | None = None
    """When the client got the response."""
    accepted: bool | None = None
    """Whether the call succeeded. None: the client does not know."""
    changes: bool = True
    """False: a response that says that nothing has changed."""


@dataclass
class History:
    """Records a trial. A change counts as acknowledged when its client got the response."""

    faults: int = 0
    """The number of faults so far."""
    created: dict[Job, int] = field(default_factory=dict)
    """Acknowledged jobs and their numbers of executions."""
    canceled: dict[Job, datetime] = field(default_factory=dict)
    """Acknowledged cancels, with the times at which the clients got the responses."""
    paused: dict[Job, datetime] = field(default_factory=dict)
    """The same for pauses of jobs that no client resumes, cancels or deletes."""
    closed_windows: dict[Job, datetime] = field(default_factory=dict)
    """The same for jobs whose start windows no client opens again."""
    deleted: set[Job] = field(default_factory=set)
    """Jobs that a client tried to delete, with or without success."""
    removed: set[Job] = field(default_factory=set)
    """Acknowledged deletes."""
    rings: dict[Device, str | None] = field(default_factory=dict)
    """The label `ring` of the last acknowledged change of each device. None: the device is gone."""
    possible_rings: dict[Device, dict[str | None, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """The same for changes that failed, but may be stored, with the time of the last failure."""
    reported: dict[Attempt, str] = field(default_factory=dict)
    """Acknowledged final reports."""
    operator_calls: dict[str, OperatorCall] = field(default_factory=dict)
    """Calls that change a job, by user."""
    calls: Counter[str] = field(default_factory=Counter)
    """The number of calls by interface and status."""
    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Violated guarantees by kind, with the first examples."""
    violation_counts: Counter[str] = field(default_factory=Counter)
    event_count: int = 0
    """The number of events that were checked."""
    draining: int | None = None
    """The number of the server that is being stopped with SIGTERM."""
    skipped: str = ""
    """Which faults are not possible on this machine, and why."""
    started_at: float = field(default_factory=time.monotonic)
    _events: deque[tuple[float, str, str]] = field(
        default_factory=lambda: deque(maxlen=_MAX_EVENTS)
    )

    def note(self, subject: str, event: str) -> None:
        """Record an event of a job, or of a process, for the report of a failure."""
        self._events.append((time.monotonic() - self.started_at, subject, event))

    def events(self, subject: str) -> list[str]:
        """Return the events of a subject, in order."""
        return [f"{at:8.3f} s  {event}" for at, name, event in self._events if name == subject]

    def begin(self, method: str, tenant: str, job_id: str) -> str:
        """Record that an operator makes a call. Return the user who makes it."""
        user = f"user-{len(self.operator_calls) + 1}"
        self.operator_calls[user] = OperatorCall(tenant, job_id, method, datetime.now(UTC))
        return user

    def end(self, user: str, accepted: bool, *, changes: bool = True) -> None:
        """Record the response to an operator."""
        call = self.operator_calls[user]
        call.ended_at, call.accepted, call.changes = datetime.now(UTC), accepted, changes

    def add_stop(self, stops: dict[Job, datetime], tenant: str, job_id: str) -> None:
        """Record an acknowledged stop of a job. Nothing may start after the first one."""
        stops.setdefault((tenant, job_id), datetime.now(UTC))

    def add_violation(self, kind: str, example: str) -> None:
        """Record that the service violated a guarantee."""
        self.violation_counts[kind] += 1
        if self.violation_counts[kind] <= _MAX_EXAMPLES:
            at = time.monotonic() - self.started_at
            self.violations[kind].append(f"{at:.3f} s: {example}")

    def forget_violations(self) -> None:
        """Discard the violations so far, which the caller expected."""
        self.violations.clear()
        self.violation_counts.clear()

    def answered(self) -> None:
        """Count a gRPC call that succeeded."""
        self.calls["gRPC OK"] += 1

    def failed(
        self, server: int, method: str, subject: str, error: JobsError, debug: str | None = None
    ) -> None:
        """Count a gRPC call, or a report of a stream, that failed, and check its status."""
        code = error.code
        name = f"{code.name} {error.reason}".rstrip()
        self.note(subject, f"{method}: {name} {error.message!r}")
        if error.message == CALL_RESET:
            # gRPC resets the calls that reach a server between SIGTERM and its GOAWAY frame.
            if self.draining == server:
                self.calls["gRPC CANCELLED by a stopping server"] += 1
                return
            name = "CANCELLED"
        self.calls[f"gRPC {name}"] += 1
        if name in _FORBIDDEN_CODES or code.name in _FORBIDDEN_CODES:
            example = f"{method} on server {server}: {error.message!r}, {debug}"
            self.add_violation(f"a call got {name}", example)
        # The server sends a request id with each status; a status without one is from the client.
        if error.request_id and code is grpc.StatusCode.UNAVAILABLE and error.retry_after is None:
            self.add_violation("UNAVAILABLE without RetryInfo", f"{method}: {error.message!r}")

    def responded(self, method: str, subject: str, response: httpx.Response) -> None:
        """Count a REST response and check its status."""
        status = response.status_code
        self.calls[f"REST {status}"] += 1
        if status in _FORBIDDEN_STATUSES:
            self.add_violation(f"a request got {status}", f"{method}: {response.text[:300]}")
        if status == 503 and "retry-after" not in response.headers:
            self.add_violation("503 without Retry-After", f"{method}: {response.text[:300]}")
        if status >= 400:
            self.note(subject, f"{method}: {status} {response.text[:200]}")

    def disconnected(self, method: str, error: httpx.TransportError) -> None:
        """Count a REST request without a response, because of a timeout or a lost connection."""
        self.calls[f"REST {type(error).__name__}"] += 1

    def summary(self) -> dict[str, Any]:
        """Return the numbers of acknowledged changes."""
        return {
            "jobs": len(self.created),
            "cancels": len(self.canceled),
            "pauses": len(self.paused),
            "closed windows": len(self.closed_windows),
            "deletes": len(self.removed),
            "devices changed": len(self.rings),
            "reports": len(self.reported),
            "calls of operators": sum(c.accepted is True for c in self.operator_calls.values()),
            "events": self.event_count,
        }
