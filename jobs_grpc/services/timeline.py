"""Converts the timeline of a job to the fields of GetJobTimelineResponse."""

import json
from typing import Any

from jobs_grpc.db.store import Row
from jobs_grpc.services.row_conversions import MessageFields, timestamp_fields

MAX_BUCKETS = 200
MAX_MARKS = 200
_MAX_REASON = 200


def timeline_fields(row: Row) -> MessageFields:
    """The fields of GetJobTimelineResponse, from the row of get_job_timeline.sql."""
    columns = ("bucket_times", "succeeded", "failed", "canceled", "expired")
    buckets = zip(*(row[column] or () for column in columns), strict=True)
    return {
        "computed_at": timestamp_fields(row["computed_at"]),
        "bucket_size": {"seconds": row["bucket_seconds"]},
        "buckets": [
            {
                "time": {"seconds": time},
                "succeeded_count": succeeded,
                "failed_count": failed,
                "canceled_count": canceled,
                "expired_count": expired,
            }
            for time, succeeded, failed, canceled, expired in buckets
        ],
        "marks": [_mark_fields(mark) for mark in json.loads(row["marks"] or "[]")],
    }


def _mark_fields(mark: dict[str, Any]) -> MessageFields:
    details = mark["details"] or {}
    return {
        "time": timestamp_fields(mark["time"]),
        "type": mark["type"],
        "user_id": mark["user_id"],
        "cause": details.get("cause"),
        "reason": details.get("reason", "")[:_MAX_REASON],
        "stage": details.get("stage"),
        "retried_count": details.get("retried_count"),
    }
