"""`jobs-grpc update`: changes the settings of a job."""

import argparse
from datetime import UTC, datetime, timedelta

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.fields import ETAG, JOB, add_fields
from jobs_grpc.cli.formatting import format_expiry
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.rollout_options import read_rollout_file
from jobs_grpc.cli.schedule import add_schedule, add_schedule_options
from jobs_grpc.client import JobsClient


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "update JOB", _update)
    add_fields(parser, pb.UpdateJobRequest, JOB)
    rollout_help = (
        "read the rollout, the failure criteria, the windows and the retries from this YAML or "
        "JSON file"
    )
    arguments.add_options(parser, {"--rollout FILE": rollout_help})
    arguments.add_max_in_progress(parser)
    expiry = {
        "--expires-in-hours N": "let the job expire in N hours from now, 1–8784",
        "--never-expires": "do not let the job expire",
        "--expires-at TIME": "let the job expire at this time, such as 2030-01-31T12:00:00Z",
    }
    arguments.add_options(
        parser.add_mutually_exclusive_group(),
        expiry,
        N=arguments.new_expiry_hours,
        TIME=arguments.time,
    )
    timeout_help = "minutes until an IN_PROGRESS execution times out; applies to later starts only"
    arguments.add_options(
        parser, {"--in-progress-timeout MINUTES": timeout_help}, MINUTES=arguments.timeout_minutes
    )
    labels = parser.add_mutually_exclusive_group()
    arguments.add_labels(labels, "replace all labels; can be repeated")
    labels.add_argument("--no-labels", action="store_true", help="remove all labels")
    arguments.add_options(parser, {"--description TEXT": "new description of the job"})
    add_schedule_options(parser, updates=True)
    add_fields(parser, pb.UpdateJobRequest, ETAG)


async def _update(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Change the settings of a job.

    jobs-grpc update update-1 --max-in-progress 200
    jobs-grpc update update-1 --start-at 'tomorrow 02:00 Europe/Berlin'
    """
    planned = read_rollout_file(args.rollout) if args.rollout is not None else {}
    fields = add_schedule(planned, args)
    paths = [name for name in fields if name != "rollout"]
    has_rollout, rollout = "rollout" in fields, fields.pop("rollout", pb.Rollout())
    if has_rollout:
        paths.append("rollout.stages")
        # A file without the limit keeps the one of the job.
        if rollout.HasField("max_in_progress"):
            paths.append("rollout.max_in_progress")
    if args.max_in_progress is not None:
        rollout.max_in_progress = args.max_in_progress
        if "rollout.max_in_progress" not in paths:
            paths.append("rollout.max_in_progress")
    if args.in_progress_timeout is not None:
        paths.append("in_progress_timeout_minutes")
    expires_at = args.expires_at
    if args.expires_in_hours is not None:
        expires_at = datetime.now(UTC) + timedelta(hours=args.expires_in_hours)
    if expires_at is not None or args.never_expires:
        paths.append("expires_at")
    if args.labels or args.no_labels:
        paths.append("labels")
    if args.description is not None:
        paths.append("description")
    if not paths:
        raise InvalidInput("nothing to change; see `jobs-grpc update --help`")
    job = await jobs.update(
        args.job_id,
        paths,
        in_progress_timeout_minutes=args.in_progress_timeout,
        rollout=rollout if any(path.startswith("rollout.") for path in paths) else None,
        expires_at=expires_at,
        labels=arguments.read_labels(args),
        description=args.description or "",
        etag=args.etag,
        **fields,
    )
    # A new start moves the expiry.
    has_new_expiry = not {"expires_at", "start_at"}.isdisjoint(paths)
    expiry = f", expires: {format_expiry(job, args.utc)}" if has_new_expiry else ""
    print_result(args, job, f"updated {job.job_id}: {', '.join(paths)}{expiry}")
