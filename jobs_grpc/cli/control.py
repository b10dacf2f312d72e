"""Commands that control the starts of a job: pause, resume, advance, approve, reject, retry."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import is_unchanged, read_before
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import CliError, ExitCode, InvalidInput
from jobs_grpc.cli.fields import (
    ETAG,
    EXPIRY,
    FAILURE_CODES,
    REJECTED_INCLUDES_CANCELED,
    Fields,
    add_fields,
    forwarded,
)
from jobs_grpc.cli.formatting import format_counts, format_expiry, format_number, format_pause
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.stages import stage_lines, wait_lines
from jobs_grpc.client import JobsClient
from jobs_grpc.contract.field_rules import rules_of

_STAGE_TO_OPEN = (
    "stage",
    "number of the stage to open; makes the command safe to repeat (default: the next)",
)
_OPEN_STAGE = "number of the open stage, from 0"
_WAITING_STAGE = "(default: the stage that waits for an approval)"
_COMMENT_LENGTH = rules_of(pb.ApproveStageRequest, "comment").string.max_len
_APPROVE_FIELDS: Fields = {
    "[STAGE]": ("stage", f"{_OPEN_STAGE}; makes the command safe to repeat {_WAITING_STAGE}"),
    "--comment TEXT": ("comment", f"comment to store, at most {_COMMENT_LENGTH} characters"),
    **ETAG,
}
_REJECT_FIELDS: Fields = {
    **_APPROVE_FIELDS,
    "[STAGE]": ("stage", f"{_OPEN_STAGE} {_WAITING_STAGE}"),
}
_RETRY_FIELDS: Fields = {
    "--status STATUS": (
        "statuses",
        "retry executions with these statuses; REJECTED includes those that are CANCELED",
    ),
    "--failure-code CODE": ("failure_codes", FAILURE_CODES),
    "--device ID": "device_ids",
    **ETAG,
}


def add_command(commands: Subparsers) -> None:
    pause_fields = {"--reason TEXT": "reason", **ETAG}
    add_client_command(commands, "pause JOB", _pause, pb.PauseJobRequest, pause_fields)
    add_client_command(commands, "resume JOB", _resume, pb.ResumeJobRequest, ETAG)
    advance_fields = {"--stage N": _STAGE_TO_OPEN, **ETAG}
    add_client_command(commands, "advance JOB", _advance, pb.AdvanceJobRequest, advance_fields)
    usage = "approve JOB [STAGE]"
    parser = add_client_command(commands, usage, _approve, pb.ApproveStageRequest, _APPROVE_FIELDS)
    arguments.add_options(parser, {"--start": "approve the start of the job instead of a stage"})
    usage = "reject JOB [STAGE]"
    parser = add_client_command(commands, usage, _reject, pb.RejectStageRequest, _REJECT_FIELDS)
    arguments.add_options(parser, {"--start": "reject the start of the job, which cancels the job"})
    usage = "retry JOB --status STATUS [STATUS ...]"
    parser = add_client_command(commands, usage, _retry, pb.RetryExecutionsRequest)
    canceled = REJECTED_INCLUDES_CANCELED
    add_fields(parser, pb.RetryExecutionsRequest, _RETRY_FIELDS, canceled=canceled)
    add_fields(parser.add_mutually_exclusive_group(), pb.RetryExecutionsRequest, EXPIRY)


async def _pause(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Pause a job, so that no device starts it.

    jobs-grpc pause update-1 --reason 'too many failures'
    jobs-grpc pause update-1 --etag 5
    """
    before = await read_before(args, jobs)
    job = await jobs.pause(**forwarded(args))
    paused = "was already paused, so nothing changed:" if is_unchanged(job, before) else "is paused"
    lines = [f"{job.job_id} {paused} {format_pause(job, args.utc)}"]
    if is_unchanged(job, before) and args.reason not in ("", job.pause.reason):
        lines.append("to change the reason, resume the job and pause it again")
    lines.append(f"{format_counts(job.execution_counts)}, expires: {format_expiry(job, args.utc)}")
    print_result(args, job, *lines)


async def _resume(args: argparse.Namespace, jobs: JobsClient) -> None:
    """End the pause of a job.

    jobs-grpc resume update-1
    jobs-grpc resume update-1 --etag 5
    """
    before = await read_before(args, jobs)
    job = await jobs.resume(**forwarded(args))
    unchanged = f"{job.job_id} was not paused, so nothing changed"
    done = unchanged if is_unchanged(job, before) else f"resumed {job.job_id}"
    print_result(args, job, f"{done}: {format_counts(job.execution_counts)}")


