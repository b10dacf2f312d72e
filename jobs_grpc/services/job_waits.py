"""What a job waits for and which calls its state allows, from the row of the job.

The rule of gates is that of apply_gates.sql. Nothing here depends on the caller, or on the time:
a watch sends a job again only when its fingerprint changes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleet.jobs.v1.jobs_pb2 import Job, JobWait

from jobs_grpc.db.store import Row
from jobs_grpc.rollout_time import format_seconds
from jobs_grpc.services.row_conversions import MessageFields, timestamp_fields

NOT_STARTED = "The job has not started yet."
WINDOW_CLOSED = "No start window is open."
JOINS_STOPPED = "The join brake has stopped joins. They continue when the job is resumed."
JOINS_FULL = "The job has JOBS_MAX_TARGETS devices, so no more can join."

_PAUSES = {
    "OPERATOR": "{user} paused the job",
    "FAILURE_CRITERION": "A failure criterion paused the job",
    "STAGE_REJECTED": "{user} rejected a stage of the rollout",
    "GATE_NOT_MET": "A gate that is not met paused the job",
    "START_APPROVAL": "The start of the job needs an approval",
    "JOINS": "The join brake paused the job",
}

# What each status allows. Failures, stages and running devices add calls, or remove some.
_ACTIONS = {
    "IN_PROGRESS": (Job.PAUSE, Job.CANCEL, Job.UPDATE),
    "SCHEDULED": (Job.PAUSE, Job.CANCEL, Job.UPDATE),
    "PAUSED": (Job.RESUME, Job.CANCEL, Job.UPDATE),
    "COMPLETED": (Job.DELETE,),
    "CANCELED": (Job.DELETE,),
}


@dataclass(frozen=True)
class Gate:
    """The part of a gate that counts devices."""

    stage: str
    """The stage in words, such as "stage 0"."""
    total: int
    succeeded: int
    unfinished: int
    percent: int | None
    """The min_succeeded_percent."""

    @property
    def met(self) -> int:
        """The number of devices that meet the gate."""
        return self.total - self.unfinished if self.percent is None else self.succeeded

    @property
    def required(self) -> int:
        """The number of devices that must meet it."""
        return self.total if self.percent is None else -(-self.total * self.percent // 100)

    @property
    def message(self) -> str:
        """What the gate waits for, if too few devices meet it."""
        if self.percent is None:
            count = f"{self.unfinished:,} of {self.total:,}"
            return f"In {self.stage}, {count} executions are not finished."
        share = self.succeeded * 100 // self.total
        return f"The gate of {self.stage}: {share} % succeeded, {self.percent} % required."


def stage_words(number: int, display_name: str) -> str:
    """Return a stage in words, such as "stage 0 (canary)"."""
    return f"stage {number} ({display_name})" if display_name else f"stage {number}"


def pause_message(row: Row) -> str:
    """Say who or what paused the job, and why."""
    text = _PAUSES.get(row["pause_cause"], "The job is paused")
    text = text.format(user=row["paused_by"] or "An operator")
    return f"{text}: {row['pause_reason']}" if row["pause_reason"] else f"{text}."


def approval_message(stage: str, approver: str = "") -> str:
    """Say that a stage needs an approval."""
    return f"{_capitalized(stage)} needs an approval{approver}."


def bake_message(stage: str) -> str:
    """Say that the bake_time of a stage has not passed."""
    return f"The bake_time of {stage} has not passed."


def add_waits(
    fields: dict[str, MessageFields], row: Row, details: Mapping[str, Any] | None
) -> None:
    """Add `waits_for` and `possible_actions` to the fields of a Job.

    `details` are those of rollout_details.sql, if the job has any. See also add_window_wait.
    """
    status = row["status"]
    waits: list[MessageFields] = []
    actions = list(_ACTIONS.get(status, ()))
    if status == "CANCELED":
        if row["in_progress"]:
            actions.remove(Job.DELETE)
    elif fields["failed_count"]:
        actions.append(Job.RETRY)
    if status == "PAUSED":
        _add_pause(waits, actions, row)
    if status == "SCHEDULED" or (
        status == "PAUSED" and row["start_at"] is not None and row["start_at"] > row["paused_at"]
    ):
        until = timestamp_fields(row["start_at"])
        waits.append({"kind": JobWait.START, "message": NOT_STARTED, "until": until})
    if row["continuous"]:
        joins = json.loads(row["joins"])
        if joins["is_stopped"] and row["pause_cause"] != "JOINS":
            waits.append({"kind": JobWait.JOINS_LIMIT, "message": JOINS_STOPPED})
        elif joins["is_full"]:
            waits.append({"kind": JobWait.JOINS_LIMIT, "message": JOINS_FULL})
    if details is not None and details["stages"] and Job.UPDATE in actions:  # not finished
        number = details["open_stage"]
        if number < len(details["stages"]) - 1:
            _add_gate(waits, actions, row["created_by"], details, number)
    if waits:
        fields["waits_for"] = waits
    fields["possible_actions"] = sorted(actions)


def _add_pause(waits: list[MessageFields], actions: list[Job.Action.ValueType], row: Row) -> None:
    needs_approval = row["start_approval"] == "{}"
    if needs_approval:
        actions.remove(Job.RESUME)
        actions += (Job.APPROVE_START, Job.REJECT_START)
        other = f" from a user other than {row['created_by']}"
        message = f"The start of the job needs an approval{other}."
        waits.append({"kind": JobWait.START_APPROVAL, "message": message})
    if row["pause_cause"] == "START_APPROVAL":
        actions.append(Job.PAUSE)  # PauseJob makes the pause outlast the approval.
    else:
        waits.append({"kind": JobWait.RESUME, "message": pause_message(row)})


def add_window_wait(fields: dict[str, MessageFields]) -> None:
    """Add the wait for a start window. `fields` must have those of window_state_fields."""
    counts = fields["execution_counts"]
    if fields["window_open"] or not counts["queued"] + counts["held"]:
        return
    waits, openings = fields.setdefault("waits_for", []), fields["next_openings"]
    until = openings[0] if openings else None
    wait = {"kind": JobWait.START_WINDOW, "message": WINDOW_CLOSED, "until": until}
    waits.insert(sum("stage" not in each for each in waits), wait)


def _add_gate(
    waits: list[MessageFields],
    actions: list[Job.Action.ValueType],
    creator: str | None,
    details: Mapping[str, Any],
    number: int,
) -> None:
    """Add what the gate of the open stage waits for, and the actions on stages."""
    stage = details["stages"][number]
    name = stage_words(number, stage["display_name"])
    gate = Gate(
        name,
        stage["total_executions"],
        stage["succeeded"],
        stage["held"] + stage["queued"] + stage["in_progress"],
        stage["min_succeeded_percent"],
    )
    needs_approval = stage["require_approval"] and stage["approved_at"] is None
    if needs_approval:
        actions += (Job.APPROVE_STAGE, Job.REJECT_STAGE)
    elif not details["is_before_start"] and Job.APPROVE_START not in actions:
        actions.append(Job.ADVANCE)
    if details["is_ended_early"]:
        return
    has_failed = gate.met < gate.required and not gate.unfinished
    if has_failed and stage["advance_after_seconds"] is None and Job.RESUME in actions:
        actions.remove(Job.RESUME)
    for kind, message, more in _gate_waits(gate, stage, details):
        waits.append({"kind": kind, "message": message, "stage": number, **more})
    if needs_approval:
        other = creator and not stage["allow_self_approval"]
        message = approval_message(name, f" from a user other than {creator}" if other else "")
        waits.append({"kind": JobWait.APPROVAL, "message": message, "stage": number})


def _gate_waits(
    gate: Gate, stage: Mapping[str, Any], details: Mapping[str, Any]
) -> Iterator[tuple[JobWait.Kind.ValueType, str, dict[str, Any]]]:
    """The kind, the message and other fields of each wait, without that for an approval."""
    until = timestamp_fields(details["stage_due_at"])
    if details["awaiting_approval"]:
        return
    if gate.met < gate.required:
        counts = {"met_count": gate.met, "required_count": gate.required}
        yield JobWait.DEVICES, gate.message, counts
        if stage["advance_after_seconds"] is not None:
            latest = format_seconds(stage["advance_after_seconds"])
            stage_name = _capitalized(gate.stage)
            message = f"{stage_name} waits at most {latest} from its opening for its devices."
            yield JobWait.ADVANCE_AFTER, message, {"until": until}
    elif stage["bake_seconds"] and gate.total:
        yield JobWait.BAKE_TIME, bake_message(gate.stage), {"until": until}


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
