"""`jobs-grpc create`, `list` and `get`: calls to a running server."""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.message import DecodeError, EncodeError

from jobs_grpc.cli import arguments, errors
from jobs_grpc.cli.connection import add_client_command, connected
from jobs_grpc.cli.errors import Failed
from jobs_grpc.cli.output import (
    MAX_EXACT_INTEGER,
    as_json,
    devices_text,
    expiry_text,
    note,
    print_json,
    printable,
    time_text,
)
from jobs_grpc.cli.tables import Column, print_table

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands

_MAX_JOBS = 200
_MAX_EXECUTIONS = 5000

_JOBS = (
    Column("JOB"),
    Column("STATUS", leaves=1),
    Column("TYPE", leaves=5, least=6),
    Column("TARGET", leaves=6, least=12),
    Column("DEVICES", leaves=2, number=True),
    Column("DONE", leaves=4, number=True),
    Column("FAILED", leaves=3, number=True),
    Column("CREATED", leaves=7),
)
_EXECUTIONS = (
    Column("DEVICE"),
    Column("STATUS", leaves=1),
    Column("UPDATED", leaves=4),
    Column("STARTED", leaves=5),
    Column("ATTEMPT", leaves=3, number=True),
    Column("DETAILS", leaves=2, least=20, folds=True),
)


def add_commands(commands: "Commands") -> None:
    """Add `create`, `list` and `get`."""
    create = add_client_command(commands, "create", _create, "create a job")
    create.add_argument(
        "--type", type=arguments.text, required=True, help="what to do, e.g. reboot"
    )
    create.add_argument(
        "--params", default="{}", metavar="JSON", help="its parameters, or @FILE to read them"
    )
    target = create.add_mutually_exclusive_group(required=True)
    target.add_argument("--device", type=arguments.text, metavar="ID", help="on one device")
    target.add_argument(
        "--group", type=arguments.text, metavar="ID", help="on the members of a group"
    )
    target.add_argument("--all", action="store_true", help="on all devices")
    create.add_argument(
        "--job-id", type=arguments.text, metavar="ID", help="its identity [a UUID is made]"
    )
    expiry = create.add_mutually_exclusive_group()
    expiry.add_argument("--expires-in-hours", type=arguments.hours, metavar="N", help="1–720 [24]")
    expiry.add_argument("--never-expires", action="store_true")
    create.add_argument(
        "--in-progress-timeout",
        type=arguments.minutes,
        metavar="MINUTES",
        help="a device may be at work for, 1–10080 [no limit]",
    )

    list_ = add_client_command(commands, "list", _list, "list jobs, newest first")
    list_.add_argument("--status", choices=pb.Job.Status.keys()[1:], help="only such jobs")
    list_.add_argument(
        "--limit", type=arguments.limit, default=50, metavar="N", help="at most [50]"
    )

    get = add_client_command(commands, "get", _get, "show a job and where its devices stand")
    get.add_argument("job_id", type=arguments.text, metavar="JOB")
    get.add_argument(
        "--status", choices=pb.JobExecution.Status.keys()[1:], help="only such devices"
    )
    get.add_argument(
        "--limit", type=arguments.limit, default=20, metavar="N", help="devices at most [20]"
    )


def _create(args: argparse.Namespace) -> None:
    request = pb.CreateJobRequest(
        job_id=args.job_id or "",
        document_type=args.type,
        target_device_id=args.device,
        target_group_id=args.group,
        target_all=args.all or None,  # type: ignore[arg-type]  # unset, not false
        expires_in_hours=args.expires_in_hours,
        never_expires=args.never_expires,
        in_progress_timeout_minutes=args.in_progress_timeout,
    )
    try:
        request.document_params.update(_read_params(args.params))
        pb.CreateJobRequest.FromString(request.SerializeToString())
    except (RecursionError, EncodeError, DecodeError):
        raise Failed("--params: is nested too deeply", errors.USAGE) from None
    except ValueError as e:
        raise Failed(f"--params: {e}", errors.USAGE) from None
    with connected(args) as client:
        response: pb.CreateJobResponse = client.call("CreateJob", request)
    if args.json:
        print_json(response)
        return
    devices = devices_text(response.execution_count)
    expiry = expiry_text(response)
    print(f"created {printable(response.job_id)} for {devices}, expires: {expiry}")


