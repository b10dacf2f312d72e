"""`jobs-grpc update`: changes the settings of a job."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.output import print_json
from jobs_grpc.cli.rollout_options import read_rollout_file
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `update`."""
    parser = add_client_command(
        commands, "update", _update, usage="JOB", summary="change the settings of a job"
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--rollout",
        type=arguments.text,
        metavar="FILE",
        help="read the rollout, the failure criteria or both from this YAML or JSON file",
    )
    parser.add_argument(
        "--max-in-progress",
        type=arguments.positive,
        metavar="N",
        help="let at most N devices have the job IN_PROGRESS at a time",
    )
    parser.add_argument(
        "--in-progress-timeout",
        type=arguments.timeout_minutes,
        metavar="MINUTES",
        help="minutes until an IN_PROGRESS execution times out; applies to later starts only",
    )
    parser.add_argument(
        "--etag",
        type=arguments.text,
        default="",
        metavar="ETAG",
        help="fail if the job has another etag (see get --json)",
    )


def _update(args: argparse.Namespace) -> None:
    request = pb.UpdateJobRequest(job_id=args.job_id, etag=args.etag)
    paths = request.update_mask.paths
    if args.rollout is not None:
        rollout, criteria = read_rollout_file(args.rollout)
        if rollout is not None:
            request.rollout.CopyFrom(rollout)
            paths.append("rollout.stages")
            # A file without the limit keeps the one of the job.
            if rollout.HasField("max_in_progress"):
                paths.append("rollout.max_in_progress")
        if criteria is not None:
            request.failure_criteria.extend(criteria)
            paths.append("failure_criteria")
    if args.max_in_progress is not None:
        request.rollout.max_in_progress = args.max_in_progress
        if "rollout.max_in_progress" not in paths:
            paths.append("rollout.max_in_progress")
    if args.in_progress_timeout is not None:
        request.in_progress_timeout_minutes = args.in_progress_timeout
        paths.append("in_progress_timeout_minutes")
    if not paths:
        raise CliError("nothing to change; see `jobs-grpc update --help`", ExitCode.USAGE)
    with connect(args) as connection:
        response: pb.UpdateJobResponse = connection.call("UpdateJob", request)
    if args.json:
        print_json(response)
        return
    print(f"updated {escape_unprintable(response.job.job_id)}: {', '.join(paths)}")
