"""`jobs-grpc explain`: explains why a device does not start its execution of a job."""

import argparse
import shutil
import textwrap
from collections.abc import Iterator

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.formatting import format_field, format_moment, format_status
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient
from jobs_grpc.text import escape_unprintable


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "explain JOB DEVICE", _explain)
    arguments.add_job(parser)
    arguments.add_device(parser)


async def _explain(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Explain why a device does not start its execution of a job.

    jobs-grpc explain update-1 device-0003
    jobs-grpc explain update-1 device-0003 --json
    """
    explanation = await jobs.explain(args.job_id, args.device_id)
    print_result(args, explanation, *_lines(explanation, args.utc))


def _lines(explanation: pb.ExplainExecutionResponse, utc: bool) -> Iterator[str]:
    for name, value in _fields(explanation, utc):
        yield f"{name:<9} {value}"
    width = shutil.get_terminal_size().columns
    for number, blocker in enumerate(explanation.blockers, start=1):
        until = f" Until {format_moment(blocker.until, utc)}." if blocker.HasField("until") else ""
        text = f"{number}. {blocker.message}{until}{_gate_time(blocker, utc)}"
        yield from textwrap.wrap(escape_unprintable(text), width, subsequent_indent="   ")


def _fields(explanation: pb.ExplainExecutionResponse, utc: bool) -> Iterator[tuple[str, str]]:
    execution = explanation.execution
    yield "device", execution.device_id
    status = format_status(execution)
    if execution.status == pb.JobExecution.IN_PROGRESS:
        status += f" since {format_moment(execution.started_at, utc)}"
    yield "status", status
    yield "last seen", format_field(explanation, "last_seen_at", utc)
    if explanation.HasField("earliest_start_at"):
        yield "starts", f"{format_moment(explanation.earliest_start_at, utc)} at the earliest"


def _gate_time(blocker: pb.StartBlocker, utc: bool) -> str:
    gate = blocker.stage_gate
    if not gate.HasField("next_opens_at"):
        return ""
    opens = format_moment(gate.next_opens_at, utc)
    return f" Stage {gate.open_stage + 1} opens at {opens}, or before."
