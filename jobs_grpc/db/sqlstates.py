"""Maps the SQLSTATEs of sql/functions/internal/raise_error.sql to exceptions."""

import json
from collections.abc import Mapping
from typing import Any

from jobs_grpc import errors
from jobs_grpc.db.rollout_time import describe_expiry


def domain_error(
    sqlstate: str, args: Mapping[str, Any], status: str, hint: str = ""
) -> errors.JobsError | None:
    """Return the exception for a SQLSTATE; None if raise_error.sql does not raise it.

    `args` are the call's arguments by name, with the tenant_id; `status` is the DETAIL of the
    error, and `hint` its HINT.
    """
    # Errors of PostgreSQL itself have hints for people.
    facts: Mapping[str, Any] = json.loads(hint) if hint and sqlstate.startswith("JB") else {}
    match sqlstate:
        case "JB001":
            return errors.DeviceNotFound(args.get("target_device_id") or args["device_id"])
        case "JB002":
            return errors.GroupEmpty(args["target_group_id"])
        case "JB003":
            return errors.TenantEmpty(args["tenant_id"])
        case "JB004":
            return errors.JobAlreadyExists(args["job_id"], deleted=facts.get("deleted", False))
        case "JB005":
            return errors.JobNotFound(args["job_id"])
        case "JB006":
            return errors.JobNotCancelable(args["job_id"], status)
        case "JB007":
            return errors.ExecutionNotFound(args["job_id"], args["device_id"])
        case "JB008":
            return errors.ExecutionFinished(args["job_id"], args["device_id"], status)
        case "JB009":
            return errors.ExecutionInProgress(args["job_id"], args["device_id"])
        case "JB010":
            return errors.JobNotRetryable(args["job_id"], status)
        case "JB011":
            return errors.JobNotDeletable(args["job_id"], status)
        case "JB012":
            return errors.LimitExceeded(
                "The job has too many devices", "JOBS_MAX_TARGETS", args["max_targets"]
            )
        case "JB013":
            return errors.LimitExceeded(
                "The tenant has too many jobs in progress",
                "JOBS_MAX_ACTIVE_JOBS",
                args["max_active_jobs"],
                retry_after=60,
            )
        case "JB014":
            return errors.JobNotPausable(args["job_id"], status)
        case "JB015":
            return errors.JobNotResumable(args["job_id"], status)
        case "JB016":
            return errors.JobChanged(
                args["job_id"],
                etag=facts["etag"],
                status=facts["status"],
                open_stage=facts["open_stage"],
            )
        case "JB017":
            return errors.InvalidRequest([errors.Violation("rollout.stages", status)])
        case "JB018":
            return errors.GateNotMet(args["job_id"], status)
        case "JB019":
            return errors.ApprovalRequired(args["job_id"], status)
        case "JB020":
            return errors.StageNotApprovable(
                args["job_id"],
                status,
                cause=facts["cause"],
                status=facts["status"],
                open_stage=facts["open_stage"],
            )
        case "JB021":
            return errors.SelfApproval(args["job_id"], status)
        case "JB022":
            return errors.JobNotAdvanceable(
                args["job_id"],
                status,
                stage=args["stage"],
                open_stage=facts["open_stage"],
                last_stage=facts["last_stage"],
            )
        case "JB023":
            return errors.JobNotUpdatable(args["job_id"], status)
        case "JB024":
            problem = f"{status} {facts['problem']}"
            return errors.InvalidRequest([errors.Violation(status, problem)])
        case "JB025":
            problem = f"{status} needs a rollout, and the job has none"
            return errors.InvalidRequest([errors.Violation(status, problem)])
        case "JB026":
            stages = json.loads(args["rollout"])["stages"]
            return errors.StageEmpty(status, stages[int(status)]["group_id"])
        case "JB027":
            return errors.ExpiryTooEarly(args["job_id"], describe_expiry(facts), facts["seconds"])
        case "JB028":
            problem = "expires_at must be later than now and at most 366 days from now"
            return errors.InvalidRequest([errors.Violation("expires_at", problem)])
    return None
