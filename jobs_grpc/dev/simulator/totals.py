"""Counters of a simulated fleet."""

from dataclasses import dataclass

import grpc

from jobs_grpc.client import JobsError

# The server is unreachable or too slow.
_UNAVAILABLE_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

_COUNTERS = (
    *("started", "succeeded", "failed", "rejected"),
    *("stalled", "interrupted", "refused", "errors"),
)


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
    refused: int = 0
    """Calls that the server refused because of a limit."""
    errors: int = 0
    """Failed calls, except refused ones and those for which the server was unavailable."""

    active: int = 0
    """Executions that devices carry out now."""
    called: bool = False
    """Whether any device has called the server."""
    responded: bool = False
    """Whether the server has ever responded."""
    retrying: JobsError | None = None
    """Why the last call is tried again; None: the server has responded since."""
    last_error: JobsError | None = None
    """The latest error that is counted in `refused` or `errors`."""

    def counters(self) -> dict[str, int]:
        """Return the counters that only grow, by name."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def record_response(self) -> None:
        """Record that the server has responded."""
        self.responded = True
        self.retrying = None

    def record_error(self, error: JobsError) -> None:
        """Record that a call has failed and is retried. An error with a reason is a response."""
        self.responded = self.responded or bool(error.reason)
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.refused += 1
        elif error.code not in _UNAVAILABLE_CODES:
            self.responded = True
            self.errors += 1
            self.last_error = error
            return
        self.retrying = error
        if self.refused and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self.last_error = error
