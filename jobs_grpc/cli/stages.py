"""Shows the stages of a rollout as bars of text."""

from collections.abc import Iterator

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.formatting import format_counts_of, format_moment
from jobs_grpc.text import escape_unprintable

# Character by status. Finished executions come first, so that the bar fills from the left.
_CHARACTERS = {
    "succeeded": "█",
    "failed": "×",
    "timed_out": "×",
    "rejected": "×",
    "in_progress": "▒",
    "queued": "░",
    "held": "·",
}

BAR_WIDTH = 24


def stage_lines(job: pb.Job, utc: bool = False) -> Iterator[str]:
    """Yield a line for each stage: its number, name, state, bar and counts."""
    names = [stage_name(job, index) for index in range(len(job.stages))]
    width = max(map(len, names), default=0)
    for index, (stage, name) in enumerate(zip(job.stages, names, strict=True)):
        state = pb.JobStage.State.Name(stage.state)
        counts = format_counts_of(stage.execution_counts) or "no devices"
        notes = "".join(f"  {note}" for note in _notes(stage, utc))
        drawn = bar(stage.execution_counts)
        line = f"{index:>2} {name:<{width}}  {state:<7}  {drawn}  {counts}{notes}"
        yield escape_unprintable(line)


def bar(counts: pb.ExecutionCounts, width: int = BAR_WIDTH) -> str:
    """Draw the counts in proportion; each count above 0 gets at least one character."""
    numbers = [getattr(counts, status) for status in _CHARACTERS]
    parts = split_width(numbers, width)
    drawn = "".join(
        character * part for character, part in zip(_CHARACTERS.values(), parts, strict=True)
    )
    return drawn or " " * width


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


def stage_name(job: pb.Job, index: int) -> str:
    """Return the name of a stage, or its size if it has none."""
    if name := job.stages[index].display_name:
        return name
    stage = job.rollout.stages[index] if index < len(job.rollout.stages) else pb.Stage()
    match stage.WhichOneof("size"):
        case "percent":
            return f"{stage.percent}%"
        case "device_count":
            return f"{stage.device_count:,}"
        case "group_id":
            return f"group {stage.group_id}"
    return "rest"


def _notes(stage: pb.JobStage, utc: bool) -> Iterator[str]:
    if stage.awaiting_approval:
        yield "waits for an approval"
    if stage.HasField("approval"):
        yield f"approved by {stage.approval.approved_by}"
    if stage.HasField("next_opens_at"):
        yield f"next stage opens at {format_moment(stage.next_opens_at, utc)}"
