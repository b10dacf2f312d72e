"""`jobs-grpc advance` and `jobs-grpc approve`: open the next stage of a rollout."""

import argparse
from typing import TYPE_CHECKING

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.connection import add_client_command, connect
from jobs_grpc.cli.output import print_json
from jobs_grpc.cli.stages import stage_lines
from jobs_grpc.text import escape_unprintable

if TYPE_CHECKING:
    from jobs_grpc.cli.arguments import Subparsers


def add_command(commands: "Subparsers") -> None:
    """Add `advance` and `approve`."""
    parser = add_client_command(
        commands,
        "advance",
        _advance,
        usage="JOB",
        summary="open the next stage of a rollout now",
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "--stage",
        type=arguments.stage_index,
        metavar="N",
        help="number of the stage to open; makes the command safe to repeat (default: the next)",
    )
    parser = add_client_command(
        commands,
        "approve",
        _approve,
        usage="JOB STAGE",
        summary="approve the open stage, so that the next one can open",
    )
    parser.add_argument("job_id", type=arguments.text, metavar="JOB", help="id of the job")
    parser.add_argument(
        "stage", type=arguments.stage_index, metavar="STAGE", help="number of the stage, from 0"
    )
    parser.add_argument(
        "--comment",
        type=arguments.text,
        default="",
        metavar="TEXT",
        help="comment to store, at most 200 characters",
    )


def _advance(args: argparse.Namespace) -> None:
    request = pb.AdvanceJobRequest(job_id=args.job_id, stage=args.stage)
    with connect(args) as connection:
        response: pb.AdvanceJobResponse = connection.call("AdvanceJob", request)
    if args.json:
        print_json(response)
        return
    print(f"advanced {escape_unprintable(response.job.job_id)}:")
    print("\n".join(stage_lines(response.job)))


def _approve(args: argparse.Namespace) -> None:
    request = pb.ApproveStageRequest(job_id=args.job_id, stage=args.stage, comment=args.comment)
    with connect(args) as connection:
        response: pb.ApproveStageResponse = connection.call("ApproveStage", request)
    if args.json:
        print_json(response)
        return
    print(f"approved stage {args.stage} of {escape_unprintable(response.job.job_id)}:")
    print("\n".join(stage_lines(response.job)))
