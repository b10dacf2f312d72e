"""`jobs-grpc create`, `list`, `get`, `cancel`: calls to a running server."""

import argparse
import getpass
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli import arguments, failures
from jobs_grpc.cli.failures import Failed
from jobs_grpc.cli.output import print_table, printable
from jobs_grpc.config import DEFAULT_ADDRESS
from jobs_grpc.principal import IDENTIFIER_RULE, is_identifier

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands

_MAX_JOBS = 200
_MAX_EXECUTIONS = 5000

# The numbers of a Struct are doubles: beyond it they no longer tell neighbours apart.
_MAX_EXACT_INTEGER = 2**53


def add_commands(commands: "Commands") -> None:
    """Add the client commands."""
    create = _add(commands, "create", _create, "create a job")
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

    list_ = _add(commands, "list", _list, "list jobs, newest first")
    list_.add_argument("--status", choices=pb.Job.Status.keys()[1:], help="only such jobs")
    list_.add_argument(
        "--limit", type=arguments.limit, default=50, metavar="N", help="at most [50]"
    )

    get = _add(commands, "get", _get, "show a job and where its devices stand")
    get.add_argument("job_id", type=arguments.text, metavar="JOB")
    get.add_argument(
        "--status", choices=pb.JobExecution.Status.keys()[1:], help="only such devices"
    )
    get.add_argument(
        "--limit", type=arguments.limit, default=20, metavar="N", help="devices at most [20]"
    )

    cancel = _add(commands, "cancel", _cancel, "cancel a job")
    cancel.add_argument("job_id", type=arguments.text, metavar="JOB")
    cancel.add_argument(
        "--reason", type=arguments.text, default="", help="why [canceled by operator]"
    )


