"""Records what clients received in a trial: acknowledged changes, and the status of each call."""

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from tests.support.failures import Failure

# No fault may cause these.
_FORBIDDEN_CODES = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED")
_FORBIDDEN_STATUSES = (499, 500, 501, 502)

_MAX_EVENTS = 200_000
_MAX_EXAMPLES = 5

Job = tuple[str, str]
"""The tenant and the id of a job."""
Attempt = tuple[str, str, str, int]
"""The tenant, the job, the device and the number of the execution."""


@dataclass
class History:
    """Records a trial. A change counts as acknowledged when its client got the response."""

    created: dict[Job, int] = field(default_factory=dict)
    """Acknowledged jobs and their numbers of executions."""
    canceled: set[Job] = field(default_factory=set)
    paused: set[Job] = field(default_factory=set)
    """Acknowledged pauses of jobs that no client resumes, cancels or deletes."""
    deleted: set[Job] = field(default_factory=set)
    """Jobs that a client tried to delete, with or without success."""
    reported: dict[Attempt, str] = field(default_factory=dict)
    """Acknowledged final reports."""
    calls: Counter[str] = field(default_factory=Counter)
    """The number of calls by interface and status."""
    violations: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Violated guarantees by kind, with the first examples."""
    violation_counts: Counter[str] = field(default_factory=Counter)
    draining: bool = False
    """Whether a server is being stopped with SIGTERM."""
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

    def add_violation(self, kind: str, example: str) -> None:
        """Record that the service violated a guarantee."""
        self.violation_counts[kind] += 1
        if self.violation_counts[kind] <= _MAX_EXAMPLES:
            at = time.monotonic() - self.started_at
            self.violations[kind].append(f"{at:.3f} s: {example}")

    def answered(self, method: str) -> None:
        """Count a gRPC call that succeeded."""
        self.calls["gRPC OK"] += 1

    def failed(self, method: str, subject: str, error: grpc.aio.AioRpcError) -> str:
        """Count a gRPC call that failed, check its status, and return its reason."""
        code = error.code()
        failure = Failure(code)
        failure.read(error)
        self.calls[f"gRPC {code.name} {failure.reason}".rstrip()] += 1
        self.note(subject, f"{method}: {code.name} {failure.reason} {failure.message!r}")
        # gRPC resets calls that reach a server between SIGTERM and its GOAWAY frame. They get a
        # bare CANCELLED, which clients may repeat.
        reset_by_drain = self.draining and error.details() in ("", "CANCELLED")
        forbidden = code is grpc.StatusCode.CANCELLED and not reset_by_drain
        if forbidden or code.name in _FORBIDDEN_CODES:
            example = f"{method}: {error.details()!r}, {error.debug_error_string()}"
            self.add_violation(f"a call got {code.name}", example)
        # The server sends a request id with each status; a status without one is from the client.
        from_server = failure.request_id is not None
        if from_server and code is grpc.StatusCode.UNAVAILABLE and failure.retry_after is None:
            self.add_violation("UNAVAILABLE without RetryInfo", f"{method}: {failure.message!r}")
        return failure.reason

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
            "reports": len(self.reported),
        }
