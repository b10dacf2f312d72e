"""The body of a delivery is the event as the REST API returns it."""

import json
from datetime import UTC, datetime
from typing import Any

from fleet.jobs.v1 import events_pb2 as pb
from fleet.jobs.v1 import jobs_pb2

from jobs_grpc.webhooks.payload import event_body, message_id
from tests.support.events import COUNTS

ROW: dict[str, Any] = {
    "position": 1_764_460_800_000_001,
    "previous_position": 1_764_460_800_000_000,
    "type": "job.tripped",
    "occurred_at": datetime(2026, 11, 30, 12, 0, tzinfo=UTC),
    "job_id": "j",
    "status": "IN_PROGRESS",
    "counts": "[1,2,3,4,5,6,7]",
    "user_id": None,
    "details": None,
}


def _body(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(event_body(ROW | changes))
    return body


def test_event_without_details_has_all_fields() -> None:
    assert _body() == {
        "type": "job.tripped",
        "timestamp": "2026-11-30T12:00:00.000000+00:00",
        "data": {
            "position": "1764460800000001",
            "type": "job.tripped",
            "time": "2026-11-30T12:00:00.000000+00:00",
            "job_id": "j",
            "status": "IN_PROGRESS",
            "execution_counts": dict(zip(COUNTS, range(1, 8), strict=True)),
            "user_id": None,
            "cause": "",
            "reason": "",
            "stage": None,
            "retried_count": 0,
            "updated_fields": [],
            "attempts": [],
            "replaces_job_id": "",
            "replaced_by_job_id": "",
            "joined_count": 0,
            "previous_position": "1764460800000000",
        },
    }


def test_fields_are_those_of_the_messages() -> None:
    attempts = [{"device_id": "d", "status": "FAILED", "execution_number": 1}]
    data = _body(details=json.dumps({"attempts": attempts}))["data"]
    names = [field.name for field in pb.Event.DESCRIPTOR.fields]
    assert list(data) == [*names, "previous_position"]
    counts = {field.name for field in jobs_pb2.ExecutionCounts.DESCRIPTOR.fields}
    assert set(data["execution_counts"]) == counts
    (attempt,) = data["attempts"]
    assert list(attempt) == [field.name for field in pb.FinishedAttempt.DESCRIPTOR.fields]
    assert attempt == {
        "device_id": "d",
        "status": "FAILED",
        "failure_code": "",
        "execution_number": 1,
        "will_retry": False,
    }


def test_details_are_fields_of_the_event() -> None:
    details = {
        "cause": "OPERATOR",
        "reason": "a “reason”\n",
        "stage": 0,
        "retried_count": 7,
        "updated_fields": ["priority"],
        "replaces_job_id": "fw-1",
        "replaced_by_job_id": "fw-3",
    }
    data = _body(details=json.dumps(details), user_id="olivia")["data"]
    assert data["user_id"] == "olivia"
    assert {name: data[name] for name in details} == details


def test_message_id_differs_between_tenants_and_positions() -> None:
    assert message_id("a", 1) == "evt_ca978112ca1bbdca_1"
    assert len({message_id("a", 1), message_id("a", 2), message_id("b", 1)}) == 3
