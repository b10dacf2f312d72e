"""Converts the errors that SQL functions raise with raise_error.sql to exceptions."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from jobs_grpc.contract.dot_segments import DOT_SEGMENT_PROBLEM
from jobs_grpc.errors import BY_SQLSTATE, InvalidField, JobsError, Limit, LimitExceeded, Violation


class TooManyTargets(LimitExceeded, sqlstate="JB012"):
    """The job has more devices than JOBS_MAX_TARGETS."""

    def __init__(self, max_targets: int) -> None:
        super().__init__(Limit.TARGETS, max_targets)


class TooManyActiveJobs(LimitExceeded, sqlstate="JB013"):
    """The tenant has JOBS_MAX_ACTIVE_JOBS active jobs."""

    def __init__(self, max_active_jobs: int) -> None:
        super().__init__(Limit.ACTIVE_JOBS, max_active_jobs, retry_after=60)


class TooManyDevices(LimitExceeded, sqlstate="JB045"):
    """The tenant would have more devices than JOBS_MAX_TENANT_DEVICES."""

    def __init__(self, max_devices: int) -> None:
        super().__init__(Limit.TENANT_DEVICES, max_devices)


class TooManyWebhooks(LimitExceeded, sqlstate="JB042"):
    """The tenant has the maximum number of webhooks."""

    def __init__(self) -> None:
        JobsError.__init__(self, "The tenant has 16 webhooks, which is the maximum; delete one")


class TooManyWebhookRestarts(LimitExceeded, sqlstate="JB043"):
    """The tenant creates, restarts or tests webhooks too often, or tests one again too soon."""

    def __init__(self) -> None:
        JobsError.__init__(
            self,
            "Per tenant: at most 16 webhook creations, restarts and tests in 10 seconds, 4 tests at"
            " a time, one test per webhook in 10 seconds; retry later",
        )
        self.retry_after = 10


class StagesTooSmall(InvalidField, sqlstate="JB017"):
    """The stages have no room for all devices."""

    def __init__(self, detail: str) -> None:
        super().__init__([Violation("rollout.stages", detail)])


class StageFixed(InvalidField, sqlstate="JB024"):
    """UpdateJob must not change this field of a stage."""

    def __init__(self, detail: str, problem: str) -> None:
        super().__init__([Violation(detail, f"{detail} {problem}")])


class RolloutMissing(InvalidField, sqlstate="JB025"):
    """The job has no rollout, so it can't have this field."""

    def __init__(self, detail: str) -> None:
        super().__init__([Violation(detail, f"{detail} needs a rollout, and the job has none")])


class ExpiryOutOfRange(InvalidField, sqlstate="JB028"):
    """The new expiry is not later than now, or too far ahead."""

    def __init__(self) -> None:
        problem = "expires_at must be later than now and at most 366 days from now"
        super().__init__([Violation("expires_at", problem)])


class StartOutOfRange(InvalidField, sqlstate="JB036"):
    """The start of the job is too far ahead."""

    def __init__(self) -> None:
        problem = "start_at must be at most 90 days from now"
        super().__init__([Violation("start_at", problem)])


class ReplacementScheduled(InvalidField, sqlstate="JB046"):
    """The job that the new one replaces would be canceled long before the new one starts."""

    def __init__(self) -> None:
        problem = (
            "start_at must not be in the future with replaces_job_id: the replaced job is canceled"
            " at once; create the job when it should start"
        )
        super().__init__([Violation("start_at", problem)])


class TooManyContinuousJobs(LimitExceeded, sqlstate="JB049"):
    """The tenant has the maximum number of continuous jobs."""

    def __init__(self) -> None:
        JobsError.__init__(
            self,
            "The tenant has 20 continuous jobs, which is the maximum; cancel one, or set its"
            " continuous to false",
        )


class JobNotContinuous(InvalidField, sqlstate="JB050"):
    """No device can join the job, so it can't have this field."""

    def __init__(self, detail: str) -> None:
        problem = (
            "needs a continuous job, and no device can join this one"
            if detail == "max_joins_per_hour"
            else "must be false: the job is not continuous, and can't become it; create a"
            " continuous job for the devices that match later"
        )
        super().__init__([Violation(detail, f"{detail} {problem}")])


class ZoneNotAllowed(InvalidField, sqlstate="JB038"):
    """The job can't have this window_time_zone."""

    def __init__(self, detail: str) -> None:
        super().__init__([Violation("window_time_zone", f"window_time_zone {detail}")])


class TooManyLabels(InvalidField, sqlstate="JB033"):
    """With the labels that it has, a device of UpdateDevices would have more than 32."""

    def __init__(self, detail: str) -> None:
        field = f"devices[{detail}].labels"
        super().__init__([Violation(field, f"{field}: the device would have more than 32 labels")])


class DotSegment(InvalidField, sqlstate="JB044"):
    """A device to register has an ID with a segment "." or "..".

    HTTP clients and proxies resolve these (RFC 3986).
    """

    def __init__(self, detail: str) -> None:
        field = f"devices[{detail}].device_id"
        super().__init__([Violation(field, f"{field} {DOT_SEGMENT_PROBLEM}")])


def domain_error(
    sqlstate: str, args: Mapping[str, Any], detail: str, hint: str = ""
) -> JobsError | None:
    """Return the exception for a SQLSTATE; None if raise_error.sql does not raise it.

    Its constructor gets, by the names of its parameters, the call's arguments `args`, with the
    tenant_id; the DETAIL of the error, as its status, stage or detail; and the facts in its HINT.
    """
    create: Callable[..., JobsError] | None = BY_SQLSTATE.get(sqlstate)
    if create is None:
        return None
    facts = json.loads(hint) if hint else {}
    values = {**args, "status": detail, "stage": detail, "detail": detail, **facts}
    return create(**{name: values[name] for name in _parameters(create)})


@functools.cache
def _parameters(create: Callable[..., JobsError]) -> tuple[str, ...]:
    return tuple(inspect.signature(create).parameters)
