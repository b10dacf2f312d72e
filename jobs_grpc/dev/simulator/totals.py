"""Counters of a simulated fleet."""

from dataclasses import dataclass

from jobs_grpc.client import JobsError
from jobs_grpc.client.status_text import status_text
from jobs_grpc.dev.simulator.persistence import UNAVAILABLE_CODES

_COUNTERS = ("started", "succeeded", "failed", "rejected", "stalled", "interrupted", "errors")


@dataclass(slots=True)
class Totals:
    """What the devices of a fleet have done so far, and whether the server responds."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    stalled: int = 0
    """Executions that a device has started and does not report on."""
    interrupted: int = 0
    """Executions that were canceled, timed out or deleted while a device carried them out."""
    errors: int = 0
    """Failed calls, except those that failed because the server was unavailable."""

    active: int = 0
    """Executions that devices carry out now."""
    called: bool = False
    """Whether any device has called the server."""
    responded: bool = False
    """Whether the server has ever responded."""
    unavailable: str = ""
    """Why the server is currently unavailable; empty if it is available."""
    last_error: str = ""

    def counters(self) -> dict[str, int]:
        """Return the counters that only grow, by name."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def record_call(self) -> None:
        """Record that a device calls the server."""
        self.called = True

    def record_response(self) -> None:
        """Record that the server has responded."""
        self.responded = True
        self.unavailable = ""

    def record_error(self, error: JobsError) -> None:
        """Record that a call has failed and is retried."""
        if error.code in UNAVAILABLE_CODES:
            self.unavailable = status_text(error.code, error.message)
        else:
            self.responded = True
            self.errors += 1
            self.last_error = status_text(error.code, error.message)
