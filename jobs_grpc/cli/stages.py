"""Shows the stages of a rollout as bars of text."""

from collections.abc import Iterator, Sequence

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.formatting import (
    format_approval,
    format_counts,
    format_device_count,
    format_moment,
    is_active,
)
from jobs_grpc.cli.rollout_text import format_gate, format_wait, stage_settings

# Character and color of each status: each has its own character, because a terminal may have no
# colors. Finished executions come first, so that the bar fills from the left.
BAR_PARTS = {
    "succeeded": ("█", "green"),
    "failed": ("×", "red"),
    "timed_out": ("!", "magenta"),
    "rejected": ("/", "yellow"),
    "in_progress": ("▒", "cyan"),
    "queued": ("░", "bright_black"),
    "held": ("·", "bright_black"),
}

BAR_WIDTH = 24


def stage_lines(job: pb.Job, utc: bool = False) -> Iterator[str]:
    """Yield the number, name, state, bar and counts of each stage, and below them its gate."""
    stages = list_stages(job)
    name_width = max((len(name) for _, name, _, _ in stages), default=0)
    state_width = max((len(state) for _, _, state, _ in stages), default=0)
    for index, name, state, stage in stages:
        counts = format_counts(stage.execution_counts, job.status) or "no devices"
        drawn = bar(stage.execution_counts)
        if stage.retrying_count:
            counts += f" ({stage.retrying_count:,} retrying)"
        yield f"{index:>2} {name:<{name_width}}  {state:<{state_width}}  {drawn}  {counts}"
        yield from (f"   {note}" for note in _notes(job, index, utc))


def wait_lines(job: pb.Job, utc: bool) -> Iterator[str]:
    """Yield what the gate of the open stage waits for."""
    for wait in job.waits_for:
        if wait.HasField("stage"):
            yield format_wait(wait, lambda until: f"at {format_moment(until, utc)}")


def planned_stage_lines(rollout: pb.Rollout | None, sizes: Sequence[int]) -> Iterator[str]:
    """Yield the number, name and size of each stage, and below them its gate, before creation."""
    stages = rollout.stages if rollout and sizes else ()
    width = max((len(_planned_name(stage)) for stage in stages), default=0)
    for index, (stage, size) in enumerate(zip(stages, sizes, strict=True)):
        yield f"{index:>2} {_planned_name(stage):<{width}}  {format_device_count(size)}"
        if gate := format_gate(stage):
            yield f"   {gate}"


def list_stages(job: pb.Job) -> list[tuple[int, str, str, pb.JobStage]]:
    """Return the index, name and state of each stage, and the stage."""
    return [
        (index, stage.display_name or _planned_name(stage_settings(job, index)), state, stage)
        for index, (state, stage) in enumerate(zip(_stage_states(job), job.stages, strict=True))
    ]


def _stage_states(job: pb.Job) -> list[str]:
    """Return the state of each stage.

    In a finished job, the contract also calls a stage PASSED if it never opened, or was open when
    the job was stopped. Here, these are UNOPENED and STOPPED.
    """
    states = [pb.JobStage.State.Name(stage.state) for stage in job.stages]
    if is_active(job):
        return states
    passed = [n for n, stage in enumerate(job.stages) if stage.state == pb.JobStage.PASSED]
    opened = [n for n in passed if job.stages[n].HasField("opened_at")]
    for n in {*passed}.difference(opened):
        states[n] = "UNOPENED"
    if opened and (len(opened) < len(passed) or job.status == pb.Job.CANCELED):
        states[opened[-1]] = "STOPPED"
    return states


def bar(counts: pb.ExecutionCounts, width: int = BAR_WIDTH) -> str:
    """Draw the counts in proportion; each count above 0 gets at least one character."""
    return "".join(drawn for drawn, _ in bar_parts(counts, width)) or " " * width


def bar_parts(counts: pb.ExecutionCounts, width: int) -> Iterator[tuple[str, str]]:
    """Yield the parts of a bar with their colors."""
    widths = split_width([getattr(counts, status) for status in BAR_PARTS], width)
    for (character, color), part in zip(BAR_PARTS.values(), widths, strict=True):
        yield character * part, color


def split_width(numbers: list[int], width: int) -> list[int]:
    """Split `width` in proportion to the numbers; each number above 0 gets at least 1."""
    total = sum(numbers) or 1
    ends = [round(sum(numbers[: n + 1]) / total * width) for n in range(len(numbers))]
    parts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    for n, number in enumerate(numbers):
        if number and not parts[n]:
            parts[n] = 1
            parts[parts.index(max(parts))] -= 1
    return parts


def _planned_name(stage: pb.Stage) -> str:
    """Return the name of a stage, or its size if it has none."""
    if stage.display_name:
        return stage.display_name
    match stage.WhichOneof("size"):
        case "percent":
            return f"{stage.percent}%"
        case "device_count":
            return f"{stage.device_count:,}"
        case "group_id":
            return f"group {stage.group_id}"
        case "selector":
            return stage.selector
    return "rest"


def _notes(job: pb.Job, index: int, utc: bool) -> Iterator[str]:
    stage = job.stages[index]
    if gate := format_gate(stage_settings(job, index), stage):
        yield gate
    if stage.HasField("approval"):
        yield format_approval(stage.approval, utc)
