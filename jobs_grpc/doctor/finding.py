"""What a check finds."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How serious a finding is."""

    OK = "OK"
    WARNING = "WARNING"
    """The server can serve calls, but something will fail later or is not as intended."""

    ERROR = "ERROR"
    """The server cannot start, or calls fail, or maintenance does not run."""

    SKIPPED = "SKIPPED"
    """The check needs something that another check reports as an error."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    """The name of the check. Scripts may rely on it."""

    status: Status
    detail: str
    """What was found, for people."""

    remedy: str = ""
    """What to do, or the SQL to run. Every WARNING and ERROR has one."""
