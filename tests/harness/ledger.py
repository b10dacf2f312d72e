"""What clients received: acknowledged changes and the status of each call, and the problems found.

Nothing here is read from the database.
"""

import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from jobs_grpc.client import JobsError
from jobs_grpc.client.errors import CALL_RESET

CHANGES = {
    *("CreateJob", "PauseJob", "ResumeJob", "UpdateJob", "CancelJob", "DeleteJob", "ApproveStage"),
    *("RejectStage", "AdvanceJob", "RetryExecutions", "CancelExecution"),
    *("ApproveStart", "RejectStart"),
}
"""The calls that change a job."""
UNCHANGED = ("keep-", "closed-")
"""The prefixes of jobs that are paused, or whose start windows are closed, for good."""

# No fault may cause these.
_FORBIDDEN_CODES = ("CANCELLED", "INTERNAL", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED")
_FORBIDDEN_STATUSES = (499, 500, 501, 502)
_UNAVAILABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_MAX_NOTES = 200_000
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
class Ledger:
    """A change counts as acknowledged when its client got the response."""

    is_strict: bool = False
    """Whether only the drain of its server excuses a call that is unavailable."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The clock of the service."""
    operator_calls: dict[str, OperatorCall] = field(default_factory=dict)
    """Calls that change a job, by user."""
    sizes: dict[Job, int] = field(default_factory=dict)
    """Acknowledged jobs and their numbers of executions."""
    reported: dict[Attempt, str] = field(default_factory=dict)
    """Acknowledged final reports."""
    reported_at: dict[Attempt, datetime] = field(default_factory=dict)
    """When the client got the response to the report."""
    rings: dict[Device, str | None] = field(default_factory=dict)
    """The label `ring` of the last acknowledged change of each device. None: the device is gone."""
    possible_rings: dict[Device, dict[str | None, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """The same for changes that failed, but may be stored, with the time of the last failure."""
    answers: set[tuple[int, str]] = field(default_factory=set)
    """Servers, and the methods that they have answered; a caller may clear it."""
    done: Counter[str] = field(default_factory=Counter)
    """The number of things done, by name."""
    problems: Counter[str] = field(default_factory=Counter)
    """Violated guarantees by kind."""
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The first examples of each problem."""
    histories: str = ""
    """How many histories of calls are possible, as the checker says."""
    skipped: str = ""
    """Which faults are not possible on this machine, and why."""
    started_at: float = field(default_factory=time.monotonic)
    _drained_until: dict[int, float] = field(default_factory=dict)
    _notes: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=_MAX_NOTES))

    def note(self, subject: str, event: str) -> None:
        """Record an event of a job, or of a process, for the report of a failure."""
        self._notes.append((time.monotonic() - self.started_at, subject, event))

    def notes(self, subject: str) -> list[str]:
        """Return the events of a subject, in order."""
        return [f"{at:8.3f} s  {event}" for at, name, event in self._notes if name == subject]

    def problem(self, kind: str, example: object) -> None:
        """Record that the service violated a guarantee."""
        self.problems[kind] += 1
        if self.problems[kind] <= _MAX_EXAMPLES:
            at = time.monotonic() - self.started_at
            self.examples[kind].append(f"{at:.3f} s: {str(example)[:2000]}")

    def begin(self, method: str, tenant: str, job_id: str) -> str:
        """Record that an operator makes a call. Return the user who makes it."""
        user = f"user-{len(self.operator_calls) + 1}"
        self.operator_calls[user] = OperatorCall(tenant, job_id, method, self.now())
        return user

    def end(self, user: str, accepted: bool, *, changes: bool = True) -> None:
        """Record the response to an operator."""
        call = self.operator_calls[user]
        call.ended_at, call.accepted, call.changes = self.now(), accepted, changes

    def acknowledged(self, method: str, prefix: str = "") -> dict[Job, datetime]:
        """Return jobs with an accepted call, and when the client got the first response."""
        found: dict[Job, datetime] = {}
        for call in self.operator_calls.values():
            if call.accepted and call.method == method and call.job_id.startswith(prefix):
                assert call.ended_at
                found.setdefault((call.tenant, call.job_id), call.ended_at)
        return found

    def stops(self) -> dict[Job, datetime]:
        """Return jobs of which nothing may start any more, and since when."""
        keep, closed = UNCHANGED
        paused, updated = (
            self.acknowledged("PauseJob", keep),
            self.acknowledged("UpdateJob", closed),
        )
        return paused | updated | self.acknowledged("CancelJob")

    def maybe_deleted(self) -> set[Job]:
        """Return the jobs that a client tried to delete, with or without success."""
        calls = self.operator_calls.values()
        return {(call.tenant, call.job_id) for call in calls if call.method == "DeleteJob"}

    def begin_drain(self, server: int) -> None:
        """Record that a server is being stopped with SIGTERM."""
        self._drained_until[server] = math.inf

    def end_drain(self, server: int) -> None:
        """Record that clients reach the server again."""
        self._drained_until[server] = time.monotonic()

    def is_drained(self, server: int, since: float) -> bool:
        """Whether the server has been drained during a call that began at `since`."""
        return since <= self._drained_until.get(server, -math.inf)

    def answered(self, server: int, method: str) -> None:
        """Count a call that succeeded."""
        self.done["gRPC OK"] += 1
        self.answers.add((server, method))

    def failed(
        self, server: int, method: str, subject: str, error: JobsError, since: float
    ) -> None:
        """Count a call, or a report of a stream, that failed, and check its status.

        `since` is the monotonic time at which it began.
        """
        code = error.code.name
        name = f"{code} {error.reason}".rstrip()
        self.note(subject, f"{method}: {name} {error.message!r}")
        is_drained = self.is_drained(server, since)
        if error.message == CALL_RESET:
            # gRPC resets the calls that reach a server between SIGTERM and its GOAWAY frame.
            name = "CANCELLED by a stopping server" if is_drained else "CANCELLED"
        self.done[f"gRPC {name}"] += 1
        # A server of an earlier version does not know each call.
        is_unknown = self.is_strict and code == "UNIMPLEMENTED"
        is_unavailable = code in _UNAVAILABLE
        if not is_unavailable and code != "RESOURCE_EXHAUSTED":
            self.answers.add((server, method))
        if (
            (name in _FORBIDDEN_CODES or code in _FORBIDDEN_CODES)
            or (self.is_strict and is_unavailable and not is_drained)
        ) and not is_unknown:
            cause = getattr(error.__cause__, "debug_error_string", str)()
            self.problem(
                f"a call got {name}", f"{method} on server {server}: {error.message!r}, {cause}"
            )
        # The server sends a request id with each status; a status without one is from the client.
        if error.request_id and code == "UNAVAILABLE" and error.retry_after is None:
            self.problem("UNAVAILABLE without RetryInfo", f"{method}: {error.message!r}")

    def responded(self, method: str, subject: str, response: httpx.Response, since: float) -> None:
        """Count a REST response and check its status. The gateway calls the first server."""
        status = response.status_code
        self.done[f"REST {status}"] += 1
        text = f"{method}: {status} {response.text[:300]}"
        is_unexpected = self.is_strict and status >= 500 and not self.is_drained(0, since)
        if status in _FORBIDDEN_STATUSES or is_unexpected:
            self.problem(f"a request got {status}", text)
        if status == 503 and "retry-after" not in response.headers:
            self.problem("503 without Retry-After", text)
        if status >= 400:
            self.note(subject, text)

    def disconnected(self, method: str, error: httpx.TransportError) -> None:
        """Count a REST request without a response, because of a timeout or a lost connection."""
        name = type(error).__name__
        self.done[f"REST {name}"] += 1
        if self.is_strict:
            self.problem(f"a request got {name}", method)

    def summary(self) -> dict[str, Any]:
        """Return the numbers of acknowledged changes."""
        return {
            "jobs": len(self.sizes),
            "stops": len(self.stops()),
            "deletes": len(self.acknowledged("DeleteJob")),
            "devices changed": len(self.rings),
            "reports": len(self.reported),
            "calls of operators": sum(c.accepted is True for c in self.operator_calls.values()),
            "events": sum(n for name, n in self.done.items() if name.startswith("event ")),
        }