async def _advance(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Open the next stage of a rollout now.

    jobs-grpc advance update-1
    jobs-grpc advance update-1 --stage 1
    """
    before = await read_before(args, jobs)
    job = await jobs.advance(**forwarded(args))
    unchanged = f"stage {args.stage} of {job.job_id} was opened before, so nothing changed"
    done = unchanged if is_unchanged(job, before) else f"advanced {job.job_id}"
    print_result(args, job, f"{done}:", *stage_lines(job, args.utc), *wait_lines(job, args.utc))


async def _approve(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Approve the open stage, so that the next one can open, or the start of a job.

    jobs-grpc approve update-1 0 --comment 'canary looks good'
    jobs-grpc approve update-1 --start
    """
    start = _start_fields(args)
    before = await read_before(args, jobs)
    if start:
        job = await jobs.approve_start(**start)
        unchanged = f"the start of {job.job_id} was approved before, so nothing changed"
        done = unchanged if is_unchanged(job, before) else f"approved the start of {job.job_id}"
        lines = [f"{done}: {format_counts(job.execution_counts)}"]
        lines.append(f"expires: {format_expiry(job, args.utc)}")
        if job.HasField("pause"):
            lines.append(_still_paused(job.job_id))
        print_result(args, job, *lines)
        return
    if args.stage is None:
        # The request names the stage, so that it never approves one that waits later.
        args.stage = _waiting_stage(before or await jobs.get(args.job_id))
    job = await jobs.approve(**forwarded(args))
    stage = f"stage {args.stage} of {job.job_id}"
    unchanged = f"{stage} was approved before, so nothing changed"
    done = unchanged if is_unchanged(job, before) else f"approved {stage}"
    print_result(args, job, f"{done}:", *stage_lines(job, args.utc), *wait_lines(job, args.utc))


async def _reject(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Reject the open stage of a rollout, which pauses the job, or its start, which cancels it.

    jobs-grpc reject update-1 --comment 'the canaries overheat'
    jobs-grpc reject update-1 --start
    """
    if start := _start_fields(args):
        job = await jobs.reject_start(**start)
        print_result(args, job, f"rejected the start of {job.job_id}, which is CANCELED")
        return
    before = await read_before(args, jobs)
    if args.stage is None:
        args.stage = _waiting_stage(before or await jobs.get(args.job_id))
    job = await jobs.reject(**forwarded(args))
    was_paused = "; the job was already paused" if is_unchanged(job, before) else ""
    lines = [f"rejected stage {args.stage} of {job.job_id}{was_paused}"]
    print_result(args, job, *lines, f"{job.job_id} is paused {format_pause(job, args.utc)}")


def _start_fields(args: argparse.Namespace) -> dict[str, str] | None:
    """Return the fields of ApproveStart and RejectStart; None: the command is about a stage."""
    if not args.start:
        return None
    if args.stage is not None:
        raise InvalidInput("--start and a stage must not both be given")
    return {"job_id": args.job_id, "comment": args.comment, "etag": args.etag}


def _still_paused(job_id: str) -> str:
    return f"{job_id} is PAUSED: no device starts before `jobs-grpc resume {job_id}`"


def _waiting_stage(job: pb.Job) -> int:
    for index, stage in enumerate(job.stages):
        if stage.awaiting_approval:
            return index
    if pb.Job.APPROVE_START in job.possible_actions:
        raise CliError(
            f"the start of {job.job_id} waits for an approval; to approve or reject it, add"
            " --start",
            ExitCode.WRONG_STATE,
        )
    raise CliError(
        f"no stage of {job.job_id} waits for an approval; to approve or reject the open stage in"
        " advance, name it",
        ExitCode.WRONG_STATE,
    )


async def _retry(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Queue unsuccessful executions of a job again.

    jobs-grpc retry update-1 --status FAILED --failure-code FLASH
    jobs-grpc retry update-1 --status FAILED TIMED_OUT --expires-in-hours 24
    """
    before = await read_before(args, jobs)
    retried = await jobs.retry(**forwarded(args))
    job_id, count = args.job_id, retried.retried_count
    lines = [f"queued {format_number(count, 'execution')} of {job_id} again,"]
    if not count:
        lines = [f"no execution of {job_id} {_filters(args)}, so nothing changed;"]
    lines[0] += f" expires: {format_expiry(retried, args.utc)}"
    # A job that finished during a pause is PAUSED again.
    if count and before is not None and before.HasField("pause"):
        lines.append(_still_paused(job_id))
    print_result(args, retried, *lines)


def _filters(args: argparse.Namespace) -> str:
    codes = " with one of the failure codes" if args.failure_codes else ""
    devices = " on one of the devices" if args.device_ids else ""
    return f"is {' or '.join(dict.fromkeys(args.statuses))}{codes}{devices}"
