"""An execution: one device's part of a job, through all its attempts."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

Seconds: TypeAlias = int | Fraction
"""A time, in seconds after a fixed start, or a duration."""

PENDING = ("QUEUED", "IN_PROGRESS")
FAILURES = ("FAILED", "TIMED_OUT", "REJECTED")


@dataclass(frozen=True)
class Failure:
    """An end of an attempt that counts against the device."""

    status: str
    code: str
    at: Seconds


@dataclass(frozen=True)
class Attempt:
    """An attempt that has ended and was followed by another one."""

    status: str
    code: str | None
    cause: str | None


@dataclass(frozen=True)
class Execution:
    """An execution and its current attempt. HELD is not a status of it: see Job.is_held."""

    device: str
    rank: int = 1
    """The position in the order of release; the first is 1."""
    stage: int = 0
    zone: str = "UTC"
    """The time zone of the device."""
    queued: Seconds = 0
    status: str = "QUEUED"
    number: int = 1
    started: bool = False
    times_out: Seconds | None = None
    ended: Seconds | None = None
    code: str | None = None
    """The failure code, if this attempt failed by itself."""
    cause: str | None = None
    """What ended this attempt."""
    failure: Failure | None = None
    """The failure that the device counts with; during a retry, that of an earlier attempt."""
    attempts: int = 1
    """This and the next: since the creation or the last RetryExecutions."""
    has_needed_retry: bool = False
    not_before: Seconds | None = None
    earlier: tuple[Attempt, ...] = ()
    cancel_accepted: bool = False
    """The device ended this attempt because the job was canceled."""
    ended_by_others: tuple[int, str] | None = None
    """The number and the cause of the last attempt that others ended while the device worked on it.

    None: there is none, the device has acknowledged it, or has changed a later one.
    """

    @property
    def is_pending(self) -> bool:
        return self.status in PENDING

    @property
    def is_retrying(self) -> bool:
        return self.is_pending and self.failure is not None

    @property
    def finished(self) -> Seconds | None:
        """When the device finished, as failure criteria count; None: it has not."""
        if self.failure is not None:
            return self.failure.at
        return self.ended if self.status == "SUCCEEDED" else None


def start(execution: Execution, now: Seconds, timeout: Seconds | None) -> Execution:
    times_out = None if timeout is None else now + timeout
    return replace(
        execution, status="IN_PROGRESS", started=True, times_out=times_out, ended_by_others=None
    )


def end(
    execution: Execution,
    now: Seconds,
    status: str,
    code: str | None,
    cause: str,
    *,
    cancel_accepted: bool = False,
) -> Execution:
    """End the attempt. With a code, it failed by itself.

    If others ended it, an earlier failure still counts.
    """
    failure = None if status == "SUCCEEDED" else execution.failure
    if code is not None:
        failure = Failure(status, code, now)
    by_others = execution.ended_by_others
    if cause == "DEVICE" or cancel_accepted:
        by_others = None
    elif execution.status == "IN_PROGRESS":
        by_others = (execution.number, cause)
    return replace(
        execution,
        status=status,
        code=code,
        cause=cause,
        failure=failure,
        ended=now,
        times_out=None,
        cancel_accepted=cancel_accepted,
        ended_by_others=by_others,
    )


def queue_next(execution: Execution, now: Seconds) -> Execution:
    """Queue the next attempt after one that has ended."""
    ended = Attempt(execution.status, execution.code, execution.cause)
    return replace(
        execution,
        status="QUEUED",
        number=execution.number + 1,
        queued=now,
        started=False,
        ended=None,
        code=None,
        cause=None,
        cancel_accepted=False,
        earlier=(*execution.earlier, ended),
    )


def forget_failures(execution: Execution) -> Execution:
    """Start a new series of attempts: no failure counts, and nothing delays the start."""
    return replace(execution, failure=None, attempts=1, has_needed_retry=False, not_before=None)
