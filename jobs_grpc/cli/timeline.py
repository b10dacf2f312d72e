"""`jobs-grpc timeline`: how many executions of a job finished over time, as a plot of text."""

import argparse
import itertools
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta

from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.event_text import event_phrase
from jobs_grpc.cli.fields import forwarded
from jobs_grpc.cli.formatting import (
    format_duration,
    format_moment,
    format_number,
    format_remaining_time,
    format_target,
    format_time,
    is_active,
)
from jobs_grpc.cli.output import color_console, print_message, print_note
from jobs_grpc.cli.stages import split_width
from jobs_grpc.client import JobsClient, job_status_name
from jobs_grpc.text import escape_unprintable

# For each outcome: its character, the ASCII replacement, and its color.
_OUTCOMES = {
    "succeeded": ("█", "#", "green"),
    "failed": ("×", "x", "red"),
    "canceled": ("/", "/", "yellow"),
    "expired": ("!", "!", "magenta"),
}
_HEIGHT = 10
_MAX_WIDTH = 120
_MIN_PLOT_WIDTH = 44  # the times at both ends of the axis
_MAX_MARKS = 20

# The rate covers the last tenth of the time, but at least this many seconds.
_RATE_SHARE = 0.1
_MIN_RATE_SECONDS = 15.0

Part = tuple[str, str]
"""Text and its color."""


def add_command(commands: Subparsers) -> None:
    add_client_command(commands, "timeline JOB", _timeline, pb.GetJobTimelineRequest)


