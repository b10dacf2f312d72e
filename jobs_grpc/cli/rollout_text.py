"""Describes rollouts: criteria, gates, what a job waits for, and the commands that continue it."""

from collections.abc import Callable, Collection, Iterator

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.formatting import format_number, format_span
from jobs_grpc.client import execution_status_name

# What happens at the end of each wait, as the console says it.
_ENDS = {
    pb.JobWait.START: "It starts",
    pb.JobWait.START_WINDOW: "The next one opens",
    pb.JobWait.ADVANCE_AFTER: "The wait ends",
    pb.JobWait.BAKE_TIME: "It ends",
}

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
    counts_all = {*criterion.statuses} == _FAILURE_STATUSES
    filters = [] if counts_all else [execution_status_name(s) for s in criterion.statuses]
    filters += [code or "no code" for code in criterion.failure_codes]
    return f"{text} ({', '.join(filters)})" if filters else text


def format_criterion_state(job: pb.Job, index: int) -> str:
    """Format what a failure criterion has counted; "" if the server does not tell.

    For example "3 failures of 42 finished in stage 1; trips at 5". Of several stages, this is the
    one that is closest to the threshold.
    """
    states = [state for state in job.criterion_states if state.criterion_index == index]
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


def format_wait(wait: pb.JobWait, format_until: Callable[[Timestamp], str]) -> str:
    """Return the message of a wait, and when it ends if that is known.

    `format_until` includes the preposition, as in "at 2030-01-31 12:00:00Z" or "in 0:01:30".
    """
    if not wait.HasField("until"):
        return wait.message
    return f"{wait.message} {_ENDS.get(wait.kind, 'It ends')} {format_until(wait.until)}."


def first_wait(job: pb.Job) -> pb.JobWait | None:
    """Return the wait to show: the first that is not for devices.

    None if the job waits only for its devices.
    """
    for wait in job.waits_for:
        if wait.kind == pb.JobWait.APPROVAL and wait != job.waits_for[0]:
            return None
        if wait.kind != pb.JobWait.DEVICES:
            return wait
    return None


def describe_wait(job: pb.Job, format_until: Callable[[Timestamp], str]) -> str:
    """Say why a job was canceled, or what it waits for; "" if only for reports of its devices."""
    if job.HasField("cancel_reason"):
        return f"Canceled: {job.cancel_reason}"
    wait = first_wait(job)
    return format_wait(wait, format_until) if wait else ""


def next_steps(job: pb.Job) -> list[str]:
    """Return a line for each command that lets a job continue; empty if it continues by itself."""
    commands = [(f"  jobs-grpc {arguments}", effect) for arguments, effect in _commands(job)]
    width = max((len(command) for command, _ in commands), default=0)
    return [f"{command:<{width}}  {effect}" for command, effect in commands]


def _commands(job: pb.Job) -> Iterator[tuple[str, str]]:
    """Yield the arguments of `jobs-grpc`, and what they do."""
    wait, possible, job_id = first_wait(job), {*job.possible_actions}, job.job_id
    if wait is None:
        return
    if wait.kind == pb.JobWait.START_APPROVAL:
        # If an operator paused the job as well, it waits for RESUME after the approval.
        only = all(each.kind != pb.JobWait.RESUME for each in job.waits_for)
        yield f"approve {job_id} --start", "start the job" if only else "approve the start"
        yield f"reject {job_id} --start", "cancel the job"
    if wait.kind == pb.JobWait.APPROVAL and pb.Job.APPROVE_STAGE in possible:
        yield f"approve {job_id}", f"open stage {wait.stage + 1}"
        if pb.Job.REJECT_STAGE in possible:
            yield f"reject {job_id}", "pause the job"
    if wait.kind == pb.JobWait.START and pb.Job.UPDATE in possible:
        yield f"update {job_id} --start-at now", "start now"
        yield f"cancel {job_id}", "stop"
    if wait.kind == pb.JobWait.RESUME:
        yield from _commands_of_pause(job, possible)


def _commands_of_pause(job: pb.Job, possible: Collection[int]) -> Iterator[tuple[str, str]]:
    job_id, cause = job.job_id, job.pause.cause
    if cause in (pb.Pause.FAILURE_CRITERION, pb.Pause.GATE_NOT_MET):
        yield f"failures {job_id}", "see why"
    if pb.Job.RESUME in possible:
        more = {
            pb.Pause.FAILURE_CRITERION: "; earlier failures no longer count",
            pb.Pause.JOINS: "; a new hour of joins begins",
        }.get(cause, "")
        yield f"resume {job_id}", f"continue{more}"
        if cause == pb.Pause.JOINS:
            yield f"update {job_id} --no-continuous", "let no more devices join"
        yield f"cancel {job_id}", "stop"
        return
    if pb.Job.RETRY in possible:
        counts = job.execution_counts
        failed = [name for name in ("failed", "timed_out", "rejected") if getattr(counts, name)]
        yield f"retry {job_id} --status {' '.join(failed).upper()}", "try these again"
    if pb.Job.ADVANCE in possible:
        yield f"advance {job_id}", "or open the next stage anyway"
    yield f"resume {job_id}", "then continue"
