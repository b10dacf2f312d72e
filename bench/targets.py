"""The targets of the figures: by which factor the service must be better than another subject."""

from dataclasses import dataclass

from bench.figures import BASELINE, FASTAPI


@dataclass(frozen=True)
class Target:
    """The minimum factor against `subject`, in all cases whose name contains `case`."""

    workload: str
    case: str
    subject: str
    at_least: float


TARGETS = (
    Target("create", "100,000 ", FASTAPI, 6),
    Target("create", "100,000 ", BASELINE, 1 / 1.2),
    Target("create_one", "", FASTAPI, 2),
    Target("get_rate", "10 ", FASTAPI, 2),
    Target("get_rate", "10 ", BASELINE, 0.5),
    Target("get_p99", "10 ", FASTAPI, 1),
    Target("get_rate", "1,000 ", FASTAPI, 3),
    Target("list_rate", "10,000", FASTAPI, 50),
    Target("cancel", "100,000 ", FASTAPI, 100),
    Target("expire", "1,000,000 ", FASTAPI, 100),
    Target("report", "", FASTAPI, 20),
    Target("update", "100,000", FASTAPI, 20),
    Target("report", "", BASELINE, 0.5),
)


def find_target(workload: str, case: str, subject: str) -> Target | None:
    """Return the target of a figure, or None."""
    for target in TARGETS:
        if (target.workload, target.subject) == (workload, subject) and target.case in case:
            return target
    return None
