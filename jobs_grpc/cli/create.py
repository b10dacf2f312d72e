"""`jobs-grpc create`: creates a job."""

import argparse
import json
import uuid
from collections.abc import Iterator
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import LOST_RESPONSE, ask, can_ask, explaining_failures, read_before
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import CliError, InvalidInput
from jobs_grpc.cli.fields import EXPIRY, Fields, add_fields, forwarded
from jobs_grpc.cli.files import read_text
from jobs_grpc.cli.formatting import (
    format_counts,
    format_creation,
    format_device_count,
    format_expiry,
    format_moment,
    format_replaced_devices,
)
from jobs_grpc.cli.output import print_note, print_result
from jobs_grpc.cli.rollout_options import (
    add_rollout_options,
    in_option_words,
    read_rollout_options,
)
from jobs_grpc.cli.schedule import add_schedule, add_schedule_options
from jobs_grpc.cli.targets import add_target, preview_lines, read_target
from jobs_grpc.client import JobsClient, errors, job_status_name
from jobs_grpc.client.requests import params_struct
from jobs_grpc.contract.document_depth import MAX_DOCUMENT_LEVELS

_FIELDS: Fields = {
    "--type TYPE": ("document_type", "document type, such as reboot"),
    "--job-id ID": (
        "job_id",
        "ID of the job; makes it safe to repeat the command (default: a new UUID)",
    ),
    "--in-progress-timeout MINUTES": "in_progress_timeout_minutes",
    "--description TEXT": "description",
    "--require-start-approval": (
        "require_start_approval",
        "no device starts before another user approves (see `approve`)",
    ),
    "--execution-events": (
        "execution_events",
        "also add events of attempts that end, not only of the job (see `events`)",
    ),
    "--replaces JOB": (
        "replaces_job_id",
        "cancel JOB when the new job is created; --preview shows how many devices wait, and in "
        "which stage",
    ),
    "--continuous": (
        "continuous",
        "devices that match the target later join the job; without an expiry, it never expires",
    ),
    "--max-joins-per-hour N": (
        "max_joins_per_hour",
        "with --continuous, pause the job if more than N devices match in an hour (default: 100, "
        "or 5% of its devices if that is more)",
    ),
    "--validate-only": (
        "validate_only",
        "check the request and show the devices and the stages, but create nothing",
    ),
    "--expected-target-digest DIGEST": (
        "expected_target_digest",
        "fail if the target has another digest now (see `preview`)",
    ),
}
_EXPIRES_IN_HOURS = (
    "expires_in_hours",
    "hours from the start of the job until it expires, {} (default: 24, plus the time that the "
    "rollout takes if every device succeeds at once)".format(
        arguments.range_text(pb.CreateJobRequest, "expires_in_hours")
    ),
)


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "create --type TYPE TARGET", _create)
    params_help = "document parameters; @FILE reads them from a file (default: {})"
    parser.add_argument("--params", default="{}", metavar="JSON", help=params_help)
    add_fields(parser, pb.CreateJobRequest, _FIELDS)
    parser.set_defaults(job_id=None)
    expiry = {**EXPIRY, "--expires-in-hours N": _EXPIRES_IN_HOURS}
    add_fields(parser.add_mutually_exclusive_group(), pb.CreateJobRequest, expiry)
    arguments.add_labels(parser, "label of the job, such as team=pumps; can be repeated")
    preview_help = (
        "show the devices and the stages, ask for confirmation, and create the job only if they "
        "have not changed"
    )
    arguments.add_options(parser, {"--preview": preview_help})
    arguments.add_yes(parser, "with --preview: do not ask for confirmation")
    add_target(parser)
    add_schedule_options(parser)
    add_rollout_options(parser)


