"""`jobs-grpc notices`: shows what a device learns of cancels and timeouts, and answers it."""

import argparse

from fleet.jobs.v1 import device_jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import GetDeviceRequest
from fleet.jobs.v1.jobs_pb2 import JobExecution

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.output import print_result
from jobs_grpc.client import DeviceClient, end_cause_name


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "notices DEVICE", _notices, GetDeviceRequest)
    help_text = "accept each cancel, and acknowledge each end"
    arguments.add_options(parser, {"--accept": help_text})


async def _notices(args: argparse.Namespace, device: DeviceClient) -> None:
    """Show what a device learns of cancels and timeouts.

    Calls the server as the device, with the role device: its executions whose job was canceled
    without --force, and the attempts that others ended. A real device stops what it does, and then
    answers as --accept does.

    jobs-grpc notices device-0003
    jobs-grpc notices device-0003 --accept
    """
    notices = pb.ListPendingExecutionsResponse()
    async for execution in device.pending():
        if execution.status != JobExecution.IN_PROGRESS:
            break
        if execution.cancel_requested:
            notices.executions.append(execution)
    notices.ended_executions.extend(device.ended_executions)
    if args.accept:
        for execution in notices.executions:
            await device.accept_cancel(execution)
        if notices.ended_executions:
            await device.acknowledge(notices.ended_executions)
    verbs = (
        ("accepted the cancel of", "acknowledged")
        if args.accept
        else ("cancel requested:", "ended:")
    )
    lines = [f"{verbs[0]} {_attempt(each)}" for each in notices.executions]
    lines += [
        f"{verbs[1]} {_attempt(each)}, {end_cause_name(each.end_cause)}"
        for each in notices.ended_executions
    ]
    print_result(args, notices, *(lines or ["no notices"]))


def _attempt(execution: pb.DeviceExecution | pb.EndedExecution) -> str:
    return f"{execution.job_id}, attempt {execution.execution_number}"
