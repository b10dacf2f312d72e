"""Describes rollouts: criteria, gates, what a job waits for, and the commands that continue it."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.formatting import format_number, format_pause, format_span
from jobs_grpc.client import execution_status_name

# A criterion without statuses counts all of these.
_FAILURE_STATUSES = {pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT, pb.JobExecution.REJECTED}


def format_criterion(criterion: pb.FailureCriterion) -> str:
    """Format a failure criterion, such as "pause at 5% of the finished, once 20 have finished"."""
    action = pb.FailureCriterion.Action.Name(criterion.action or pb.FailureCriterion.PAUSE)
    text = action.lower().replace("_", " ")
    if criterion.HasField("count"):
        text += f" at {criterion.count:,} failures"
    else:
        basis = pb.FailureCriterion.Basis.Name(criterion.basis or pb.FailureCriterion.FINISHED)
        text += f" at {criterion.percent}% of the {basis.lower()}"
    text += " in a stage" if criterion.scope == pb.FailureCriterion.STAGE else ""
    text += f", once {criterion.min_finished:,} have finished" if criterion.min_finished else ""
    filters = [execution_status_name(status) for status in criterion.statuses]
    if {*criterion.statuses} == _FAILURE_STATUSES:
        filters = []
    filters += [code or "no code" for code in criterion.failure_codes]
    return f"{text} ({', '.join(filters)})" if filters else text


def format_criterion_state(job: pb.Job, index: int) -> str:
    """Format what a failure criterion has counted.

    For example "3 failures of 42 finished in stage 1; trips at 5". Of several stages, this is the
    one that is closest to the threshold. "" if the server does not tell.
    """
    states = [state for state in job.criterion_states if state.criterion == index]
    if not states:
        return ""
    state = max(states, key=lambda s: s.failure_count / s.threshold if s.threshold else 0)
    text = format_number(state.failure_count, "failure")
    if state.basis_count:
        basis = job.failure_criteria[index].basis or pb.FailureCriterion.FINISHED
        text += f" of {state.basis_count:,} {pb.FailureCriterion.Basis.Name(basis).lower()}"
    text += f" in stage {state.stage}" if state.HasField("stage") else ""
    return f"{text}; trips at {state.threshold:,}" if state.threshold else text


def stage_settings(job: pb.Job, index: int) -> pb.Stage:
    """Return a stage of the rollout as it was requested."""
    return job.rollout.stages[index] if index < len(job.rollout.stages) else pb.Stage()


def format_gate(stage: pb.Stage, state: pb.JobStage | None = None) -> str:
    """Format the gate and the rate of a stage, such as "gate: bake 10m"; "" if it has neither.

    If the stage has opened, `state` adds the share that has succeeded.
    """
    gate, parts = stage.gate, []
    if gate.HasField("min_succeeded_percent"):
        if state and state.HasField("opened_at") and state.total_executions:
            share = state.execution_counts.succeeded * 100 // state.total_executions
            parts.append(f"{share} % succeeded")
        parts.append(f"{gate.min_succeeded_percent} % required")
    if gate.bake_time.seconds:
        parts.append(f"bake {format_span(gate.bake_time.seconds)}")
    if gate.require_approval:
        parts.append("approval, also by the creator" if gate.allow_self_approval else "approval")
    if gate.HasField("advance_after"):
        parts.append(f"advance after {format_span(gate.advance_after.seconds)}")
    texts = [f"gate: {', '.join(parts)}"] if parts else []
    if stage.HasField("releases_per_minute"):
        texts.append(f"{format_number(stage.releases_per_minute, 'release')} per minute")
    return "; ".join(texts)


def format_wait(job: pb.Job, index: int, format_due: Callable[[Timestamp], str]) -> str:
    """Say what a stage waits for in addition to its devices; "" if nothing.

    `format_due` formats the time at which the next stage opens.
    """
    stage, gate = job.stages[index], stage_settings(job, index).gate
    approval = "" if gate.allow_self_approval else _by_another_user(job)
    if stage.awaiting_approval:
        return f"stage {index} waits for an approval{approval}"
    is_baking = _is_baking(job, index)
    bakes = f"stage {index} bakes for {format_span(gate.bake_time.seconds)}"
    if stage.HasField("next_opens_at"):
        opens = f"stage {index + 1} opens {format_due(stage.next_opens_at)}"
        return f"{bakes}; {opens}" if is_baking else f"{opens} at the latest"
    return f"{bakes}, then waits for an approval{approval}" if is_baking else ""


def _by_another_user(job: pb.Job) -> str:
    return f" by another user than {job.created_by}" if job.created_by else ""


def _is_baking(job: pb.Job, index: int) -> bool:
    """Return whether the devices of the open stage meet the gate, so that its bake_time runs."""
    stage, gate = job.stages[index], stage_settings(job, index).gate
    if (
        job.status != pb.Job.IN_PROGRESS
        or stage.state != pb.JobStage.OPEN
        or not gate.bake_time.seconds
        or not stage.total_executions
    ):
        return False
    counts = stage.execution_counts
    if gate.HasField("min_succeeded_percent"):
        return counts.succeeded * 100 >= gate.min_succeeded_percent * stage.total_executions
    return not counts.queued + counts.in_progress + counts.held


Command: TypeAlias = tuple[str, str]
"""The arguments of `jobs-grpc`, and what they do."""


def describe_wait(job: pb.Job, format_due: Callable[[Timestamp], str]) -> str:
    """Say why a job is stopped, or what it waits for in addition to its devices; "" if nothing."""
    if job.status == pb.Job.CANCELED:
        return f"Canceled: {job.cancel_reason}" if job.cancel_reason else "Canceled"
    if job.status == pb.Job.PAUSED:
        return f"Paused {format_pause(job, utc=True)}"
    if job.status == pb.Job.SCHEDULED:
        return f"Starts {format_due(job.start_at)}"
    for index, stage in enumerate(job.stages):
        if stage.state == pb.JobStage.OPEN and (wait := format_wait(job, index, format_due)):
            return wait[0].upper() + wait[1:]
    return ""


def next_steps(job: pb.Job) -> list[str]:
    """Return a line for each command that lets a job continue; empty if it continues by itself."""
    commands = [(f"  jobs-grpc {arguments}", effect) for arguments, effect in _commands(job)]
    width = max((len(command) for command, _ in commands), default=0)
    return [f"{command:<{width}}  {effect}" for command, effect in commands]


def _commands(job: pb.Job) -> Iterator[Command]:
    if job.status == pb.Job.PAUSED:
        yield from _commands_of_pause(job)
        return
    if job.status == pb.Job.SCHEDULED:
        yield f"update {job.job_id} --start-at now", "start now"
        yield f"cancel {job.job_id}", "stop"
        return
    for index, stage in enumerate(job.stages):
        if stage.awaiting_approval:
            yield f"approve {job.job_id}", f"open stage {index + 1}"


def _commands_of_pause(job: pb.Job) -> Iterator[Command]:
    if job.pause.cause not in (pb.Pause.FAILURE_CRITERION, pb.Pause.GATE_NOT_MET):
        yield f"resume {job.job_id}", "continue"
        yield f"cancel {job.job_id}", "stop"
        return
    yield f"failures {job.job_id}", "see why"
    if job.pause.cause == pb.Pause.FAILURE_CRITERION:
        yield f"resume {job.job_id}", "continue; earlier failures no longer count"
        yield f"cancel {job.job_id}", "stop"
        return
    counts = job.execution_counts
    failed = [name for name in ("failed", "timed_out", "rejected") if getattr(counts, name)]
    if failed:
        yield f"retry {job.job_id} --status {' '.join(failed).upper()}", "try these again"
    yield f"advance {job.job_id}", "or open the next stage anyway"
    yield f"resume {job.job_id}", "then continue"
