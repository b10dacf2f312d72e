"""`jobs-grpc cancel`, `retry` and `delete`: changes to a job that is there."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connected
from jobs_grpc.cli.output import devices_text, expiry_text, print_json, printable

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_commands(commands: "Commands") -> None:
    """Add `cancel`, `retry` and `delete`."""
    cancel = add_client_command(commands, "cancel", _cancel, "cancel a job, or one device of it")
    cancel.add_argument("job_id", type=arguments.text, metavar="JOB")
    cancel.add_argument(
        "--device", type=arguments.text, metavar="ID", help="only this device's execution"
    )
    cancel.add_argument(
        "--reason", type=arguments.text, default="", help="why [canceled by operator]"
    )
    cancel.add_argument("--force", action="store_true", help="also where a device is at work")

    retry = add_client_command(commands, "retry", _retry, "queue again what was no success")
    retry.add_argument("job_id", type=arguments.text, metavar="JOB")
    retry.add_argument(
        "--status",
        choices=("FAILED", "TIMED_OUT", "REJECTED"),
        action="extend",
        nargs="+",
        required=True,
        help="what ended so; one or more",
    )
    expiry = retry.add_mutually_exclusive_group()
    expiry.add_argument(
        "--expires-in-hours", type=arguments.hours, metavar="N", help="from now, 1–720 [as before]"
    )
    expiry.add_argument("--never-expires", action="store_true")

    delete = add_client_command(commands, "delete", _delete, "delete a job that is over")
    delete.add_argument("job_id", type=arguments.text, metavar="JOB")


def _cancel(args: argparse.Namespace) -> None:
    if args.device is not None:
        _cancel_execution(args)
        return
    request = pb.CancelJobRequest(job_id=args.job_id, reason=args.reason, force=args.force)
    with connected(args) as client:
        response: pb.CancelJobResponse = client.call("CancelJob", request)
    if args.json:
        print_json(response)
    else:
        print(f"canceled {printable(response.job_id)}")


def _cancel_execution(args: argparse.Namespace) -> None:
    request = pb.CancelExecutionRequest(
        job_id=args.job_id, device_id=args.device, reason=args.reason, force=args.force
    )
    with connected(args) as client:
        response: pb.CancelExecutionResponse = client.call("CancelExecution", request)
    if args.json:
        print_json(response)
    else:
        print(f"canceled {printable(args.job_id)} on {printable(response.execution.device_id)}")


def _retry(args: argparse.Namespace) -> None:
    request = pb.RetryExecutionsRequest(
        job_id=args.job_id,
        statuses=args.status,
        expires_in_hours=args.expires_in_hours,
        never_expires=args.never_expires,
    )
    with connected(args) as client:
        response: pb.RetryExecutionsResponse = client.call("RetryExecutions", request)
    if args.json:
        print_json(response)
        return
    devices = devices_text(response.retried_count)
    expiry = expiry_text(response)
    print(f"queued {printable(args.job_id)} again for {devices}, expires: {expiry}")


def _delete(args: argparse.Namespace) -> None:
    with connected(args) as client:
        response: pb.DeleteJobResponse = client.call(
            "DeleteJob", pb.DeleteJobRequest(job_id=args.job_id)
        )
    if args.json:
        print_json(response)
    else:
        print(f"deleted {printable(args.job_id)}")