def _add(commands: "Commands", name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    environ = os.environ.get
    tenant = environ("JOBS_TENANT")
    parser.add_argument(
        "--tenant", default=tenant, required=not tenant, help="for whom to act [JOBS_TENANT]"
    )
    parser.add_argument(
        "--user", default=environ("JOBS_USER"), help="who acts [JOBS_USER, or the login name]"
    )
    parser.add_argument(
        "--server",
        type=arguments.server,
        default=environ("JOBS_SERVER") or DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"or unix:PATH [JOBS_SERVER, or {DEFAULT_ADDRESS}]",
    )
    parser.add_argument(
        "--timeout",
        type=arguments.timeout,
        default=60.0,
        metavar="SECONDS",
        help="a call at most [60]",
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class _Client:
    """JobService with the caller's metadata and timeout in every call."""

    stub: "jobs_pb2_grpc.JobServiceStub"
    with_caller: dict[str, Any]

    def call(self, method: str, request: Message) -> Any:
        return getattr(self.stub, method)(request, **self.with_caller)


@contextmanager
def _connected(args: argparse.Namespace) -> Iterator[_Client]:
    metadata = [("x-tenant-id", args.tenant)]
    if user := args.user or _login_name():
        metadata.append(("x-user-id", user))
    for key, value in metadata:
        if not is_identifier(value):
            raise Failed(f"{key} {IDENTIFIER_RULE}", failures.USAGE)
    with grpc.insecure_channel(args.server) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        yield _Client(stub, {"metadata": metadata, "timeout": args.timeout})


def _login_name() -> str | None:
    """The name to act under if none was given; an account may have none, or an unfit one."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None
    return name if is_identifier(name) else None


def _create(args: argparse.Namespace) -> None:
    request = pb.CreateJobRequest(
        job_id=args.job_id or "",
        document_type=args.type,
        target_device_id=args.device,
        target_group_id=args.group,
        target_all=args.all or None,  # type: ignore[arg-type]  # unset, not false
        expires_in_hours=args.expires_in_hours,
        never_expires=args.never_expires,
    )
    try:
        request.document_params.update(_read_params(args.params))
        pb.CreateJobRequest.FromString(request.SerializeToString())
    except (RecursionError, EncodeError, DecodeError):
        raise Failed("--params: is nested too deeply", failures.USAGE) from None
    except ValueError as e:
        raise Failed(f"--params: {e}", failures.USAGE) from None
    with _connected(args) as client:
        response: pb.CreateJobResponse = client.call("CreateJob", request)
    if args.json:
        _print_json(response)
        return
    count = response.execution_count
    expiry = _time(response.expires_at) if response.HasField("expires_at") else "never"
    devices = f"{count} device" if count == 1 else f"{count} devices"
    print(f"created {printable(response.job_id)} for {devices}, expires: {expiry}")


def _list(args: argparse.Namespace) -> None:
    request = pb.ListJobsRequest(status=args.status)
    result = pb.ListJobsResponse()
    with _connected(args) as client:
        while len(result.jobs) < args.limit:
            request.limit = min(args.limit - len(result.jobs), _MAX_JOBS)
            page: pb.ListJobsResponse = client.call("ListJobs", request)
            result.jobs.extend(page.jobs)
            result.next_page_token = request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if args.json:
        _print_json(result)
        return
    print_table(
        ("JOB", "STATUS", "TYPE", "TARGET", "DEVICES", "DONE", "FAILED", "CREATED"),
        (
            (
                job.job_id,
                pb.Job.Status.Name(job.status),
                job.document_type,
                _target(job),
                str(job.total_executions),
                str(job.succeeded_count),
                str(job.failed_count),
                _time(job.created_at),
            )
            for job in result.jobs
        ),
    )
    if result.next_page_token:
        _note(f"there are more than these {len(result.jobs)}: raise --limit")


def _get(args: argparse.Namespace) -> None:
    with _connected(args) as client:
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
        _print_json(job)
        return
    for name, value in _facts(job):
        print(f"{name:<9} {printable(value)}")
    print()
    print_table(
        ("DEVICE", "STATUS", "UPDATED", "STARTED", "ATTEMPT", "DETAILS"),
        (
            (
                execution.device_id,
                pb.JobExecution.Status.Name(execution.status),
                _time(execution.last_updated_at),
                _time(execution.started_at) if execution.HasField("started_at") else "-",
                str(execution.execution_number),
                _json(execution.status_details) if execution.HasField("status_details") else "-",
            )
            for execution in job.executions
        ),
    )
    if job.next_executions_page_token:
        _note(f"there are more than these {len(job.executions)}: raise --limit")


def _cancel(args: argparse.Namespace) -> None:
    request = pb.CancelJobRequest(job_id=args.job_id, reason=args.reason)
    with _connected(args) as client:
        response: pb.CancelJobResponse = client.call("CancelJob", request)
    if args.json:
        _print_json(response)
    else:
        print(f"canceled {printable(response.job_id)}")


def _facts(job: pb.Job) -> Iterator[tuple[str, str]]:
    yield "job", job.job_id
    yield "status", pb.Job.Status.Name(job.status)
    if job.HasField("cancel_reason"):
        yield "reason", job.cancel_reason
    yield "type", job.document_type
    yield "params", _json(job.document_params)
    yield "target", _target(job)
    yield "created", _time(job.created_at) + (f" by {job.created_by}" if job.created_by else "")
    yield "expires", _time(job.expires_at) if job.HasField("expires_at") else "never"
    states = [
        f"{getattr(job.execution_counts, field.name)} {field.name.upper()}"
        for field in job.execution_counts.DESCRIPTOR.fields
        if getattr(job.execution_counts, field.name)
    ]
    yield "devices", f"{job.total_executions}: {', '.join(states)}"


def _target(job: pb.Job) -> str:
    match job.WhichOneof("target"):
        case "target_device_id":
            return f"device {job.target_device_id}"
        case "target_group_id":
            return f"group {job.target_group_id}"
    return "all"


def _time(moment: Timestamp) -> str:
    return datetime.fromtimestamp(moment.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _json(message: Message) -> str:
    return json.dumps(_whole(json_format.MessageToDict(message)), ensure_ascii=False)


def _print_json(message: Message) -> None:
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    # Escapes of our own would not be JSON's.
    ascii_only = sys.stdout.encoding != "utf-8"
    print(json.dumps(_whole(fields), ensure_ascii=ascii_only, indent=2))


def _whole(value: Any) -> Any:
    """The same with 5 for 5.0: protobuf's JSON makes every number of a Struct a float."""
    match value:
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer() and abs(value) <= _MAX_EXACT_INTEGER:
            return int(value)
    return value


def _note(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr)


def _read_params(text: str) -> dict[str, Any]:
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as e:
            raise Failed(f"can't read {text[1:]}: {e.strerror}", failures.USAGE) from None
    params = json.loads(
        text, parse_int=_exact_integer, parse_float=_finite, parse_constant=_no_constant
    )
    if not isinstance(params, dict):
        raise ValueError("must be a JSON object")
    return params


def _exact_integer(text: str) -> int:
    # Looked at by length first: int() gives up on thousands of digits.
    if len(text) > 20 or abs(int(text)) > _MAX_EXACT_INTEGER:
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
