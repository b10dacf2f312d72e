"""Tells whether a call has changed a job.

A call that is safe to repeat also succeeds if it changes nothing, with the same response.
"""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsClient, errors


async def read_before(args: argparse.Namespace, jobs: JobsClient) -> pb.Job | None:
    """Return the job before the call; None if it does not exist, or for output without text."""
    if args.output != "text" or not args.job_id:
        return None
    try:
        return await jobs.get(args.job_id)
    except errors.JobNotFound:
        return None


def is_unchanged(job: pb.Job, before: pb.Job | None) -> bool:
    """Return whether no call has changed the job since it was read."""
    return before is not None and job.etag == before.etag
