"""The changes of executions that a search finds.

They are in a file that the test of the checker of histories reads: its model makes the same ones.
"""

from collections.abc import Iterator
from pathlib import Path

from tests.model.job import Job
from tests.model.tenant import State
from tests.search.moves import JOB, Move

_FILE = Path(__file__).parents[1] / "histories" / "transitions.txt"


def read(scenario: str) -> set[str]:
    """The lines of a scenario, without its name."""
    lines = _FILE.read_text().splitlines()
    return {line.removeprefix(f"{scenario} ") for line in lines if line.startswith(f"{scenario} ")}


def write(scenario: str, changes: set[str]) -> None:
    lines = {line for line in _FILE.read_text().splitlines() if not line.startswith(f"{scenario} ")}
    lines |= {f"{scenario} {line}" for line in changes}
    _FILE.write_text("".join(f"{line}\n" for line in sorted(lines)))


def of(
    before: State, move: Move, after: State, reason: str | None, devices: list[str]
) -> Iterator[str]:
    """The changes of executions by a move, as lines of the file.

    A move changes the execution of its device, or all. What else changes, rules have changed. A
    cancel of the job that leaves an execution as it is has no line.
    """
    name, number = move
    if before.job(JOB).executions == after.job(JOB).executions:
        return
    for device in devices:
        is_own = reason is None and number in (None, devices.index(device))
        cause = name if is_own and name not in ("wait", "sweep", "join") else "rules"
        old, new = _view(before.job(JOB), device), _view(after.job(JOB), device)
        if old != new and new[0] != f"canceled {old[0]}":
            yield f"{cause}: {old[0]} -> {new[0]}{' again' if new[1] > old[1] > 0 else ''}"


def _view(job: Job, device: str) -> tuple[str, int]:
    execution = job.execution(device)
    status, number = ("NONE", 0) if execution is None else (execution.status, execution.number)
    if execution is not None and execution.cause == "DEVICE_DELETED":
        status = "REMOVED"
    return ("canceled " if job.status == "CANCELED" else "") + status, number
