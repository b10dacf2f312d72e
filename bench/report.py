"""Render the results as Markdown tables."""

from dataclasses import dataclass

from bench.figures import (
    BASELINE,
    CONVERTING,
    DATABASE,
    ECHO,
    FASTAPI,
    METRICS,
    MINIMAL,
    SERVICE,
    Figure,
    Results,
)
from bench.page import describe, format_number
from bench.targets import find_target


@dataclass(frozen=True)
class Table:
    """The table of one workload. `baseline` describes the baseline."""

    workload: str
    title: str
    baseline: str = ""
    plot: str = ""


TABLES = (
    Table("create", "CreateJob, all devices", "bare INSERT … SELECT", "growth"),
    Table("create_one", "CreateJob, one device"),
    Table("get", "GetJob (service: the first 1,000 executions; FastAPI: all of them)"),
    Table("get_rate", "GetJob with equal responses, 16 clients", "echo server"),
    Table("cpu", "GetJob, CPU of the server per call"),
    Table(
        "get_p99", "GetJob, 99th percentile of the latency at half of the FastAPI service's rate"
    ),
    Table("page", "ListJobExecutions, pages of 1,000 of the largest job"),
    Table("list", "ListJobs of a tenant with one job"),
    Table("list_rate", "ListJobs"),
    Table(
        "list_in_database",
        "ListJobs, time of the statement including the round trip to the database",
    ),
    Table("cancel", "CancelJob, all executions QUEUED", "UPDATE of one row"),
    Table(
        "expire", "Expiry (service: a read that shows it; FastAPI: the statements that write it)"
    ),
    Table("report", "Reports for one job", "bare batched SQL"),
    Table(
        "update",
        "UpdateExecution for one job, 16 callers (FastAPI: its statements on 32 connections)",
    ),
    Table("create_by_clients", "CreateJob, one device, by clients", plot="clients"),
    Table("get_by_clients", "GetJob, 10 executions, by clients"),
    Table("list_by_clients", "ListJobs, 50 jobs of 10 executions, by clients"),
    Table("cancel_by_clients", "CancelJob, one device per job, by clients"),
    Table("create_by_processes", "CreateJob, one device, by processes"),
    Table("get_by_processes", "GetJob, 10 executions, by processes"),
    Table("get_1000_by_processes", "GetJob, 1,000 executions, by processes"),
    Table("list_by_processes", "ListJobs, 50 jobs of 10 executions, by processes"),
    Table("memory", "Memory of the server process"),
)


def unmeasured(results: Results) -> list[str]:
    """Return the workloads without a figure."""
    measured = {figure.workload for figure in results}
    return [table.workload for table in TABLES if table.workload not in measured]


def render(results: Results, machine: dict[str, str], *, with_targets: bool = True) -> str:
    """Return all tables as Markdown. Targets only apply to results of full size."""
    parts = [describe(machine)]
    if with_targets:
        parts += ["### Targets", _render_targets(results)]
    for table in TABLES:
        rows = [figure for figure in results if figure.workload == table.workload]
        if rows:
            parts += [f"### {table.title}", _render_table(table, rows, results, with_targets)]
            if table.plot:
                parts.append(f"![{table.title}](performance/{table.plot}.svg)")
    return "\n\n".join(parts)


def _render_targets(results: Results) -> str:
    """Return the table of all factors that have a target."""
    lines = ["| figure | compared with | target | measured | |", "|---|---|---|---|---|"]
    titles = {table.workload: table.title for table in TABLES}
    for compared in results:
        target = find_target(compared.workload, compared.case, compared.subject)
        service = results.find(compared.workload, compared.case, SERVICE)
        if target and service:
            factor = service.times_better(compared)
            cells = [
                f"{titles[compared.workload]}: {compared.case}",
                _subject_names(compared.workload)[compared.subject],
                f"≥ {format_number(target.at_least)}×",
                f"{format_number(factor)}×",
                "reached" if factor >= target.at_least else "**missed**",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _subject_names(workload: str) -> dict[str, str]:
    """Return the names of subjects in the table of a workload, in the order of its columns."""
    [table] = [table for table in TABLES if table.workload == workload]
    return {
        SERVICE: "service",
        METRICS: "service with metrics",
        FASTAPI: "FastAPI",
        BASELINE: table.baseline,
        ECHO: "echo server",
        MINIMAL: "minimal server",
        CONVERTING: "minimal server with conversion",
        DATABASE: "PostgreSQL alone",
    }


def _render_table(table: Table, rows: list[Figure], results: Results, with_targets: bool) -> str:
    names = _subject_names(table.workload)
    subjects = [s for s in names if any(figure.subject == s for figure in rows)]
    others = [s for s in subjects if s != SERVICE]
    head = ["", *(names[s] for s in subjects), *(f"vs. {names[s]}" for s in others)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in dict.fromkeys(figure.case for figure in rows):
        figures = {s: results.find(table.workload, case, s) for s in subjects}
        cells = [case, *(format_figure(figures[s]) for s in subjects)]
        service = figures[SERVICE]
        for other in others:
            compared = figures[other]
            cells.append(
                ""
                if not service or not compared
                else _format_factor(table, case, service, compared, with_targets)
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_figure(figure: Figure | None) -> str:
    """Return the median with its unit, and the range of several runs; "" without a figure."""
    if figure is None:
        return ""
    unit = "/s" if figure.unit == "/s" else f" {figure.unit}"
    text = f"{format_number(figure.median)}{unit}"
    if len(figure.values) > 1:
        low, high = min(figure.values), max(figure.values)
        text += f" ({format_number(low)}–{format_number(high)})"
    return text


def _format_factor(
    table: Table, case: str, service: Figure, compared: Figure, with_targets: bool
) -> str:
    """Return how many times better the service is, with the target; below 1 it is worse."""
    factor = service.times_better(compared)
    text = f"{format_number(factor)}×"
    target = find_target(table.workload, case, compared.subject)
    if target and with_targets:
        reached = "" if factor >= target.at_least else "**missed** "
        text += f" ({reached}target ≥ {format_number(target.at_least)}×)"
    return text
