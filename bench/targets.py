"""What the figures are to reach, as factors: at least so many times better than another."""

from dataclasses import dataclass

from bench.measure import DOCUMENT, LIMIT


@dataclass(frozen=True)
class Target:
    """Of a workload, in the cases whose name has `case`."""

    workload: str
    case: str
    than: str
    at_least: float


TARGETS = (
    Target("create", "100,000 ", DOCUMENT, 6),
    Target("create", "100,000 ", LIMIT, 1 / 1.2),
    Target("create_one", "", DOCUMENT, 2),
    Target("get_rate", "10 ", DOCUMENT, 2),
    Target("get_rate", "10 ", LIMIT, 0.5),
    Target("get_p99", "10 ", DOCUMENT, 1),
    Target("get_rate", "1,000 ", DOCUMENT, 3),
    Target("list_rate", "10,000", DOCUMENT, 50),
    Target("cancel", "100,000 ", DOCUMENT, 100),
    Target("expire", "1,000,000 ", DOCUMENT, 100),
    Target("report", "", DOCUMENT, 20),
    Target("update", "100,000", DOCUMENT, 20),
    Target("report", "", LIMIT, 0.5),
)


def find_target(workload: str, case: str, than: str) -> Target | None:
    """What is to be reached, if anything is."""
    for target in TARGETS:
        if (target.workload, target.than) == (workload, than) and target.case in case:
            return target
    return None
