"""Retry policies of jobs."""

from collections.abc import Sequence

from fleet.jobs.v1 import jobs_pb2 as pb


def rule(
    *,
    statuses: Sequence[str] = ("FAILED", "TIMED_OUT"),
    codes: Sequence[str] = (),
    max_attempts: int = 3,
    initial: int = 300,
    multiplier: int = 1,
    longest: int = 86_400,
) -> pb.RetryRule:
    """A rule that by default allows three attempts, with at most five minutes between them."""
    message = pb.RetryRule(
        statuses=[pb.JobExecution.Status.Value(name) for name in statuses],
        failure_codes=codes,
        max_attempts=max_attempts,
        backoff_multiplier=multiplier,
    )
    message.initial_backoff.seconds = initial
    message.max_backoff.seconds = longest
    return message
