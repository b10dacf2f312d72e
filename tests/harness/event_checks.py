"""Compares the log of events with what was acknowledged, and with what is stored."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from tests.harness.ledger import Job, Ledger, OperatorCall

# The events of the calls: their types, and the causes if a type has several.
_CAUSED_BY = {
    ("job.created", None): "CreateJob",
    ("job.paused", "OPERATOR"): "PauseJob",
    ("job.resumed", None): "ResumeJob",
    ("job.updated", None): "UpdateJob",
    ("job.retried", None): "RetryExecutions",
    ("job.canceled", "OPERATOR"): "CancelJob",
    ("job.deleted", "OPERATOR"): "DeleteJob",
    ("job.stage_approved", None): "ApproveStage",
    ("job.stage_rejected", None): "RejectStage",
    ("job.stage_opened", "OPERATOR"): "AdvanceJob",
    ("job.start_approved", None): "ApproveStart",
    ("job.canceled", "START_REJECTED"): "RejectStart",
}
# Events that have the user of a call if it caused them, but that other changes add, too.
_ALSO_CAUSED_BY = {
    ("executions.finished", None): "CancelExecution",
    ("job.completed", None): "CancelExecution UpdateJob",
    ("job.paused", "STAGE_REJECTED"): "RejectStage",
    ("job.stage_opened", "GATE"): "ApproveStage",
    ("job.resumed", None): "ApproveStart",
}
_IN_PROGRESS = 2  # the index in the counts

STORED_JOBS = """
    SELECT j.tenant_id, j.job_id, j.status::text, j.created_at, j.canceled_at, j.deleted_at,
           j.completed_at, j.open_stage, j.execution_events, j.joined_count, p.event_count,
           ARRAY[p.queued, 0, p.in_progress, p.succeeded, p.failed, p.timed_out, p.rejected]
               AS counts,
           (SELECT array_agg(s.approved_at) FROM jobs.job_stages s
            WHERE s.tenant_id = j.tenant_id AND s.job_id = j.job_id
              AND s.approved_at IS NOT NULL) AS approved_ats
    FROM jobs.jobs j JOIN jobs.job_progress p USING (tenant_id, job_id)
"""
ATTEMPTS = """
    SELECT tenant_id, job_id, device_id, execution_number, status::text, failure_code, end_cause,
           started_at, canceled_by_operator, true AS is_current
    FROM jobs.job_executions
    UNION ALL
    SELECT tenant_id, job_id, device_id, execution_number, status::text, failure_code, end_cause,
           started_at, true, false
    FROM jobs.execution_attempts
