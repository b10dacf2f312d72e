"""The columns and filters of executions, and the commands `attempts` and `device`."""

import argparse
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.formatting import CANCEL_CAUSES, format_status
from jobs_grpc.cli.listing import FORMATS, Column, add_listing_options, print_listing
from jobs_grpc.cli.output import print_note
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient, end_cause_name

_Column = Column[pb.JobExecution]


_END_CAUSES = {
    "DEVICE": "the device reported it",
    "TIMEOUT": "it was IN_PROGRESS too long",
    "JOB_EXPIRED": "the job expired before the device started",
    "JOB_CANCELED": "an operator or a failure criterion canceled the job",
    "EXECUTION_CANCELED": "an operator canceled this execution only",
    "DEVICE_REMOVED": "the device was deleted",
}


# How tables name an end that the status does not tell.
_END_WORDS = {
    pb.JobExecution.JOB_EXPIRED: "expired",
    pb.JobExecution.DEVICE_REMOVED: "removed",
}


def _status_text(execution: pb.JobExecution) -> str:
    """Return the status and how the execution ended, such as "REJECTED (removed)"."""
    status = format_status(execution)
    word = _END_WORDS.get(execution.end_cause)
    return f"{status} ({word})" if word else status


_DEVICE = _Column("device_id", "DEVICE")
_JOB = _Column("job_id", "JOB")
_STATUS = _Column("status", "STATUS", format_status, drop_order=1, text=_status_text)
_UPDATED = _Column("last_updated_at", "UPDATED", drop_order=5)
_STARTED = _Column("started_at", "STARTED", drop_order=6)
_QUEUED = _Column("queued_at", "QUEUED", wide=True)
_TIMES_OUT = _Column("times_out_at", "TIMES_OUT", wide=True)
_NOT_BEFORE = _Column("not_before", "NOT_BEFORE", wide=True)
_ZONE = _Column("time_zone", "TIME_ZONE", wide=True)
_STAGE = _Column("stage", "STAGE", wide=True, is_number=True)
_VERSION = _Column("version", "VERSION", wide=True, is_number=True)
_ATTEMPT = _Column("execution_number", "ATTEMPT", drop_order=4, is_number=True)
_CODE = _Column("failure_code", "CODE", drop_order=3)
_END_CAUSE = _Column(
    "end_cause",
    "END_CAUSE",
    lambda e: end_cause_name(e.end_cause) if e.end_cause else None,
    wide=True,
)
_REPORTED_BY = _Column(
    "reported_by",
    "REPORTED_BY",
    wide=True,
    text=lambda e: (e.reported_by or "(no user)") if e.HasField("reported_by") else None,
)
_DETAILS = _Column("status_details", "DETAILS", drop_order=2, min_width=20, wraps=True)
_REST = (_UPDATED, _STARTED, _QUEUED, _NOT_BEFORE, _TIMES_OUT, _ZONE, _STAGE, _VERSION)

_KNOWN = (_DEVICE, _JOB, _STATUS, *_REST, _ATTEMPT, _CODE, _END_CAUSE, _REPORTED_BY, _DETAILS)
_OTHERS = tuple(
    _Column(field.name, field.name.upper(), wide=True)
    for field in pb.JobExecution.DESCRIPTOR.fields
    if field.name not in [column.name for column in _KNOWN]
)
_END = (_CODE, _END_CAUSE, _REPORTED_BY, *_OTHERS, _DETAILS)

EXECUTION_COLUMNS = (_DEVICE, _STATUS, *_REST, _ATTEMPT, *_END)
DEVICE_COLUMNS = (_JOB, _STATUS, *_REST, _ATTEMPT, *_END)
_ATTEMPT_COLUMNS = (_ATTEMPT, _STATUS, *_REST, *_END)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add --status, --failure-code and --end-cause."""
    filters = parser.add_argument_group("filters")
    causes = pb.JobExecution.EndCause.keys()[1:]
    statuses = [*pb.JobExecution.Status.keys()[1:], "CANCELED"]
    filters.add_argument(
        "--status",
        choices=statuses,
        metavar="STATUS",
        help=f"executions with this status: {', '.join(statuses)}",
    )
    code_help = "executions that failed with this code; '' selects those without a code"
    arguments.add_options(filters, {"--failure-code CODE": code_help})
    explained = "; ".join(f"{cause}: {_END_CAUSES[cause]}" for cause in causes)
    help_text = f"executions that ended by this cause: {explained}"
    filters.add_argument("--end-cause", choices=causes, metavar="CAUSE", help=help_text)


def add_device_filters(parser: argparse.ArgumentParser) -> None:
    """Add --stage and --device-prefix, for lists of a job's executions."""
    helps = {
        "--stage N": "executions of this stage of the rollout; the first is 0",
        "--device-prefix TEXT": "executions of devices whose ID starts with this text",
    }
    arguments.add_options(parser, helps, default="", N=arguments.stage_index)


def execution_filters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the filters of add_filters as arguments of JobsClient.executions.

    Raises CliError if no execution can match them.
    """
    status = args.status or "STATUS_UNSPECIFIED"
    causes = [args.end_cause] if args.end_cause else []
    if status in ("CANCELED", "REJECTED"):
        # The server calls both REJECTED.
        all_causes = set(_END_CAUSES) - {"TIMEOUT", "JOB_EXPIRED"}
        canceled = set(CANCEL_CAUSES)
        possible = canceled if status == "CANCELED" else all_causes - canceled
        causes = sorted(possible.intersection(causes or possible))
        if not causes:
            raise CliError(
                f"no execution that is {status} has the end cause {args.end_cause}; omit --status",
                ExitCode.USAGE,
            )
        status = "REJECTED"
    return {
        "status": pb.JobExecution.Status.Value(status),
        "failure_code": args.failure_code,
        "end_causes": [pb.JobExecution.EndCause.Value(cause) for cause in causes],
    }


def note_canceled(args: argparse.Namespace) -> None:
    """Say how to list the canceled executions if the user may expect them to be REJECTED."""
    if args.status == "REJECTED" and not args.output.startswith("json"):
        print_note("executions that an operator canceled are CANCELED: --status CANCELED")


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "attempts JOB DEVICE", _attempts, formats=FORMATS)
    arguments.add_job(parser)
    arguments.add_device(parser)
    add_listing_options(parser, _ATTEMPT_COLUMNS, limit=100, noun="attempts")
    parser = add_client_command(commands, "device DEVICE", _device, formats=FORMATS)
    arguments.add_device(parser)
    add_filters(parser)
    add_listing_options(parser, DEVICE_COLUMNS, limit=50, noun="executions")


async def _attempts(args: argparse.Namespace, jobs: JobsClient) -> None:
    """List the attempts of an execution, the current one first.

    jobs-grpc attempts reboot-1 device-0003
    jobs-grpc attempts reboot-1 device-0003 --json
    """
    pager = jobs.attempts(args.job_id, args.device_id, page_token=args.page_token, limit=args.limit)
    await print_listing(
        args, _ATTEMPT_COLUMNS, pager, key="attempts", noun="attempts", order="newest"
    )


async def _device(args: argparse.Namespace, jobs: JobsClient) -> None:
    """List the executions of a device in all jobs, newest first.

    jobs-grpc device device-0003
    jobs-grpc device device-0003 --status FAILED
    """
    pager = jobs.executions(
        device_id=args.device_id,
        **execution_filters(args),
        page_token=args.page_token,
        limit=args.limit,
    )
    await print_listing(
        args, DEVICE_COLUMNS, pager, key="executions", noun="executions", order="newest"
    )
    note_canceled(args)
