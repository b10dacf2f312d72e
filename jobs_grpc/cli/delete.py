"""`jobs-grpc delete`: deletes finished jobs."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.several_jobs import add_jobs, confirm, for_each_job
from jobs_grpc.client import JobsClient


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "delete JOB [JOB ...]", _delete)
    add_jobs(parser)


async def _delete(args: argparse.Namespace, jobs: JobsClient) -> None:
    """Delete finished jobs.

    jobs-grpc delete reboot-1 reboot-2
    jobs-grpc delete update-1 --yes
    """
    await confirm(args, jobs, "delete")
    await for_each_job(args, lambda job_id: _delete_job(args, jobs, job_id))


async def _delete_job(args: argparse.Namespace, jobs: JobsClient, job_id: str) -> None:
    await jobs.delete(job_id, etag=args.etag)
    print_result(args, pb.DeleteJobResponse(), f"deleted {job_id}")