"""
"""The current and the earlier attempts of all devices."""


@dataclass(frozen=True)
class LoggedEvent:
    """A row of the log."""

    tenant: str
    position: int
    job_id: str
    type: str
    time: datetime
    status: str
    counts: Sequence[int]
    user: str | None
    details: Mapping[str, Any]

    @property
    def caused_by(self) -> str | None:
        """The method whose calls add such events. None: no call of an operator does."""
        return _CAUSED_BY.get((self.type, self.details.get("cause")))


def of_each_job(rows: Iterable[Any]) -> dict[Job, list[Any]]:
    found: dict[Job, list[Any]] = defaultdict(list)
    for row in rows:
        found[row["tenant_id"], row["job_id"]].append(row)
    return found


async def check_events(
    owner: asyncpg.Connection, ledger: Ledger, events: Mapping[Job, Sequence[LoggedEvent]]
) -> Sequence[Job]:
    """Check that each change has its event and each event its change. Return the wrong jobs."""
    ledger.done.update(f"event {event.type}" for each in events.values() for event in each)
    reported: dict[Job, dict[tuple[str, int], str]] = defaultdict(dict)
    for (tenant, job_id, device_id, number), status in ledger.reported.items():
        reported[tenant, job_id][device_id, number] = status
    calls: dict[Job, dict[str, OperatorCall]] = defaultdict(dict)
    for user, call in ledger.operator_calls.items():
        calls[call.tenant, call.job_id][user] = call
    stored = of_each_job(await owner.fetch(STORED_JOBS))
    attempts = of_each_job(await owner.fetch(ATTEMPTS))
    wrong = []
    for job in stored.keys() | events.keys() | calls.keys():
        row = stored[job][0] if job in stored else None
        checks = JobChecks(events.get(job, ()), calls[job], row)
        found = [*checks.violations(ledger.sizes.get(job), attempts[job], reported[job])]
        for kind, example in found:
            ledger.problem(kind, f"{job}: {example}")
        wrong += [job] * bool(found)
    return wrong


@dataclass
class JobChecks:
    """Checks the events of one job."""

    events: Sequence[LoggedEvent]
    calls: Mapping[str, OperatorCall]
    """By user."""
    stored: Any
    """The job. None: it was never created, or it was purged."""
    by_user: Mapping[str | None, Sequence[LoggedEvent]] = field(init=False)

    def __post_init__(self) -> None:
        by_user: dict[str | None, list[LoggedEvent]] = defaultdict(list)
        for event in self.events:
            by_user[event.user].append(event)
        self.by_user = by_user

    def violations(
        self,
        size: int | None,
        attempts: Sequence[Mapping[str, Any]],
        reported: Mapping[tuple[str, int], str],
    ) -> Iterator[tuple[str, str]]:
        """Yield the violations: a kind and an example.

        `size` is the number of executions at creation, None: unknown; `attempts` has the stored
        ones, and `reported` the acknowledged reports by device and number of the attempt.
        """
        yield from self._calls_without_event()
        yield from self._events_without_call()
        yield from self._impossible_orders()
        yield from self._impossible_transitions()
        yield from self._differences_from_job()
        yield from self._wrong_counts(size)
        yield from self._wrong_executions(attempts, reported)

    def _calls_without_event(self) -> Iterator[tuple[str, str]]:
        for user, call in self.calls.items():
            own = self.by_user.get(user, ())
            if call.accepted is False and own:
                yield "a rejected call has an event", f"{user} {call}: {own}"
            elif call.accepted and call.changes and not own and self._changed(call):
                yield "an acknowledged change has no event", f"{user} {call}"
            elif call.accepted and not call.changes and own:
                yield "a call that changed nothing has an event", f"{user} {call}: {own}"

    def _changed(self, call: OperatorCall) -> bool:
        """Whether an accepted call without an event must have changed the job."""
        match call.method:
            case "CancelJob" | "UpdateJob" | "DeleteJob" | "RetryExecutions":
                return True
            case "RejectStage" | "RejectStart":
                return True
            case "CancelExecution":
                return bool(self.stored and self.stored["execution_events"])
            case "PauseJob" | "ResumeJob":
                wanted = call.method == "PauseJob"
                return not any(
                    is_paused == wanted and start <= call.ended_at and call.started_at <= end
                    for is_paused, start, end in self._pauses()
                    if call.ended_at
                )
            case method:
                # The same change was made before, such as by a repeated call.
                types = {
                    "CreateJob": "job.created",
                    "ApproveStage": "job.stage_approved",
                    "ApproveStart": "job.start_approved",
                }
                wanted_type = types.get(method, "job.stage_opened")
                return not any(
                    e.type == wanted_type and call.ended_at and e.time <= call.ended_at
                    for e in self.events
                )

    def _pauses(self) -> Iterator[tuple[bool, datetime, datetime]]:
        """Yield the times in which the job was paused, and those in which it was not."""
        is_paused, start = False, datetime.min.replace(tzinfo=UTC)
        for event in self.events:
            if event.type in ("job.paused", "job.resumed"):
                yield is_paused, start, event.time
                is_paused, start = event.type == "job.paused", event.time
        yield is_paused, start, datetime.max.replace(tzinfo=UTC)

    def _events_without_call(self) -> Iterator[tuple[str, str]]:
        seen: Counter[tuple[str, str]] = Counter()
        for event in self.events:
            if event.details.get("cause") == "REPLACED":
                continue  # CreateJob of another job
            if event.user is None:
                if event.caused_by and self.calls:
                    yield "an event has no change", f"{event}"
                continue
            call = self.calls.get(event.user)
            also_caused_by = _ALSO_CAUSED_BY.get((event.type, event.details.get("cause")), "")
            if call is None or call.method not in (*also_caused_by.split(), event.caused_by):
                yield "an event has no change", f"{event} of {call}"
                continue
            seen[event.user, event.type] += 1
            if seen[event.user, event.type] > 1:
                yield "a change has two events", f"{event} of {call}"
            if event.time < call.started_at or (call.ended_at and event.time > call.ended_at):
                yield "an event has a wrong time", f"{event} of {call}"

    def _impossible_orders(self) -> Iterator[tuple[str, str]]:
        """Check the order of the events, and that of calls that began after others had ended."""
        begun = None
        for event in self.events:
            call = self.calls.get(event.user or "")
            if call is None:
                continue
            if begun and call.ended_at and call.ended_at < begun:
                yield "events are not in the order of their changes", f"{event} of {call}"
            begun = max(begun or call.started_at, call.started_at)

    def _impossible_transitions(self) -> Iterator[tuple[str, str]]:
        pause: str | None = None  # its cause
        stage, ended = 0, Counter[str]()
        types = [event.type for event in self.events]
        for n, event in enumerate(self.events):
            kind = event.type
            following = types[n + 1] if n + 1 < len(types) else ""
            if (
                (kind == "job.created") != (n == 0)
                or (kind == "job.paused" and pause not in (None, "START_APPROVAL"))
                or (kind == "job.resumed" and pause is None)
                or (kind == "job.stage_opened" and event.details["stage"] != stage + 1)
                or (kind == "job.tripped" and following not in ("job.paused", "job.canceled"))
                or (kind == "job.deleted" and following)
                or (kind in ("job.canceled", "job.completed", "job.expired") and ended[kind])
            ):
                yield "an event is not possible here", f"{event} in {types}"
            if kind in ("job.paused", "job.resumed"):
                pause = event.details["cause"] if kind == "job.paused" else None
            stage += kind == "job.stage_opened"
            ended[kind] += 1
            if kind == "job.retried":
                ended.clear()

    def _differences_from_job(self) -> Iterator[tuple[str, str]]:
        """Check the stored times and numbers of the changes."""
        if self.stored is None:
            if self.events and self.events[-1].type != "job.deleted":
                yield "an event has no job", f"{self.events}"
            return
        if not self.events:
            yield "a job has no event", f"{self.stored}"
            return
        job = self.stored
        if len(self.events) != job["event_count"]:
            yield "an event of a job is missing", f"{len(self.events)} of {job['event_count']}"
        times: dict[str, list[datetime]] = defaultdict(list)
        for event in self.events:
            times[event.type].append(event.time)
            if event.type == "job.retried":
                times["job.completed"].clear()
        for kind, stored in (
            ("job.created", job["created_at"]),
            ("job.canceled", job["canceled_at"]),
            ("job.deleted", job["deleted_at"]),
            ("job.completed", job["completed_at"]),
        ):
            if times[kind] != [stored] * (stored is not None):
                yield "an event differs from its job", f"{kind}: {times[kind]}, not {stored}"
        if sorted(times["job.stage_approved"]) != sorted(job["approved_ats"] or ()):
            yield "an event differs from its job", f"{times['job.stage_approved']} are approved"
        if len(times["job.stage_opened"]) != (job["open_stage"] or 0):
            yield "an event differs from its job", f"stage {job['open_stage']} is open"

    def _wrong_counts(self, size: int | None) -> Iterator[tuple[str, str]]:
        """Check the counts and the last status. All jobs have ended."""
        if self.stored is None or not self.events:
            return
        if size is not None:
            yield from self._wrong_sizes(size)
        last, counts = self.events[-1], self.stored["counts"]
        # After the cancel of a job, executions that are in progress end without an event.
        left = last.counts[_IN_PROGRESS]
        changed = [b - a for a, b in zip(last.counts, counts, strict=True)]
        if (
            last.status != self.stored["status"]
            or min([*changed[:2], *changed[3:]]) < 0
            or sum(changed[3:]) > left
            or (not left and any(changed))
        ):
            example = f"{last}, then {self.stored['status']} {counts}"
            yield "the last event differs from the job", example

    def _wrong_sizes(self, size: int) -> Iterator[tuple[str, str]]:
        """Check that only joins add executions. A device that joins again has one already."""
        joined = 0
        for event in self.events:
            grown = sum(event.counts) - size - joined
            if grown not in range(event.details.get("joined_count", 0) + 1):
                yield "an event has wrong counts", f"{event}, not {size} + {joined}"
            joined += grown
        if joined != (self.stored["joined_count"] or 0):
            yield "the last event differs from the job", f"{joined} joined, not {self.stored}"

    def _wrong_executions(
        self, attempts: Sequence[Mapping[str, Any]], reported: Mapping[tuple[str, int], str]
    ) -> Iterator[tuple[str, str]]:
        """Check that each attempt that ended by itself is in one event."""
        listed = [
            execution
            for event in self.events
            if event.type == "executions.finished"
            for execution in event.details["attempts"]
        ]
        if self.stored is None:
            return
        if not self.stored["execution_events"]:
            if listed:
                yield "an execution has an event that nobody asked for", f"{listed}"
            return
        statuses = {(e["device_id"], e["execution_number"]): e["status"] for e in listed}
        if len(statuses) != len(listed):
            yield "an attempt is in two events", f"{listed}"
        numbers = {e["device_id"]: e["execution_number"] for e in attempts if e["is_current"]}
        for attempt, status in reported.items():
            if statuses.get(attempt) != status:
                yield "a report has no event", f"{attempt}: {statuses.get(attempt)}, not {status}"
        stored = {
            (e["device_id"], e["execution_number"]): None if _ended_by_job(e) else e["status"]
            for e in attempts
            if e["status"] not in ("QUEUED", "IN_PROGRESS")
        }
        for attempt in statuses.keys() | stored.keys():
            # A retry by an operator overwrites the attempt before.
            if attempt not in stored and attempt[1] < numbers[attempt[0]]:
                continue
            if statuses.get(attempt) != stored.get(attempt):
                example = f"{attempt}: {statuses.get(attempt)}, not {stored.get(attempt)}"
                yield "an attempt differs from its event", example
        for execution in listed:
            device = execution["device_id"]
            if execution.get("will_retry") and execution["execution_number"] >= numbers[device]:
                yield "a retry that an event names is missing", f"{execution}"


def _ended_by_job(attempt: Mapping[str, Any]) -> bool:
    """Whether the cancel or the expiry of its job ended an attempt, which so has no event."""
    is_expired = attempt["status"] == "TIMED_OUT" and attempt["failure_code"] is None
    # A device that accepts the cancel of its job ends the attempt itself.
    is_canceled = attempt["end_cause"] == "JOB_CANCELED" and attempt["canceled_by_operator"]
    return is_expired or is_canceled