async def _timeline(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Plot how many executions of a job have finished over time.

    Also shows the events that explain it, the rate and the time left. A retried execution leaves
    the plot until its next attempt ends.

    jobs-grpc timeline update-1
    jobs-grpc timeline update-1 --json | jq '.buckets[].failed_count'
    """
    timeline = await jobs.timeline(**forwarded(args))
    if args.output != "text":
        print_message(timeline, args.output)
        return
    job = await jobs.get(args.job_id, executions_limit=0)
    columns = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
    console = color_console()
    for parts in _lines(job, timeline, columns, utc=args.utc):
        escaped = [(escape_unprintable(text), color) for text, color in parts]
        if console:
            from rich.text import Text

            console.print(Text.assemble(*escaped), soft_wrap=True)
        else:
            print("".join(text for text, _ in escaped).rstrip())
    if (hidden := len(timeline.marks) - _MAX_MARKS) > 0:
        history = f"`jobs-grpc history {job.job_id}` shows all events"
        print_note(f"{format_number(hidden, 'earlier mark')} not shown; {history}")


def _lines(
    job: pb.Job, timeline: pb.GetJobTimelineResponse, columns: int, *, utc: bool
) -> Iterator[list[Part]]:
    yield [(f"{job.job_id}  {job.document_type} on {format_target(job)}", "bold")]
    counts = _counts(timeline.buckets)
    separator = " · " if _prints("·") else ", "
    yield [(separator.join(_facts(job, timeline, sum(counts))), "bright_black")]
    marks = timeline.marks[-_MAX_MARKS:]
    if timeline.buckets:
        legend = zip(_characters(), _OUTCOMES, counts, strict=True)
        shown = [
            ((f"{drawn} ", color), (f"{name} {count:,}  ", ""))
            for (drawn, color), name, count in legend
            if count
        ]
        yield [*itertools.chain.from_iterable(shown)]
        yield []
        yield from _plot(job, timeline, marks, columns)
    if marks:
        yield []
    for number, mark in enumerate(marks, start=1):
        event = events_pb.Event(**{field.name: value for field, value in mark.ListFields()})
        yield [(f"{number:>2}  {format_moment(mark.time, utc)}  {event_phrase(event)}", "")]


def _facts(job: pb.Job, timeline: pb.GetJobTimelineResponse, finished: int) -> Iterator[str]:
    yield job_status_name(job.status)
    yield f"{finished:,} of {job.total_executions:,} finished"
    if job.status == pb.Job.IN_PROGRESS:
        rate = _rate(job, timeline)
        yield f"{rate:,.1f}/s"
        if left := format_remaining_time(job.total_executions - finished, rate):
            yield f"{left} left"
    yield f"{format_duration(timedelta(seconds=max(_span(job, timeline), 0)))} elapsed"


def _rate(job: pb.Job, timeline: pb.GetJobTimelineResponse) -> float:
    """Return how many executions have finished per second recently."""
    now, start = _seconds(timeline.computed_at), _start(job, timeline)
    since = max(now - max(_RATE_SHARE * _span(job, timeline), _MIN_RATE_SECONDS), start)
    recent = sum(_counts([b for b in timeline.buckets if b.time.seconds >= since]))
    return recent / max(now - since, 1)


def _plot(
    job: pb.Job,
    timeline: pb.GetJobTimelineResponse,
    marks: Sequence[pb.TimelineMark],
    columns: int,
) -> Iterator[list[Part]]:
    """Yield the lines of stacked columns, the axis, its times and the numbers of the marks."""
    total = f"{job.total_executions:,}"
    width = max(columns - len(total) - 3, _MIN_PLOT_WIDTH)
    start = _start(job, timeline)
    end = start + max(_span(job, timeline), 1)
    times = [start + (end - start) * n / width for n in range(1, width + 1)]
    bars = [
        split_width([*counts, job.total_executions - sum(counts)], _HEIGHT)
        for counts in _cumulated(timeline, times)
    ]
    vertical, corner, horizontal = "│└─" if _prints("│└─") else "|+-"
    # The parts of each bar from the bottom; what is left of its height is empty.
    drawn = [
        [
            part
            for part, height in zip([*_characters(), (" ", "")], bar, strict=True)
            for _ in range(height)
        ]
        for bar in bars
    ]
    for row in reversed(range(_HEIGHT)):
        label = total if row == _HEIGHT - 1 else ""
        by_color = itertools.groupby((bar[row] for bar in drawn), key=lambda cell: cell[1])
        cells = [("".join(character for character, _ in run), color) for color, run in by_color]
        yield [(f"{label:>{len(total)}} {vertical}", ""), *cells]
    yield [(f"{0:>{len(total)}} {corner}{horizontal * width}", "")]
    first, last = (format_time(Timestamp(seconds=int(time))) for time in (start, end))
    indent = " " * (len(total) + 2)
    yield [(f"{indent}{first}{last:>{width - len(first)}}", "")]
    if marks:
        places = [int((_seconds(mark.time) - start) / (end - start) * width) for mark in marks]
        yield [(indent + _mark_line(places, width), "")]


def _mark_line(places: Sequence[int], width: int) -> str:
    """Return a line with the number of each mark at its place, or as near to the right as fits."""
    line = ""
    for number, place in enumerate(places, start=1):
        text = str(number)
        at = max(min(place, width - len(text)), len(line) + (1 if line else 0))
        if at + len(text) > width:
            break  # The list has the times.
        line = f"{line:<{at}}{text}"
    return line


def _cumulated(timeline: pb.GetJobTimelineResponse, times: Sequence[float]) -> Iterator[list[int]]:
    """Yield the counts at each time, of the buckets that have begun by then."""
    counts, buckets = [0] * len(_OUTCOMES), deque(timeline.buckets)
    for time in times:
        while buckets and buckets[0].time.seconds <= time:
            added = _counts([buckets.popleft()])
            counts = [a + b for a, b in zip(counts, added, strict=True)]
        yield counts


def _counts(buckets: Sequence[pb.TimelineBucket]) -> list[int]:
    return [sum(getattr(bucket, f"{name}_count") for bucket in buckets) for name in _OUTCOMES]


def _start(job: pb.Job, timeline: pb.GetJobTimelineResponse) -> float:
    """Return when devices could start: at the creation or the start_at of the job."""
    start = max(_seconds(job.created_at), _seconds(job.start_at))
    # A job can be canceled before its start.
    return min(start, timeline.buckets[0].time.seconds) if timeline.buckets else start


def _span(job: pb.Job, timeline: pb.GetJobTimelineResponse) -> float:
    """Return the seconds from the start to now, or to the end of a finished job."""
    end = _seconds(timeline.computed_at)
    if not is_active(job):
        end = _seconds(job.completed_at if job.HasField("completed_at") else job.updated_at)
    # Devices can report after a cancel.
    last = timeline.buckets[-1].time.seconds if timeline.buckets else 0
    return max(end, last) - _start(job, timeline)


def _characters() -> list[Part]:
    fancy = _prints("".join(outcome[0] for outcome in _OUTCOMES.values()))
    return [(block if fancy else ascii_, color) for block, ascii_, color in _OUTCOMES.values()]


def _prints(text: str) -> bool:
    """Return whether the encoding of the output has the characters."""
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


def _seconds(timestamp: Timestamp) -> float:
    return timestamp.ToNanoseconds() / 1e9
