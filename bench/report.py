"""Render the results as Markdown tables."""

from dataclasses import dataclass

from bench.figures import (
    BASELINE,
    CONVERTING,
    ECHO,
    FASTAPI,
    METRICS,
    MINIMAL,
    SERVICE,
    Figure,
    Results,
)
from bench.page import describe, format_number, table

# Subjects that fit side by side.
_MAX_COLUMNS = 3


@dataclass(frozen=True)
class Table:
    """The table of one workload. `baseline` describes the baseline."""

    workload: str
    title: str
    baseline: str = ""


TABLES = (
    Table("create", "CreateJob, all devices", "bare INSERT … SELECT"),
    Table("create_one", "CreateJob, one device"),
    Table("get", "GetJob (service: the first 1,000 executions; FastAPI: all of them)"),
    Table("get_rate", "GetJob with equal responses, 16 clients", "echo server"),
    Table("cpu", "GetJob, CPU of the server per call"),
    Table(
        "get_p99", "GetJob, 99th percentile of the latency at half of the FastAPI service's rate"
    ),
    Table("list", "ListJobs of a tenant with one job"),
    Table("list_rate", "ListJobs"),
    Table("cancel", "CancelJob, all executions QUEUED", "UPDATE of one row"),
    Table(
        "expire", "Expiry (service: a read that shows it; FastAPI: the statements that write it)"
    ),
    Table("report", "Reports for one job", "bare batched SQL"),
    Table(
        "update",
        "UpdateExecution for one job, 16 callers (FastAPI: its statements on 32 connections)",
    ),
    Table("create_by_clients", "CreateJob, one device, by clients"),
    Table("get_by_clients", "GetJob, 10 executions, by clients"),
    Table("list_by_clients", "ListJobs, 50 jobs of 10 executions, by clients"),
    Table("memory", "Memory of the server process"),
)


def unmeasured(results: Results) -> list[str]:
    """Return the workloads without a figure."""
    measured = {figure.workload for figure in results}
    return [shown.workload for shown in TABLES if shown.workload not in measured]


def render(results: Results, machine: dict[str, str]) -> str:
    """Return all tables as Markdown."""
    parts = [describe(machine)]
    for shown in TABLES:
        rows = [figure for figure in results if figure.workload == shown.workload]
        if rows:
            parts += [f"## {shown.title}", _render_table(shown, rows)]
    return "\n\n".join(parts)


def _subject_names(baseline: str) -> dict[str, str]:
    """Return the names of subjects in the order of the columns."""
    return {
        SERVICE: "service",
        METRICS: "service with metrics",
        FASTAPI: "FastAPI",
        BASELINE: baseline,
        ECHO: "echo server",
        MINIMAL: "minimal server",
        CONVERTING: "with conversion",
    }


def _render_table(shown: Table, figures: list[Figure]) -> str:
    """Return a row for each case, or for each subject if there are too many for a line."""
    names = _subject_names(shown.baseline)
    subjects = [s for s in names if any(figure.subject == s for figure in figures)]
    cases = list(dict.fromkeys(figure.case for figure in figures))
    by_key = {(figure.case, figure.subject): figure for figure in figures}

    def cell(case: str, subject: str) -> str:
        figure, service = by_key.get((case, subject)), by_key.get((case, SERVICE))
        if figure is None or service is None or subject == SERVICE:
            return str(figure or "")
        return f"{figure}, {format_number(service.times_better(figure))}×"

    if len(subjects) > _MAX_COLUMNS:
        head = ["", *cases]
        rows = [[names[s], *(cell(case, s) for case in cases)] for s in subjects]
    else:
        head = ["", *(names[s] for s in subjects)]
        rows = [[case, *(cell(case, s) for s in subjects)] for case in cases]
    return table(head, rows)
