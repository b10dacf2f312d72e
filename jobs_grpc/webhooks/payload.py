"""The ID and the body of a delivery."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jobs_grpc.db.event_rows import event_details, execution_counts

TEST_TYPE = "webhook.test"

_HASH_DIGITS = 16


def message_id(tenant_id: str, position: int) -> str:
    """Return the `webhook-id` of an event: the same for each delivery of it."""
    tenant = hashlib.sha256(tenant_id.encode()).hexdigest()[:_HASH_DIGITS]
    return f"evt_{tenant}_{position}"


def event_body(row: Mapping[str, Any]) -> bytes:
    """Return the body of a delivery, with the event as in the REST API.

    `row` is a row of claim_webhook.sql.
    """
    details = event_details(row["details"])
    occurred_at = _timestamp(row["occurred_at"])
    data = {
        "position": str(row["position"]),
        "type": row["type"],
        "time": occurred_at,
        "job_id": row["job_id"],
        "status": row["status"],
        "execution_counts": execution_counts(row["counts"]),
        "user_id": row["user_id"],
        "cause": details.get("cause", ""),
        "reason": details.get("reason", ""),
        "stage": details.get("stage"),
        "retried_count": details.get("retried_count", 0),
        "updated_fields": details.get("updated_fields", []),
        "attempts": [_attempt(attempt) for attempt in details.get("attempts", [])],
        "replaces_job_id": details.get("replaces_job_id", ""),
        "replaced_by_job_id": details.get("replaced_by_job_id", ""),
        "joined_count": details.get("joined_count", 0),
        "previous_position": str(row["previous_position"]),
    }
    return _encode({"type": row["type"], "timestamp": occurred_at, "data": data})


def test_message(webhook_id: str) -> tuple[str, bytes]:
    """Return a `webhook-id` and the body of a test delivery."""
    data = {"webhook_id": webhook_id}
    body = _encode({"type": TEST_TYPE, "timestamp": _timestamp(datetime.now(UTC)), "data": data})
    return f"test_{secrets.token_hex(16)}", body


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "device_id": attempt["device_id"],
        "status": attempt["status"],
        "failure_code": attempt.get("failure_code") or "",
        "execution_number": attempt["execution_number"],
        "will_retry": attempt.get("will_retry", False),
    }


def _timestamp(time: datetime) -> str:
    """Return a time as the REST API writes it."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def _encode(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
