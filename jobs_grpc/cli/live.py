"""The live display of `watch` on a terminal. Needs rich."""

import time
from collections import deque
from collections.abc import Callable

from fleet.jobs.v1 import events_pb2 as events_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from jobs_grpc.cli.event_text import event_phrase
from jobs_grpc.cli.formatting import (
    count_label,
    counts_by_status,
    format_duration,
    format_remaining_time,
    format_target,
    format_time,
    format_time_left,
    job_duration,
)
from jobs_grpc.cli.rollout_text import describe_wait, next_steps
from jobs_grpc.cli.stages import BAR_PARTS, bar_parts, list_stages
from jobs_grpc.cli.tables import STATUS_STYLES
from jobs_grpc.client import job_status_name
from jobs_grpc.text import escape_unprintable

_STAGE_STYLES = {
    "PENDING": "bright_black",
    "OPEN": "cyan",
    "PASSED": "green",
    "STOPPED": "yellow",
    "UNOPENED": "bright_black",
}
_STAGES_IN_VIEW = 10
# Characters. The display must fit a terminal of 24 lines. `get` shows the whole reason.
_MAX_WAIT = 250

_RATE_WINDOW_SECONDS = 15.0
_MIN_ELAPSED_SECONDS = 0.25


class Rate:
    """The growth of a number per second, over the last 15 seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, number: int) -> None:
        """Record the current number. A number below the last one restarts the measurement."""
        if self._samples and number < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((self._clock(), number))

    def per_second(self) -> float:
        """Return the growth per second; 0 if there are no samples."""
        now = self._clock()
        while len(self._samples) > 1 and self._samples[1][0] < now - _RATE_WINDOW_SECONDS:
            self._samples.popleft()
        if not self._samples:
            return 0.0
        start, first = self._samples[0]
        return (self._samples[-1][1] - first) / max(now - start, _MIN_ELAPSED_SECONDS)


class Bar:
    """A bar over the available width, with a part for each status in proportion to its count."""

    def __init__(self, counts: pb.ExecutionCounts) -> None:
        self._counts = counts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for drawn, color in bar_parts(self._counts, options.max_width):
            yield Segment(drawn, Style.parse(color))
        yield Segment.line()


class LiveView:
    """Shows a job on a terminal: bar, counts, rate and duration."""

    def __init__(self) -> None:
        self._job: pb.Job | None = None
        self._retry_note = ""
        self._events: list[events_pb.Event] = []
        self._stalled: list[str] = []
        self._rate = Rate()
        self._live = Live(get_renderable=self.render, refresh_per_second=4)
        self._live.start()

    def show(self, job: pb.Job) -> None:
        self._job, self._retry_note = job, ""
        self._rate.add(job.succeeded_count + job.failed_count)

    def show_events(self, events: list[events_pb.Event]) -> None:
        self._events = events

    def show_stalled(self, lines: list[str]) -> None:
        self._stalled = lines

    def show_retry(self, note: str) -> None:
        self._retry_note = note

    def close(self) -> None:
        self._live.stop()

    def render(self) -> RenderableType:
        """Render the last state, and why it is not followed at the moment."""
        lines: list[RenderableType] = []
        if self._job:
            lines += job_lines(self._job, self._rate.per_second())
            lines += [_line(text, "yellow") for text in self._stalled]
            events = [f"{format_time(event.time)} {event_phrase(event)}" for event in self._events]
            lines += [_line(text, "bright_black") for text in events]
        if self._retry_note:
            lines.append(_line(self._retry_note, "yellow"))
        if not lines:
            lines.append(Text("Connecting …", "bright_black"))
        # The terminal shows "^C" where the cursor is. After a full line, that would move the cursor
        # to the next line, and the next drawing would leave the first line on the screen.
        return Group(*lines, Text())


def job_lines(job: pb.Job, rate: float) -> list[RenderableType]:
    """Render a job whose devices finish at `rate` per second."""
    status, texts = job_status_name(job.status), (job.job_id, job.document_type, format_target(job))
    job_id, document_type, target = map(escape_unprintable, texts)
    if job.WhichOneof("target") in ("target_selector", "target_failed_in"):
        target = f"devices {target}"
    title = Text.assemble((job_id, "bold"), f"  {document_type} on {target}")
    counts = counts_by_status(job.execution_counts)
    finished = job.succeeded_count + job.failed_count
    percent = 100 * finished // (job.total_executions or 1)
    legend = Text("  ").join(
        Text.assemble(
            (f"{BAR_PARTS[name][0]} ", BAR_PARTS[name][1]),
            f"{count_label(name, job.status)} {count:,}".replace(" ", "\N{NO-BREAK SPACE}"),
        )
        for name, count in counts.items()
        if count
    )
    facts = [
        f"{finished:,} of {job.total_executions:,} finished",
        f"{format_duration(job_duration(job))} elapsed",
    ]
    if job.status == pb.Job.IN_PROGRESS:
        # A continuous job does not finish when all its devices have.
        left = format_remaining_time(job.total_executions - finished, rate) or "-"
        facts[1:1] = [f"{rate:,.1f}/s", "continuous" if job.continuous else f"{left} left"]
    if job.joins.joined_count:
        facts.append(f"{job.joins.joined_count:,} joined")
    if job.retrying_count:
        facts.append(f"{job.retrying_count:,} retrying")
    lines: list[RenderableType] = [
        _left_and_right(title, Text(status, STATUS_STYLES.get(status, ""))),
        _left_and_right(Bar(job.execution_counts), Text(f"{percent} %")),
        legend,
        Text(" · ".join(facts), "bright_black"),
    ]
    lines += stage_bars(job)
    if wait := describe_wait(job, lambda until: f"in {format_time_left(until)}"):
        text = escape_unprintable(wait)
        cut = text if len(text) <= _MAX_WAIT else f"{text[:_MAX_WAIT]}…"
        lines.append(Text(cut, "yellow"))
    lines += [Text(escape_unprintable(step)) for step in next_steps(job)]
    return lines


def stage_bars(job: pb.Job) -> list[RenderableType]:
    """Render a bar for each stage; of many stages, those around the open one."""
    shown = stages_in_view([stage.state for stage in job.stages])
    if not shown:
        return []
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(justify="right", style="bright_black")
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
    grid.add_column(width=8)
    grid.add_column(ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    for index, name, state, stage in list_stages(job)[shown.start : shown.stop]:
        finished = stage.total_executions - sum(
            getattr(stage.execution_counts, status) for status in ("queued", "in_progress", "held")
        )
        grid.add_row(
            str(index),
            escape_unprintable(name),
            Text(state, _STAGE_STYLES.get(state, "")),
            Bar(stage.execution_counts),
            f"{finished:,} / {stage.total_executions:,}",
        )
    return [grid]


def stages_in_view(states: list[pb.JobStage.State.ValueType]) -> range:
    """Return the indexes of at most ten stages, among them the open one."""
    opened = next((n for n, state in enumerate(states) if state == pb.JobStage.OPEN), len(states))
    first = max(0, min(opened - _STAGES_IN_VIEW // 2, len(states) - _STAGES_IN_VIEW))
    return range(first, min(first + _STAGES_IN_VIEW, len(states)))


def _line(text: str, style: str) -> Text:
    """Render one line; what does not fit is cut."""
    return Text(escape_unprintable(text), style, no_wrap=True, overflow="ellipsis")


def _left_and_right(left: RenderableType, right: Text) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid
