"""The columns and filters of executions, and the commands `attempts` and `device`."""

import argparse
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.fields import Fields, add_fields, forwarded
from jobs_grpc.cli.formatting import CANCEL_CAUSES, format_status
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.output import print_note
from jobs_grpc.cli.tables import Column
from jobs_grpc.client import JobsClient, end_cause_name

_Column = Column[pb.JobExecution]

_END_CAUSES = {
    "DEVICE": "the device reported it",
    "TIMEOUT": "it was IN_PROGRESS too long",
    "JOB_EXPIRED": "the job expired before the device started",
    "JOB_CANCELED": "the job was canceled",
    "EXECUTION_CANCELED": "an operator canceled this execution only",
    "DEVICE_DELETED": "the device was deleted",
}

# How tables name an end that the status does not tell.
_END_WORDS = {
    pb.JobExecution.JOB_EXPIRED: "expired",
    pb.JobExecution.DEVICE_DELETED: "device deleted",
}


def _status_text(execution: pb.JobExecution) -> str:
    """Return the status and how the execution ended, such as "REJECTED (device deleted)"."""
    word = _END_WORDS.get(execution.end_cause)
    return f"{format_status(execution)}{f' ({word})' if word else ''}"


def _reported_by(execution: pb.JobExecution) -> str | None:
    if not execution.HasField("reported_by"):
        return None
    return execution.reported_by or "(no user)"


_DEVICE, _JOB = _Column("device_id", "DEVICE"), _Column("job_id", "JOB")
_ATTEMPT = _Column("execution_number", "ATTEMPT", drop_order=4, is_number=True)
_STATUS = (
    _Column("status", read=format_status, drop_order=1, text=_status_text),
    _Column("last_updated_at", "UPDATED", drop_order=5),
    _Column("started_at", "STARTED", drop_order=6),
    _Column("queued_at", "QUEUED", wide=True),
    _Column("not_before", wide=True),
    _Column("times_out_at", "TIMES_OUT", wide=True),
    _Column("time_zone", wide=True),
    _Column("stage", wide=True, is_number=True),
    _Column("version", wide=True, is_number=True),
)
_END = (
    _Column("failure_code", "CODE", drop_order=3),
    _Column(
        "end_cause", read=lambda e: end_cause_name(e.end_cause) if e.end_cause else None, wide=True
    ),
    _Column("reported_by", wide=True, text=_reported_by),
)
_DETAILS = _Column("status_details", "DETAILS", drop_order=2, min_width=20, wraps=True)

_LISTED_FIELDS = {column.name for column in (_DEVICE, _JOB, _ATTEMPT, *_STATUS, *_END, _DETAILS)}
_UNLISTED_FIELDS = tuple(
    _Column(field.name, wide=True)
    for field in pb.JobExecution.DESCRIPTOR.fields
    if field.name not in _LISTED_FIELDS
)
_LAST_COLUMNS = (*_END, *_UNLISTED_FIELDS, _DETAILS)

JOB_EXECUTIONS = Listing("executions", (_DEVICE, *_STATUS, _ATTEMPT, *_LAST_COLUMNS))
DEVICE_EXECUTIONS = Listing(
    "executions", (_JOB, *_STATUS, _ATTEMPT, *_LAST_COLUMNS), first_page_word="newest"
)
_ATTEMPTS = Listing("attempts", (_ATTEMPT, *_STATUS, *_LAST_COLUMNS), first_page_word="newest")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add --status, --failure-code and --end-cause."""
    filters = parser.add_argument_group("filters")
    statuses = [*pb.JobExecution.Status.keys()[1:], "CANCELED"]
    help_text = f"executions with this status: {', '.join(statuses)}"
    filters.add_argument("--status", choices=statuses, metavar="STATUS", help=help_text)
    code_help = "executions that failed with this code; '' selects those without a code"
    code = {"--failure-code CODE": ("failure_code", code_help)}
    add_fields(filters, pb.ListJobExecutionsRequest, code)
    explained = "; ".join(f"{name}: {text}" for name, text in _END_CAUSES.items())
    help_text = f"executions that ended by this cause: {explained}"
    filters.add_argument("--end-cause", choices=_END_CAUSES, metavar="CAUSE", help=help_text)


def add_job_filters(parser: argparse.ArgumentParser) -> None:
    """Add the filters of the executions of a job."""
    add_filters(parser)
    fields: Fields = {
        "--stage N": ("stage", "executions of this stage of the rollout; the first is 0"),
        "--device-prefix TEXT": "device_id_prefix",
    }
    add_fields(parser, pb.ListJobExecutionsRequest, fields)


def read_filters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the job or the device, the filters and the page for JobsClient.executions.

    Raises CliError if no execution can match them.
    """
    status = args.status
    causes = [args.end_cause] if args.end_cause else []
    if status in ("CANCELED", "REJECTED"):
        # The server calls both REJECTED.
        canceled = set(CANCEL_CAUSES)
        others = {*_END_CAUSES} - canceled - {"TIMEOUT", "JOB_EXPIRED"}
        possible = canceled if status == "CANCELED" else others
        causes = sorted(possible.intersection(causes or possible))
        if not causes:
            raise InvalidInput(
                f"no execution that is {status} has the end cause {args.end_cause}; omit --status"
            )
        status = "REJECTED"
    return {
        **forwarded(args),
        "status": pb.JobExecution.Status.Value(status or "STATUS_UNSPECIFIED"),
        "end_causes": [pb.JobExecution.EndCause.Value(cause) for cause in causes],
    }


def note_canceled(args: argparse.Namespace) -> None:
    """Say how to list the canceled executions if the user may expect them to be REJECTED."""
    if args.status == "REJECTED" and not args.output.startswith("json"):
        print_note("executions that an operator canceled are CANCELED: --status CANCELED")


def add_command(commands: Subparsers) -> None:
    request = pb.ListExecutionAttemptsRequest
    parser = add_client_command(
        commands, "attempts JOB DEVICE", _attempts, request, formats=FORMATS
    )
    _ATTEMPTS.add_options(parser, limit=100)
    parser = add_client_command(
        commands, "device DEVICE", _device, pb.ListJobExecutionsRequest, formats=FORMATS
    )
    add_filters(parser)
    DEVICE_EXECUTIONS.add_options(parser, limit=50)


async def _attempts(args: argparse.Namespace, jobs: JobsClient) -> None:
    """List the attempts of an execution, the current one first.

    jobs-grpc attempts reboot-1 device-0003
    jobs-grpc attempts reboot-1 device-0003 --json
    """
    await _ATTEMPTS.print_pages(args, jobs.attempts(**forwarded(args)))


async def _device(args: argparse.Namespace, jobs: JobsClient) -> None:
    """List the executions of a device in all jobs, newest first.

    jobs-grpc device device-0003
    jobs-grpc device device-0003 --status FAILED
    """
    await DEVICE_EXECUTIONS.print_pages(args, jobs.executions(**read_filters(args)))
    note_canceled(args)