async def _create(args: argparse.Namespace, jobs: JobsClient) -> None:
    r"""Create a job and queue an execution for each targeted device.

    jobs-grpc create --type reboot --group north --job-id reboot-1
    jobs-grpc create --type update --all --params '{"version": "2.1"}' \
      --stage 5% --stage rest --min-succeeded 90 --pause-at 10%
    """
    if args.job_id == "":
        # An unset variable of a shell must not make each repetition create another job.
        raise InvalidInput("--job-id is empty")
    planned = add_schedule(read_rollout_options(args), args)
    request: dict[str, Any] = {
        **forwarded(args, pb.CreateJobRequest),
        "document_params": _read_params(args.params),
        **read_target(args),
        "job_id": args.job_id or str(uuid.uuid4()),
        "priority": args.priority.upper(),
        "labels": arguments.read_labels(args),
        **planned,
    }
    before = await read_before(args, jobs)
    try:
        if args.preview and before is None:
            request["expected_target_digest"] = await _preview(args, jobs, request)
        advice = (
            f"to repeat the command without creating a second job, add --job-id {request['job_id']}"
        )
        is_safe = args.job_id or args.validate_only
        with explaining_failures(args, lambda: "" if is_safe else advice, LOST_RESPONSE):
            created = await jobs.create(**request)
    except errors.InvalidField as e:
        if args.stages:
            e.message = in_option_words(e.message)
        raise
    job_id = created.job_id
    if before is None:
        devices = format_device_count(created.execution_count)
        verb = "would create" if args.validate_only else "created"
        lines = [f"{verb} {job_id} for {devices}, {_times(created, planned, args.utc)}"]
        if args.replaces_job_id and not args.validate_only:
            lines.append(f"{job_id} replaces {args.replaces_job_id}")
    else:
        creation = format_creation(before, args.utc)
        counts = format_counts(before.execution_counts, before.status)
        lines = [
            f"{job_id} already exists: the same request created it {creation}",
            f"{job_id} is {job_status_name(before.status)}: {counts}",
        ]
    if args.validate_only and before is None:
        lines += _plan_lines(created, request)
    print_result(args, created, *lines)


def _times(created: pb.CreateJobResponse, planned: dict[str, Any], utc: bool) -> str:
    expiry = f"expires: {format_expiry(created, utc)}"
    if created.status == pb.Job.PAUSED:
        return f"starts: after its approval, {expiry}"
    if created.status != pb.Job.SCHEDULED:
        return f"starts: now, {expiry}" if "start_at" in planned else expiry
    start = Timestamp()
    start.FromDatetime(planned["start_at"])
    return f"starts: {format_moment(start, utc)}, {expiry}"


async def _preview(args: argparse.Namespace, jobs: JobsClient, request: dict[str, Any]) -> str:
    """Show the devices and the stages, and ask. Return their digest; after "no" raise CliError."""
    if not (args.yes or can_ask()):
        raise InvalidInput("--preview needs a terminal to ask for confirmation; add --yes")
    planned = await jobs.create(**request | {"validate_only": True})
    print_note(*_plan_lines(planned, request))
    if not args.yes and not await ask("create the job?"):
        raise CliError("nothing was created; to create without this question, add --yes")
    return planned.preview.target_digest


def _plan_lines(planned: pb.CreateJobResponse, request: dict[str, Any]) -> Iterator[str]:
    """Yield the devices, the stages and the forecast that validate_only returned."""
    yield from preview_lines(planned.preview, request.get("rollout"))
    if replaced := request.get("replaces_job_id"):
        yield f"replaces {replaced}{format_replaced_devices(planned.preview)}"
    if planned.forecast.stages:
        yield planned.forecast.summary


def _read_params(text: str) -> dict[str, Any]:
    """Read the parameters, and check that a Struct can hold them."""
    if text.startswith("@"):
        text = read_text(text[1:])
    try:
        # int() refuses thousands of digits; params_struct refuses 20 with the path.
        params = json.loads(text, parse_int=lambda digits: int(digits[:20]))
        if not isinstance(params, dict):
            raise ValueError("must be a JSON object")
        # Parse them as the server does: protobuf limits the nesting depth.
        pb.CreateJobRequest.FromString(
            pb.CreateJobRequest(document_params=params_struct(params)).SerializeToString()
        )
    except (RecursionError, EncodeError, DecodeError):
        raise InvalidInput(f"--params: nested deeper than {MAX_DOCUMENT_LEVELS} levels") from None
    except UnicodeEncodeError:
        raise InvalidInput("--params: must be UTF-8") from None
    except json.JSONDecodeError as e:
        raise InvalidInput(f"--params: not valid JSON: {e}") from None
    except ValueError as e:
        raise InvalidInput(f"--params: {e}") from None
    return params
