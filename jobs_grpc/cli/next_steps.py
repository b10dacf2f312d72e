"""Says why a job does not continue by itself, and which commands let it continue."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.formatting import format_pause
from jobs_grpc.cli.rollout_text import format_wait

Command: TypeAlias = tuple[str, str]
"""The arguments of `jobs-grpc`, and what they do."""


def describe_wait(job: pb.Job, format_due: Callable[[Timestamp], str]) -> str:
    """Say why a job is stopped, or what it waits for in addition to its devices; "" if nothing."""
    if job.HasField("cancel_reason"):
        return f"Canceled: {job.cancel_reason}"
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
