"""Live displays of `watch` and `simulate` on a terminal. Needs rich."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from fleet.jobs.v1 import jobs_pb2 as pb
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from jobs_grpc.cli.errors import retry_note
from jobs_grpc.cli.formatting import (
    execution_counts,
    format_duration,
    format_pause,
    format_target,
    job_duration,
)
from jobs_grpc.cli.stages import split_width, stage_name
from jobs_grpc.client import job_status_name
from jobs_grpc.dev.simulator.totals import Totals
from jobs_grpc.text import escape_unprintable

# Style and bar character by status. Finished statuses come first, so that the bar fills from
# the left. The characters distinguish finished, IN_PROGRESS and QUEUED without colors.
_EXECUTION_STATUSES = {
    "succeeded": ("green", "━"),
    "failed": ("red", "━"),
    "timed_out": ("magenta", "━"),
    "rejected": ("yellow", "━"),
    "in_progress": ("cyan", "╍"),
    "queued": ("bright_black", "─"),
    "held": ("bright_black", "·"),
}
_JOB_STATUSES = {
    "IN_PROGRESS": "cyan",
    "PAUSED": "yellow",
    "COMPLETED": "green",
    "CANCELED": "yellow",
}

_TOTALS_STYLES = {
    "started": "cyan",
    "succeeded": "green",
    "failed": "red",
    "rejected": "yellow",
    "stalled": "magenta",
    "interrupted": "bright_black",
    "refused": "yellow",
    "errors": "red",
}

_STAGE_STATES = {
    pb.JobStage.PENDING: "bright_black",
    pb.JobStage.OPEN: "cyan",
    pb.JobStage.PASSED: "green",
}
_STAGES_IN_VIEW = 10

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
        growth = self._samples[-1][1] - first
        return growth / max(now - start, _MIN_ELAPSED_SECONDS)


class Bar:
    """A bar over the available width, with a part for each status in proportion to its count."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers = [self._counts[status] for status in _EXECUTION_STATUSES]
        for (style, character), width in zip(
            _EXECUTION_STATUSES.values(), split_width(numbers, options.max_width), strict=True
        ):
            yield Segment(character * width, Style.parse(style))
        yield Segment.line()


class LiveView:
    """Shows a job on a terminal: bar, counts, rate and duration."""

    def __init__(self) -> None:
        self._job: pb.Job | None = None
        self._retry_note = ""
        self._rate = Rate()
        self._live = Live(get_renderable=self._render, refresh_per_second=4)
        self._live.start()

    def show(self, job: pb.Job) -> None:
        self._job, self._retry_note = job, ""
        self._rate.add(job.succeeded_count + job.failed_count)

    def show_retry(self, note: str) -> None:
        self._retry_note = note

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = []
        if self._job:
            lines += job_lines(self._job, self._rate.per_second())
        if self._retry_note:
            lines.append(_warning(self._retry_note))
        return Group(*lines) if lines else Text("Connecting …", "bright_black")


def job_lines(job: pb.Job, rate: float) -> list[RenderableType]:
    """Render a job whose devices finish at `rate` per second."""
    status = job_status_name(job.status)
    job_id, document_type, target = map(
        escape_unprintable, (job.job_id, job.document_type, format_target(job))
    )
    title = Text.assemble((job_id, "bold"), f"  {document_type} on {target}")
    counts = execution_counts(job)
    finished = job.succeeded_count + job.failed_count
    percent = 100 * finished // (job.total_executions or 1)
    legend = Text("  ").join(
        Text.assemble((f"{character} ", style), f"{status.upper()}\N{NO-BREAK SPACE}{count:,}")
        for status, count in counts.items()
        for style, character in [_EXECUTION_STATUSES[status]]
        if count
    )
    facts = [
        f"{finished:,} of {job.total_executions:,} finished",
        f"{format_duration(job_duration(job))} elapsed",
    ]
    if job.status == pb.Job.IN_PROGRESS:
        left = timedelta(seconds=(job.total_executions - finished) / rate) if rate else None
        facts[1:1] = [f"{rate:,.1f}/s", f"{format_duration(left) if left else '-'} left"]
    lines: list[RenderableType] = [
        _left_and_right(title, Text(status, _JOB_STATUSES.get(status, ""))),
        _left_and_right(Bar(counts), Text(f"{percent} %")),
        legend,
        Text(" · ".join(facts), "bright_black"),
    ]
    lines += stage_bars(job)
    if job.status == pb.Job.PAUSED:
        lines.append(_warning(f"Paused {format_pause(job, utc=True)}"))
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
    for index in shown:
        stage = job.stages[index]
        finished = stage.total_executions - sum(
            getattr(stage.execution_counts, status) for status in ("queued", "in_progress", "held")
        )
        note = "approve? " if stage.awaiting_approval else ""
        grid.add_row(
            str(index),
            escape_unprintable(stage_name(job, index)),
            Text(pb.JobStage.State.Name(stage.state), _STAGE_STATES.get(stage.state, "")),
            Bar(
                {status: getattr(stage.execution_counts, status) for status in _EXECUTION_STATUSES}
            ),
            Text.assemble((note, "yellow"), f"{finished:,} / {stage.total_executions:,}"),
        )
    return [grid]


def stages_in_view(states: list[pb.JobStage.State.ValueType]) -> range:
    """Return the indexes of at most ten stages, among them the open one."""
    opened = next((n for n, state in enumerate(states) if state == pb.JobStage.OPEN), len(states))
    first = max(0, min(opened - _STAGES_IN_VIEW // 2, len(states) - _STAGES_IN_VIEW))
    return range(first, min(first + _STAGES_IN_VIEW, len(states)))


def _warning(text: str) -> Text:
    """One line; what does not fit is cut."""
    return Text(escape_unprintable(text), "yellow", no_wrap=True, overflow="ellipsis")


def _left_and_right(left: RenderableType, right: Text) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


@contextmanager
def live_totals(title: str, totals: Totals) -> Iterator[None]:
    """Show the totals of a fleet on a terminal during the block."""
    rate = Rate()
    started = time.monotonic()

    def render() -> RenderableType:
        rate.add(totals.succeeded + totals.failed + totals.rejected)
        elapsed = format_duration(timedelta(seconds=time.monotonic() - started))
        lines = [
            Text(f"{title} · {totals.active:,} active · {rate.per_second():,.1f}/s · {elapsed}"),
            Text("  ").join(
                Text(f"{name}\N{NO-BREAK SPACE}{getattr(totals, name):,}", style)
                for name, style in _TOTALS_STYLES.items()
                if getattr(totals, name) or name in ("started", "succeeded", "failed")
            ),
        ]
        if totals.retrying:
            lines.append(_warning(retry_note(totals.retrying)))
        return Group(*lines)

    with Live(get_renderable=render, refresh_per_second=4):
        yield
