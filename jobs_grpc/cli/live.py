"""What `watch` and `simulate` show on a terminal. Needs rich."""

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

from jobs_grpc.cli.client import target_text
from jobs_grpc.cli.watch import age, clock, counts
from jobs_grpc.client.retry import Totals

# Over first, so that the bar fills from the left. Without colours, the characters still
# tell what is over, at work and waiting apart.
_STATES = {
    "succeeded": ("green", "━"),
    "failed": ("red", "━"),
    "timed_out": ("magenta", "━"),
    "rejected": ("yellow", "━"),
    "in_progress": ("cyan", "╍"),
    "queued": ("bright_black", "─"),
}
_STATUSES = {"IN_PROGRESS": "cyan", "COMPLETED": "green", "CANCELED": "yellow"}

_TOTALS = {
    "started": "cyan",
    "succeeded": "green",
    "failed": "red",
    "rejected": "yellow",
    "silent": "magenta",
    "gone": "bright_black",
    "errors": "red",
}

# Seconds that a rate is taken over.
_WINDOW = 15.0


class Rate:
    """How fast a number has grown lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, number: int) -> None:
        """It is so large now."""
        if self._samples and number < self._samples[-1][1]:
            self._samples.clear()
        self._samples.append((self._clock(), number))

    def per_second(self) -> float:
        """Its growth a second, up to now; 0 if it is not known."""
        now = self._clock()
        while len(self._samples) > 1 and self._samples[1][0] < now - _WINDOW:
            self._samples.popleft()
        if not self._samples:
            return 0.0
        since, first = self._samples[0]
        grown = self._samples[-1][1] - first
        return grown / max(now - since, 0.25)


class Bar:
    """As wide as there is room, with a piece for each state in proportion to its count."""

    def __init__(self, by_state: Mapping[str, int]) -> None:
        self._by_state = by_state

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        numbers = [self._by_state[state] for state in _STATES]
        for (style, character), width in zip(
            _STATES.values(), widths(numbers, options.max_width), strict=True
        ):
            yield Segment(character * width, Style.parse(style))
        yield Segment.line()


def widths(numbers: list[int], width: int) -> list[int]:
    """Parts of `width` in proportion to the numbers; 0 is only for 0."""
    total = sum(numbers) or 1
    ends = [round(sum(numbers[: n + 1]) / total * width) for n in range(len(numbers))]
    parts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    for n, number in enumerate(numbers):
        if number and not parts[n]:
            parts[n] = 1
            parts[parts.index(max(parts))] -= 1
    return parts


class LiveJob:
    """A job on a terminal: a bar, counts, rate and time."""

    def __init__(self) -> None:
        self._job: pb.Job | None = None
        self._lost = ""
        self._rate = Rate()
        self._live = Live(get_renderable=self._render, refresh_per_second=4)
        self._live.start()

    def show(self, job: pb.Job) -> None:
        self._job, self._lost = job, ""
        self._rate.add(job.succeeded_count + job.failed_count)

    def lost(self, reason: str) -> None:
        self._lost = reason

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        lines: list[RenderableType] = [_away(self._lost)] if self._lost else []
        if self._job:
            lines = [*job_lines(self._job, self._rate.per_second()), *lines]
        return Group(*lines) if lines else Text("Connecting …", "bright_black")


def job_lines(job: pb.Job, rate: float) -> list[RenderableType]:
    """What there is to see of a job whose devices end at this rate a second."""
    status = pb.Job.Status.Name(job.status)
    title = Text.assemble((job.job_id, "bold"), f"  {job.document_type} on {target_text(job)}")
    by_state = counts(job)
    over = job.succeeded_count + job.failed_count
    percent = 100 * over // (job.total_executions or 1)
    legend = Text("  ").join(
        Text.assemble((f"{character} ", style), f"{state.upper()}\N{NO-BREAK SPACE}{count:,}")
        for state, count in by_state.items()
        for style, character in [_STATES[state]]
        if count
    )
    facts = [f"{over:,} of {job.total_executions:,} over", f"{clock(age(job))} elapsed"]
    if job.status == pb.Job.IN_PROGRESS:
        left = timedelta(seconds=(job.total_executions - over) / rate) if rate else None
        facts[1:1] = [f"{rate:,.1f}/s", f"{clock(left) if left else '-'} to go"]
    return [
        _both_ends(title, Text(status, _STATUSES.get(status, ""))),
        _both_ends(Bar(by_state), Text(f"{percent} %")),
        legend,
        Text(" · ".join(facts), "bright_black"),
    ]


def _away(reason: str) -> Text:
    text = f"The server is away, trying again: {reason}"
    return Text(text, "yellow", no_wrap=True, overflow="ellipsis")


def _both_ends(left: RenderableType, right: Text) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


@contextmanager
def live_totals(title: str, totals: Totals) -> Iterator[None]:
    """What a fleet has done, on a terminal, for the time of the block."""
    rate = Rate()
    started = time.monotonic()

    def render() -> RenderableType:
        over = totals.succeeded + totals.failed + totals.rejected
        rate.add(over)
        elapsed = timedelta(seconds=time.monotonic() - started)
        lines = [
            Text(
                f"{title} · {totals.at_work:,} at work · {rate.per_second():,.1f}/s"
                f" · {clock(elapsed)}"
            ),
            Text("  ").join(
                Text(f"{name}\N{NO-BREAK SPACE}{getattr(totals, name):,}", style)
                for name, style in _TOTALS.items()
                if getattr(totals, name) or name in ("started", "succeeded", "failed")
            ),
        ]
        if totals.away:
            lines.append(_away(totals.away))
        return Group(*lines)

    with Live(get_renderable=render, refresh_per_second=4):
        yield
