"""The checks of events find each way in which a log can be wrong."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.harness.event_checks import JobChecks, LoggedEvent
from tests.harness.ledger import OperatorCall

_START = datetime(2026, 11, 1, tzinfo=UTC)
_REPORTED = {("pump", 1): "SUCCEEDED"}
_FINISHED = [
    {
        "device_id": "pump",
        "execution_number": 1,
        "status": "SUCCEEDED",
        "failure_code": None,
        "end_cause": None,
        "canceled_by_operator": False,
        "is_current": True,
    }
]

Log = list[LoggedEvent]


def _at(second: int) -> datetime:
    return _START + timedelta(seconds=second)


def _event(second: int, kind: str, status: str, user: str | None, **details: Any) -> LoggedEvent:
    counts = [0, 0, 0, 1, 0, 0, 0] if second >= 40 else [1, 0, 0, 0, 0, 0, 0]
    return LoggedEvent("t", second, "j", kind, _at(second), status, counts, user, details)


_LOG = [
    _event(10, "job.created", "IN_PROGRESS", "u1"),
    _event(20, "job.paused", "PAUSED", "u2", cause="OPERATOR", reason=""),
    _event(30, "job.resumed", "IN_PROGRESS", "u3"),
    _event(
        40,
        "executions.finished",
        "IN_PROGRESS",
        None,
        attempts=[{"device_id": "pump", "status": "SUCCEEDED", "execution_number": 1}],
    ),
    _event(40, "job.completed", "COMPLETED", None),
    _event(50, "job.updated", "COMPLETED", "u5", fields=["labels"]),
]
_STORED = {
    "status": "COMPLETED",
    "created_at": _at(10),
    "canceled_at": None,
    "deleted_at": None,
    "completed_at": _at(40),
    "joined_count": None,
    "open_stage": None,
    "execution_events": True,
    "event_count": len(_LOG),
    "counts": [0, 0, 0, 1, 0, 0, 0],
    "approved_ats": None,
}


def _call(method: str, second: int, accepted: bool | None = True) -> OperatorCall:
    return OperatorCall("t", "j", method, _at(second - 1), _at(second + 1), accepted)


_CALLS = {
    "u1": _call("CreateJob", 10),
    "u2": _call("PauseJob", 20),
    "u2-again": _call("PauseJob", 25),  # the job was paused already
    "u3": _call("ResumeJob", 30),
    "u4": _call("CancelJob", 45, accepted=False),
    "u5": _call("UpdateJob", 50),
}


def _kinds(log: Log) -> set[str]:
    checks = JobChecks(log, _CALLS, _STORED | {"event_count": len(_LOG)})
    return {kind for kind, _ in checks.violations(1, _FINISHED, _REPORTED)}


def test_correct_log_has_no_violation() -> None:
    assert _kinds(_LOG) == set()


def _without(index: int) -> Callable[[Log], Log]:
    return lambda log: [*log[:index], *log[index + 1 :]]


def _with(index: int, **fields: Any) -> Callable[[Log], Log]:
    return lambda log: [*log[:index], replace(log[index], **fields), *log[index + 1 :]]


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (_without(1), "an acknowledged change has no event"),
        (_without(2), "an acknowledged change has no event"),
        (_without(5), "an acknowledged change has no event"),
        (_without(3), "a report has no event"),
        (_without(4), "an event of a job is missing"),
        (lambda log: [*log, log[5]], "a change has two events"),
        (lambda log: [*log, log[3]], "an attempt is in two events"),
        (_with(5, user=None), "an event has no change"),
        (_with(5, user="u4"), "a rejected call has an event"),
        (_with(5, user="u3"), "an event has no change"),
        (_with(5, time=_at(60)), "an event has a wrong time"),
        (_with(4, time=_at(41)), "an event differs from its job"),
        (_with(5, counts=[1, 0, 0, 0, 0, 0, 0]), "the last event differs from the job"),
        (_with(5, status="PAUSED"), "the last event differs from the job"),
        (_with(1, counts=[0, 0, 0, 0, 0, 0, 0]), "an event has wrong counts"),
        (lambda log: [log[0], log[2], log[1], *log[3:]], "an event is not possible here"),
        (lambda log: [*log[:1], log[5], *log[1:5]], "events are not in the order of their changes"),
    ],
)
def test_wrong_log_has_a_violation(change: Callable[[Log], Log], kind: str) -> None:
    assert kind in _kinds(change(_LOG))
