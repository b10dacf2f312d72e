"""`jobs-grpc advance` and `jobs-grpc approve`: open the next stage of a rollout."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import is_unchanged, read_before
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.stages import stage_lines
from jobs_grpc.client import JobsClient
from jobs_grpc.contract.field_rules import rules_of


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "advance JOB", _advance)
    arguments.add_job(parser)
    help_text = "number of the stage to open; makes the command safe to repeat (default: the next)"
    arguments.add_options(parser, {"--stage N": help_text}, N=arguments.stage_index)
    arguments.add_etag(parser)
    parser = add_client_command(commands, "approve JOB [STAGE]", _approve)
    arguments.add_job(parser)
    parser.add_argument(
        "stage",
        nargs="?",
        type=arguments.stage_index,
        metavar="STAGE",
        help="number of the open stage, from 0; makes the command safe to repeat (default: the "
        "stage that waits for an approval)",
    )
    length = rules_of(pb.ApproveStageRequest, "comment").string.max_len
    help_text = f"comment to store, at most {length} characters"
    arguments.add_options(parser, {"--comment TEXT": help_text}, default="")
    arguments.add_etag(parser)


async def _advance(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Open the next stage of a rollout now.

    jobs-grpc advance update-1
    jobs-grpc advance update-1 --stage 1
    """
    before = await read_before(args, jobs)
    job = await jobs.advance(args.job_id, stage=args.stage, etag=args.etag)
    if is_unchanged(job, before):
        _print_stages(
            args, job, f"stage {args.stage} of {job.job_id} was opened before, so nothing changed"
        )
    else:
        _print_stages(args, job, f"advanced {job.job_id}")


async def _approve(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Approve the open stage, so that the next one can open.

    jobs-grpc approve update-1
    jobs-grpc approve update-1 0 --comment 'canary looks good'
    """
    before = await read_before(args, jobs)
    if args.stage is None:
        # The request names the stage, so that it never approves one that waits later.
        args.stage = _waiting_stage(before or await jobs.get(args.job_id))
    job = await jobs.approve(args.job_id, args.stage, comment=args.comment, etag=args.etag)
    if is_unchanged(job, before):
        _print_stages(
            args, job, f"stage {args.stage} of {job.job_id} was approved before, so nothing changed"
        )
    else:
        _print_stages(args, job, f"approved stage {args.stage} of {job.job_id}")


def _waiting_stage(job: pb.Job) -> int:
    for index, stage in enumerate(job.stages):
        if stage.awaiting_approval:
            return index
    raise CliError(
        f"no stage of {job.job_id} waits for an approval; to approve the open stage in advance,"
        " name it",
        ExitCode.WRONG_STATE,
    )


def _print_stages(args: argparse.Namespace, job: pb.Job, done: str) -> None:
    print_result(args, job, f"{done}:", *stage_lines(job, args.utc))
