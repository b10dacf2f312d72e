"""Converts what keeps a device from starting an execution, from explain_execution.sql."""

from fleet.jobs.v1.jobs_pb2 import StartBlocker

from jobs_grpc.db.store import Row
from jobs_grpc.services.job_waits import (
    NOT_STARTED,
    WINDOW_CLOSED,
    Gate,
    approval_message,
    bake_message,
    pause_message,
    stage_words,
)
from jobs_grpc.services.row_conversions import (
    MessageFields,
    execution_fields,
    pause_fields,
    timestamp_fields,
)

_KINDS = dict(StartBlocker.Kind.items())

# Each is the whole message, with columns of the row in braces.
_MESSAGES = {
    "JOB_SCHEDULED": NOT_STARTED,
    "NOT_RELEASED": "The rate of the rollout has not released the device yet.",
    "WINDOW_CLOSED": WINDOW_CLOSED,
    "BACKOFF": "The last attempt failed, and the backoff before the next one has not ended.",
    "JOB_FULL": "The job is full: {in_progress:,} of at most {max_in_progress:,} executions are"
    " IN_PROGRESS.",
    "OTHER_JOB_FIRST": "The execution of job {other_job_id} is ahead in the queue of the device.",
    "EXPIRES_FIRST": "The job expires before the device can start.",
    "WAITING_FOR_DEVICE": "The device can start, but has not asked for the execution yet.",
}

_END_MESSAGES = {
    "DEVICE": "The device has reported {status}.",
    "TIMEOUT": "The execution was IN_PROGRESS for longer than its timeout.",
    "JOB_EXPIRED": "The job expired before the device started.",
    "JOB_CANCELED": "The job was canceled.",
    "EXECUTION_CANCELED": "An operator canceled the execution.",
    "DEVICE_DELETED": "The device was deleted.",
}


def explanation_fields(row: Row) -> MessageFields:
    """The fields of an ExplainExecutionResponse, from the row of jobs.explain_execution."""
    return {
        "execution": execution_fields(row),
        "blockers": [
            _blocker_fields(row, kind, timestamp_fields(until))
            for kind, until in zip(row["kinds"], row["untils"], strict=True)
        ],
        "earliest_start_at": timestamp_fields(row["earliest_start_at"]),
        "last_seen_at": timestamp_fields(row["last_seen_at"]),
        "joined_at": timestamp_fields(row["joined_at"]),
    }


def _blocker_fields(row: Row, kind: str, until: MessageFields) -> MessageFields:
    fields = {"kind": _KINDS[kind], "until": until, "message": _message(row, kind)}
    match kind:
        case "JOB_PAUSED":
            fields["pause"] = pause_fields(row)
        case "STAGE_NOT_OPEN":
            fields["stage_gate"] = _gate_fields(row)
        case "JOB_FULL":
            fields["job_slots"] = {name: row[name] for name in ("in_progress", "max_in_progress")}
        case "OTHER_JOB_FIRST":
            fields["other_job_id"] = row["other_job_id"]
    return fields


def _message(row: Row, kind: str) -> str:
    match kind:
        case "FINISHED":
            template = _END_MESSAGES.get(row["end_cause"], "The execution is {status}.")
        case "JOB_PAUSED":
            message = pause_message(row)
            if row["needs_start_approval"] and row["pause_cause"] != "START_APPROVAL":
                message = f"{message} The start of the job needs an approval as well."
            return message
        case "STAGE_NOT_OPEN":
            return _gate_message(row)
        case _:
            template = _MESSAGES[kind]
    return template.format_map(row)


def _gate_fields(row: Row) -> MessageFields:
    return {
        "open_stage": row["open_stage"],
        "total_executions": row["open_stage_executions"],
        "succeeded_count": row["open_stage_succeeded"],
        "required_count": row["open_stage_required"],
        "unfinished_count": row["open_stage_unfinished"],
        "awaiting_approval": row["awaiting_approval"],
        "next_opens_at": timestamp_fields(row["next_opens_at"]),
    }


def _gate_message(row: Row) -> str:
    """What the stage of the execution waits for, such as devices of the open stage."""
    name = stage_words(row["open_stage"], row["open_stage_name"])
    gate = Gate(
        name,
        row["open_stage_executions"],
        row["open_stage_succeeded"],
        row["open_stage_unfinished"],
        row["open_stage_percent"],
    )
    if row["awaiting_approval"]:
        wait = approval_message(name)
    elif gate.met < gate.required:
        wait = gate.message
    elif row["open_stage_bake_seconds"]:
        wait = bake_message(name)
    else:
        wait = f"The gate of {name} is met."  # A pause delays the opening.
    return f"Stage {row['stage']} is not open. {wait}"
