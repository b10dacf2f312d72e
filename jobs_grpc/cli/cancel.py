"""`jobs-grpc cancel`: cancels jobs, or the executions of one device."""

import argparse
from contextlib import suppress

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.formatting import format_device_count, format_status
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.several_jobs import add_jobs, confirm, for_each_job
from jobs_grpc.client import JobsClient, JobsError, errors


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "cancel JOB [JOB ...]", _cancel)
    add_jobs(parser)
    helps = {"--device ID": "cancel only the executions of this device"}
    arguments.add_options(parser, helps)
    helps = {
        "--reason TEXT": "reason to store (default: canceled by operator)",
        "--force": "also cancel executions that are IN_PROGRESS",
    }
    arguments.add_options(parser, helps, default="")


async def _cancel(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Cancel jobs or the executions of one device.

    jobs-grpc cancel reboot-1 reboot-2 --reason 'wrong group'
    jobs-grpc cancel reboot-1 --device device-0003 --force
    """
    if args.device is None:
        await confirm(args, jobs, "cancel")
    elif args.etag:
        raise CliError("--etag can't be combined with --device", ExitCode.USAGE)
    await for_each_job(args, lambda job_id: _cancel_job(args, jobs, job_id))


async def _cancel_job(args: argparse.Namespace, jobs: JobsClient, job_id: str) -> None:
    if args.device is None:
        try:
            canceled = await jobs.cancel(
                job_id, reason=args.reason, force=args.force, etag=args.etag
            )
        except errors.JobNotCancelable as e:
            for hint in await _running_devices(jobs, job_id):
                e.add_hint(hint)
            raise
        asks = args.output == "text" and not args.force
        running = await _running_devices(jobs, job_id) if asks else []
        print_result(args, canceled, f"canceled {job_id}", *running)
    else:
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
    are = "is" if count == 1 else "are"
    return [
        f"{format_device_count(count)} {are} still IN_PROGRESS: `jobs-grpc get {job_id} --status"
        " IN_PROGRESS` lists them,"
        f" `jobs-grpc cancel {job_id} --device DEVICE --force` cancels one"
    ]
