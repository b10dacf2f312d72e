"""Retry policies of jobs."""

import json
from collections.abc import Sequence

from fleet.jobs.v1 import jobs_pb2 as pb

from tests.support.callers import Operator
from tests.support.database import Database


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
        statuses=statuses,
        failure_codes=codes,
        max_attempts=max_attempts,
        backoff_multiplier=multiplier,
    )
    message.initial_backoff.seconds = initial
    message.max_backoff.seconds = longest
    return message


async def set_policy(
    database: Database, operator: Operator, job_id: str, *rules: pb.RetryRule
) -> None:
    """Store the retry policy of a job; without rules, remove it."""
    policy = [
        {
            "statuses": [pb.JobExecution.Status.Name(status) for status in rule.statuses],
            "failure_codes": [*rule.failure_codes],
            "max_attempts": rule.max_attempts,
            "initial_backoff_seconds": rule.initial_backoff.seconds,
            "backoff_multiplier": rule.backoff_multiplier,
            "max_backoff_seconds": rule.max_backoff.seconds,
        }
        for rule in rules
    ]
    await database.owner.fetchrow(
        "SELECT * FROM jobs.update_job($1, $2, '', '{retry_policy}', NULL, NULL, NULL,"
        " p_retry_policy => $3)",
        operator.tenant,
        job_id,
        json.dumps(policy),
    )