def _list(args: argparse.Namespace) -> None:
    request = pb.ListJobsRequest(status=args.status)
    result = pb.ListJobsResponse()
    with connected(args) as client:
        while len(result.jobs) < args.limit:
            request.limit = min(args.limit - len(result.jobs), _MAX_JOBS)
            page: pb.ListJobsResponse = client.call("ListJobs", request)
            result.jobs.extend(page.jobs)
            result.next_page_token = request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if args.json:
        print_json(result)
        return
    if not result.jobs:
        note("there are no such jobs" if args.status else "there are no jobs")
    print_table(
        _JOBS,
        (
            (
                job.job_id,
                pb.Job.Status.Name(job.status),
                job.document_type,
                target_text(job),
                str(job.total_executions),
                str(job.succeeded_count),
                str(job.failed_count),
                time_text(job.created_at),
            )
            for job in result.jobs
        ),
    )
    if result.next_page_token:
        note(f"there are more than these {len(result.jobs)}: raise --limit")


def _get(args: argparse.Namespace) -> None:
    with connected(args) as client:
        request = pb.GetJobRequest(job_id=args.job_id, executions_limit=0)
        job: pb.Job = client.call("GetJob", request).job
        job.next_executions_page_token = ""
        page_request = pb.ListJobExecutionsRequest(job_id=args.job_id, status=args.status)
        while len(job.executions) < args.limit:
            page_request.limit = min(args.limit - len(job.executions), _MAX_EXECUTIONS)
            page: pb.ListJobExecutionsResponse = client.call("ListJobExecutions", page_request)
            job.executions.extend(page.executions)
            job.next_executions_page_token = page_request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if args.json:
        print_json(job)
        return
    for name, value in _facts(job):
        print(f"{name:<9} {printable(value)}")
    print()
    print_table(
        _EXECUTIONS,
        (
            (
                execution.device_id,
                pb.JobExecution.Status.Name(execution.status),
                time_text(execution.last_updated_at),
                time_text(execution.started_at) if execution.HasField("started_at") else "-",
                str(execution.execution_number),
                as_json(execution.status_details) if execution.HasField("status_details") else "-",
            )
            for execution in job.executions
        ),
    )
    if job.next_executions_page_token:
        note(f"there are more than these {len(job.executions)}: raise --limit")


def _facts(job: pb.Job) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "status", pb.Job.Status.Name(job.status)
    if job.HasField("cancel_reason"):
        yield "reason", job.cancel_reason
    yield "type", job.document_type
    yield "params", as_json(job.document_params)
    yield "target", target_text(job)
    yield "created", time_text(job.created_at) + (f" by {job.created_by}" if job.created_by else "")
    yield "expires", expiry_text(job)
    if job.HasField("in_progress_timeout_minutes"):
        yield "timeout", f"{job.in_progress_timeout_minutes} min IN_PROGRESS"
    states = [
        f"{getattr(job.execution_counts, field.name)} {field.name.upper()}"
        for field in job.execution_counts.DESCRIPTOR.fields
        if getattr(job.execution_counts, field.name)
    ]
    yield "devices", f"{job.total_executions}: {', '.join(states)}"


def target_text(job: pb.Job) -> str:
    """What a job was aimed at."""
    match job.WhichOneof("target"):
        case "target_device_id":
            return f"device {job.target_device_id}"
        case "target_group_id":
            return f"group {job.target_group_id}"
    return "all"


def _read_params(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as e:
            raise Failed(f"can't read {text[1:]}: {e.strerror}", errors.USAGE) from None
    params = json.loads(
        text, parse_int=_exact_integer, parse_float=_finite, parse_constant=_no_constant
    )
    if not isinstance(params, dict):
        raise ValueError("must be a JSON object")
    return params


def _exact_integer(text: str) -> int:
    # Looked at by length first: int() gives up on thousands of digits.
    if len(text) > 20 or abs(int(text)) > MAX_EXACT_INTEGER:
        raise ValueError(f"{_shortened(text)} is beyond ±2^53 and would be rounded; send a string")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_shortened(text)} is too large a number")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _shortened(text: str) -> str:
    return text if len(text) <= 30 else f"{text[:30]}…"
