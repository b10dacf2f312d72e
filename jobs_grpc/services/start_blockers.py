"""Converts what keeps a device from starting an execution, from explain_execution.sql."""

from fleet.jobs.v1.jobs_pb2 import StartBlocker

from jobs_grpc.db.store import Row
from jobs_grpc.services.row_conversions import (
    MessageFields,
    execution_fields,
    pause_fields,
    timestamp_fields,
)

_KINDS = dict(StartBlocker.Kind.items())

_END_CAUSES = {
    "DEVICE": "the device reported it",
    "TIMEOUT": "it was IN_PROGRESS for longer than its timeout",
    "JOB_EXPIRED": "the job expired before the device started",
    "JOB_CANCELED": "the job was canceled",
    "EXECUTION_CANCELED": "an operator canceled the execution",
    "DEVICE_REMOVED": "the device was deleted",
}

_MESSAGES = {
    "JOB_SCHEDULED": "The job has not started yet.",
    "NOT_RELEASED": "The rate of the rollout has not released the device yet.",
    "WINDOW_CLOSED": "No start window is open.",
    "BACKOFF": "The last attempt failed, and the backoff before the next one has not ended.",
    "EXPIRES_FIRST": "The job expires before the device can start.",
    "WAITING_FOR_DEVICE": "The device can start, but has not asked for the execution yet.",
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
    }


def _blocker_fields(row: Row, kind: str, until: MessageFields) -> MessageFields:
    fields = {"kind": _KINDS[kind], "until": until}
    match kind:
        case "FINISHED":
            cause = _END_CAUSES.get(row["end_cause"])
            fields["message"] = f"The execution is {row['status']}{f': {cause}' if cause else ''}."
        case "JOB_PAUSED":
            fields |= {"pause": pause_fields(row), "message": _pause_message(row)}
        case "STAGE_NOT_OPEN":
            fields |= {"stage_gate": _gate_fields(row), "message": _gate_message(row)}
        case "JOB_FULL":
            slots = {name: row[name] for name in ("in_progress", "max_in_progress")}
            message = (
                f"The job is full: {slots['in_progress']:,} of at most {slots['max_in_progress']:,}"
                " executions are IN_PROGRESS."
            )
            fields |= {"job_slots": slots, "message": message}
        case "OTHER_JOB_FIRST":
            job_id = row["other_job_id"]
            message = f"The execution of job {job_id} is ahead in the queue of the device."
            fields |= {"other_job_id": job_id, "message": message}
        case _:
            fields["message"] = _MESSAGES[kind]
    return fields


def _pause_message(row: Row) -> str:
    match row["pause_cause"]:
        case "OPERATOR":
            by = row["paused_by"] or "An operator"
        case "FAILURE_CRITERION":
            by = "A failure criterion"
        case _:
            by = "A gate that is not met"
    return f"{by} paused the job: {row['pause_reason']}"


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
    stage, required = row["open_stage"], row["open_stage_required"]
    if row["awaiting_approval"]:
        wait = f"Stage {stage} waits for an approval."
    elif required is not None and row["open_stage_succeeded"] < required:
        share = row["open_stage_succeeded"] * 100 // row["open_stage_executions"]
        wait = (
            f"The gate of stage {stage}: {share} % succeeded,"
            f" {row['open_stage_percent']} % required."
        )
    elif required is None and row["open_stage_unfinished"]:
        wait = (
            f"In stage {stage}, {row['open_stage_unfinished']:,} of"
            f" {row['open_stage_executions']:,} executions are not finished."
        )
    else:
        wait = f"The bake_time of stage {stage} has not passed."
    return f"Stage {row['stage']} is not open. {wait}"
