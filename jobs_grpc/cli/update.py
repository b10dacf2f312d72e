"""`jobs-grpc update`: changes the settings of a job."""

import argparse
from datetime import UTC, datetime, timedelta

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.fields import ETAG, Fields, add_fields, forwarded
from jobs_grpc.cli.formatting import format_expiry
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.rollout_options import add_max_in_progress, read_rollout_file
from jobs_grpc.cli.schedule import add_schedule, add_schedule_options
from jobs_grpc.client import JobsClient

_EXPIRES_AT = ("expires_at", "let the job expire at this time, such as 2030-01-31T12:00:00Z")
_FIELDS: Fields = {
    "--in-progress-timeout MINUTES": (
        "in_progress_timeout_minutes",
        "minutes until an IN_PROGRESS execution times out; applies to later starts only",
    ),
    "--description TEXT": ("description", "new description of the job"),
    "--max-joins-per-hour N": (
        "max_joins_per_hour",
        "pause the continuous job if more than N devices match in an hour",
    ),
    **ETAG,
}


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "update JOB", _update, pb.GetJobRequest)
    rollout_help = (
        "read the rollout, the failure criteria, the windows and the retries from this YAML or "
        "JSON file"
    )
    arguments.add_options(parser, {"--rollout FILE": rollout_help})
    add_max_in_progress(parser)
    expiry = parser.add_mutually_exclusive_group()
    helps = {
        "--expires-in-hours N": "let the job expire in N hours from now, 1–8784",
        "--never-expires": "do not let the job expire",
    }
    arguments.add_options(expiry, helps, N=arguments.new_expiry_hours)
    add_fields(expiry, pb.UpdateJobRequest, {"--expires-at TIME": _EXPIRES_AT})
    labels = parser.add_mutually_exclusive_group()
    arguments.add_labels(labels, "replace all labels; can be repeated")
    arguments.add_options(labels, {"--no-labels": "remove all labels"})
    add_fields(parser, pb.UpdateJobRequest, _FIELDS)
    parser.set_defaults(description=None)  # so that an empty one removes the description
    no_continuous = "let no more devices join; the job completes when no execution is pending"
    arguments.add_options(parser, {"--no-continuous": no_continuous})
    add_schedule_options(parser, updates=True)


async def _update(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Change the settings of a job.

    jobs-grpc update update-1 --max-in-progress 200
    jobs-grpc update update-1 --start-at 'tomorrow 02:00 Europe/Berlin'
    """
    planned = read_rollout_file(args.rollout) if args.rollout is not None else {}
    fields = add_schedule(planned, args)
    if args.labels or args.no_labels:
        fields["labels"] = arguments.read_labels(args)
    if args.no_continuous:
        fields["continuous"] = False
    if args.expires_in_hours is not None:
        fields["expires_at"] = datetime.now(UTC) + timedelta(hours=args.expires_in_hours)
    if args.never_expires:
        fields["expires_at"] = None
    given = forwarded(args, pb.UpdateJobRequest).items()
    fields |= {name: value for name, value in given if value is not None}
    etag, has_stages = fields.pop("etag"), "rollout" in fields
    if args.max_in_progress is not None:
        fields.setdefault("rollout", pb.Rollout()).max_in_progress = args.max_in_progress
    paths = [name for name in fields if name != "rollout"] + ["rollout.stages"] * has_stages
    # A file without the limit keeps the one of the job.
    if "rollout" in fields and fields["rollout"].HasField("max_in_progress"):
        paths.append("rollout.max_in_progress")
    if not paths:
        raise InvalidInput("nothing to change; see `jobs-grpc update --help`")
    job = await jobs.update(args.job_id, paths, **fields, etag=etag)
    # A new start moves the expiry.
    has_new_expiry = not {"expires_at", "start_at"}.isdisjoint(paths)
    expiry = f", expires: {format_expiry(job, args.utc)}" if has_new_expiry else ""
    print_result(args, job, f"updated {job.job_id}: {', '.join(paths)}{expiry}")
