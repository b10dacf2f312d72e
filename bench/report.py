"""Results as tables, between two markers of a page."""

from dataclasses import dataclass
from pathlib import Path

from bench.measure import DOCUMENT, ECHO, LIMIT, MAPPED, PARTS, SERVICE, Measured, Results
from bench.targets import find_target

_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True)
class Table:
    """A workload's."""

    workload: str
    title: str
    limit: str = ""
    plot: str = ""


TABLES = (
    Table("create", "CreateJob, all devices", "the bare INSERT … SELECT", "growth"),
    Table("create_one", "CreateJob, one device"),
    Table("get", "GetJob: the first 1,000 executions here, all of them in the document's"),
    Table("get_rate", "GetJob, the same answer, 16 clients", "the echo"),
    Table("layers", "GetJob, CPU of the server a call"),
    Table("get_p99", "GetJob, the 99th percentile at half of the document's rate"),
    Table("page", "ListJobExecutions, a page of 1,000, to the end of the largest job"),
    Table("list", "ListJobs, of a tenant with one job"),
    Table("list_rate", "ListJobs"),
    Table("list_in_database", "ListJobs, the time in the database and the way there"),
    Table("cancel", "CancelJob, all queued", "an UPDATE of one row"),
    Table("expire", "An expiry shows: a read here, a tick that writes in the document's"),
    Table("report", "Reports on one job", "the bare batched SQL"),
    Table("update", "UpdateExecution on one job, 16 callers (32 connections in the document's)"),
    Table("create_by_clients", "CreateJob, one device, by clients", plot="clients"),
    Table("get_by_clients", "GetJob, 10 executions, by clients"),
    Table("list_by_clients", "ListJobs, 50 jobs of 10, by clients"),
    Table("cancel_by_clients", "CancelJob, one device each, by clients"),
    Table("create_by_processes", "CreateJob, one device, by processes"),
    Table("get_by_processes", "GetJob, 10 executions, by processes"),
    Table("get_1000_by_processes", "GetJob, 1,000 executions, by processes"),
    Table("list_by_processes", "ListJobs, 50 jobs of 10, by processes"),
    Table("memory", "Memory of the server process"),
    Table("soak", "Memory under creates, reads and lists in turn (`--soak`)"),
)


def rendered(results: Results, described: dict[str, str], *, with_targets: bool = True) -> str:
    """All tables, as Markdown. Targets are those of full size."""
    parts = ["; ".join(f"{name} {value}" for name, value in described.items()) + "."]
    for table in TABLES:
        rows = [m for m in results if m.workload == table.workload]
        if rows:
            parts += [f"### {table.title}", _rendered(table, rows, results, with_targets)]
            if table.plot:
                parts.append(f"![{table.title}](performance/{table.plot}.svg)")
    return "\n\n".join(parts)


def _rendered(table: Table, rows: list[Measured], results: Results, with_targets: bool) -> str:
    names = {
        SERVICE: "service",
        DOCUMENT: "document's",
        LIMIT: table.limit,
        ECHO: "the echo",
        PARTS: "the parts",
        MAPPED: "the parts and mapping",
    }
    subjects = [s for s in names if any(m.subject == s for m in rows)]
    others = [s for s in subjects if s != SERVICE]
    head = ["", *(names[s] for s in subjects), *(f"times {names[s]}" for s in others)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in dict.fromkeys(m.case for m in rows):
        found = {s: results.find(table.workload, case, s) for s in subjects}
        cells = [case, *(_figure(found[s]) for s in subjects)]
        ours = found[SERVICE]
        for other in others:
            theirs = found[other]
            cells.append(
                "" if not ours or not theirs else _factor(table, case, ours, theirs, with_targets)
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(measured: Measured | None) -> str:
    if measured is None:
        return ""
    unit = "/s" if measured.unit == "/s" else f" {measured.unit}"
    text = f"{_number(measured.median)}{unit}"
    if len(measured.values) > 1:
        low, high = min(measured.values), max(measured.values)
        text += f" ({_number(low)}–{_number(high)})"
    return text


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _factor(table: Table, case: str, ours: Measured, theirs: Measured, with_targets: bool) -> str:
    """How many times better; below 1 it is worse."""
    factor = ours.times_better(theirs)
    text = f"{_number(factor)}×"
    target = find_target(table.workload, case, theirs.subject)
    if target and with_targets:
        reached = factor >= target.at_least
        text += f" ({'' if reached else '**missed** '}≥ {_number(target.at_least)}×)"
    return text


def replace_figures(page: Path, figures: str) -> None:
    """Put the figures between the markers of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} has no markers")
    page.write_text(f"{before}{begin}\n\n{figures}\n\n{end}{after}", encoding="utf-8")
