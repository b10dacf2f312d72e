"""`jobs-grpc cancel` and `delete`: end jobs, or the executions of one device."""

import argparse
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import can_ask, confirm
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.connection import resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode, InvalidInput
from jobs_grpc.cli.fields import ETAG, add_fields, forwarded
from jobs_grpc.cli.formatting import format_device_count, format_status
from jobs_grpc.cli.output import print_result
from jobs_grpc.client import JobsClient, JobsError, errors

# Ask for confirmation if the jobs have more devices than this in total.
_MAX_DEVICES_WITHOUT_QUESTION = 1000


def add_command(commands: Subparsers) -> None:
    cancel = add_client_command(commands, "cancel JOB [JOB ...]", _cancel)
    delete = add_client_command(commands, "delete JOB [JOB ...]", _delete)
    yes_help = (
        "skip the confirmation that a terminal shows if the jobs have more than "
        f"{_MAX_DEVICES_WITHOUT_QUESTION:,} devices in total"
    )
    for parser in (cancel, delete):
        parser.add_argument(
            "job_ids", type=arguments.text, nargs="+", metavar="JOB", help="IDs of the jobs"
        )
        arguments.add_yes(parser, yes_help)
    arguments.add_options(cancel, {"--device ID": "cancel only the executions of this device"})
    fields = {"--reason TEXT": "reason", "--force": "force", **ETAG}
    add_fields(cancel, pb.CancelJobRequest, fields)
    add_fields(delete, pb.DeleteJobRequest, ETAG)


async def _cancel(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Cancel jobs or the executions of one device.

    jobs-grpc cancel reboot-1 reboot-2 --reason 'wrong group'
    jobs-grpc cancel reboot-1 --device device-0003 --force
    """
    if args.device is None:
        await _confirm(args, jobs, "cancel")
        await _for_each_job(args, lambda job_id: _cancel_job(args, jobs, job_id))
    elif args.etag:
        raise InvalidInput("--etag can't be combined with --device")
    else:
        await _for_each_job(args, lambda job_id: _cancel_execution(args, jobs, job_id))


async def _cancel_job(args: argparse.Namespace, jobs: JobsClient, job_id: str) -> None:
    try:
        canceled = await jobs.cancel(job_id, **forwarded(args))
    except errors.JobNotCancelable as e:
        for hint in await _running_devices(jobs, job_id):
            e.add_hint(hint)
        raise
    asks = args.output == "text" and not args.force
    running = await _running_devices(jobs, job_id) if asks else []
    print_result(args, canceled, f"canceled {job_id}", *running)


async def _cancel_execution(args: argparse.Namespace, jobs: JobsClient, job_id: str) -> None:
    try:
        execution = await jobs.cancel_execution(
            job_id, args.device, reason=args.reason, force=args.force
        )
    except errors.ExecutionFinished as e:
        # The server reports REJECTED for a canceled execution.
        with suppress(JobsError):
            async for finished in jobs.executions(job_id, device_id=args.device):
                e.metadata = {**e.metadata, "status": format_status(finished)}
        raise
    print_result(args, execution, f"canceled {job_id} on {args.device}")


async def _running_devices(jobs: JobsClient, job_id: str) -> list[str]:
    """Say how many devices still run a canceled job, and how to cancel these; [] if none."""
    try:
        count = (await jobs.get(job_id)).execution_counts.in_progress
    except JobsError:
        return []  # The cancel has succeeded or failed in any case.
    if not count:
        return []
    running = f"{format_device_count(count)} {'is' if count == 1 else 'are'} still IN_PROGRESS"
    return [
        f"{running}: `jobs-grpc get {job_id} --status IN_PROGRESS` lists them,"
        f" `jobs-grpc cancel {job_id} --device DEVICE --force` cancels one"
    ]


async def _delete(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Delete finished jobs.

    jobs-grpc delete reboot-1 reboot-2
    jobs-grpc delete update-1 --yes
    """

    async def delete(job_id: str) -> None:
        await jobs.delete(job_id, **forwarded(args))
        print_result(args, pb.DeleteJobResponse(), f"deleted {job_id}")

    await _confirm(args, jobs, "delete")
    await _for_each_job(args, delete)


async def _confirm(args: argparse.Namespace, jobs: JobsClient, verb: str) -> None:
    """Ask for confirmation on a terminal if the jobs have many devices.

    Raises CliError if the user declines, or if --etag is given for several jobs.
    """
    if args.etag and len(args.job_ids) > 1:
        raise InvalidInput("--etag can only be used with one job")
    if args.yes or not can_ask():
        return
    devices = 0
    for job_id in args.job_ids:
        # The call that follows reports these errors.
        with suppress(errors.JobNotFound, errors.InvalidField):
            devices += (await jobs.get(job_id)).total_executions
    if devices > _MAX_DEVICES_WITHOUT_QUESTION:
        count = len(args.job_ids)
        what = args.job_ids[0] if count == 1 else f"{count} jobs"
        await confirm(f"{verb} {what} ({devices:,} devices)?", yes=False, verb=verb)


async def _for_each_job(args: argparse.Namespace, call: Callable[[str], Awaitable[None]]) -> None:
    """Make a call for each job. Continue after an error, unless the server is unavailable.

    Raises CliError, or an exception group of several.
    """
    failed: list[CliError] = []
    for job_id in args.job_ids:
        try:
            await call(job_id)
        except JobsError as e:
            error = resolve_target(args).call_error(e)
            if len(args.job_ids) > 1 and job_id not in str(error):
                error.args = (f"{job_id}: {error}",)
            failed.append(error)
            if error.exit_code is ExitCode.UNAVAILABLE:
                break
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise ExceptionGroup("several jobs failed", failed)
