"""`jobs-grpc list`: lists jobs."""

import argparse

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.formatting import format_target, is_active
from jobs_grpc.cli.listing import FORMATS, Column, add_listing_options, print_listing
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import JobsClient, job_priority_name, job_status_name

_COLUMNS: tuple[Column[pb.Job], ...] = (
    Column("job_id", "JOB"),
    Column("status", "STATUS", lambda job: job_status_name(job.status), drop_order=1),
    Column("document_type", "TYPE", drop_order=6, min_width=4),
    Column("target", "TARGET", format_target, drop_order=2, min_width=10),
    Column("total_executions", "DEVICES", drop_order=3, is_number=True),
    Column("queued", "QUEUED", lambda j: j.execution_counts.queued, wide=True, is_number=True),
    Column("held", "HELD", lambda j: j.execution_counts.held, wide=True, is_number=True),
    Column(
        "in_progress",
        "IN_PROGRESS",
        lambda job: job.execution_counts.in_progress,
        wide=True,
        is_number=True,
    ),
    Column("succeeded_count", "OK", drop_order=5, is_number=True),
    Column("failed_count", "NOT_OK", drop_order=4, is_number=True),
    Column("created_at", "CREATED", drop_order=7),
    Column("created_by", "BY", min_width=6, wide=True),
    Column("updated_at", "UPDATED", wide=True),
    Column(
        "expires_at",
        "EXPIRES",
        wide=True,
        text=lambda job: job.expires_at if is_active(job) and job.HasField("expires_at") else None,
    ),
    Column("start_at", "START", wide=True),
    Column(
        "priority",
        "PRIORITY",
        lambda job: job.priority and job_priority_name(job.priority),
        wide=True,
    ),
    Column("labels", "LABELS", wide=True),
    Column("description", "DESCRIPTION", wide=True),
)


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "list", _list_jobs, formats=FORMATS)
    parser.epilog = (
        "OK counts the executions that are SUCCEEDED; NOT_OK those that are FAILED, TIMED_OUT or "
        "REJECTED."
    )
    filters = parser.add_argument_group("filters", "Only jobs that match all filters are listed.")
    arguments.add_statuses(filters, pb.Job.Status.keys()[1:], "jobs with one of these statuses")
    helps = {
        "--type TYPE": "jobs with this document type",
        "--created-by USER": "jobs that this user created",
    }
    arguments.add_options(filters, helps, default="")
    helps = {
        "--target-device ID": "jobs that target this one device (`device ID` lists all jobs of a "
        "device)",
        "--target-group ID": "jobs that target this group",
        "--target-all": "jobs that target all devices",
    }
    arguments.add_options(filters.add_mutually_exclusive_group(), helps, default="")
    helps = {
        "--created-from TIME": "jobs created at or after this time, such as 2030-01-31T12:00:00Z, "
        "or 24h for the last day",
        "--created-until TIME": "jobs created before this time",
        "--awaiting-approval": "jobs with a stage that waits for an approval",
        "--where SELECTOR": "jobs whose labels match, such as 'team=pumps,wave in (1,2),!test'",
        "--id-prefix TEXT": "jobs whose ID starts with this text",
    }
    arguments.add_options(filters, helps, default="", TIME=arguments.moment)
    add_listing_options(parser, _COLUMNS, limit=50, noun="jobs")


async def _list_jobs(args: argparse.Namespace, jobs: JobsClient) -> None:
    """List jobs, newest first.

    jobs-grpc list --status PAUSED --where 'team=pumps,wave in (1,2)'
    jobs-grpc list -o csv --columns job_id,status,total_executions
    """
    pager = jobs.list(
        statuses=[pb.Job.Status.Value(name) for name in args.status],
        document_type=args.type,
        created_by=args.created_by,
        target_device_id=args.target_device,
        target_group_id=args.target_group,
        target_all=args.target_all,
        created_from=args.created_from,
        created_until=args.created_until,
        awaiting_approval=args.awaiting_approval,
        selector=args.where,
        job_id_prefix=args.id_prefix,
        page_token=args.page_token,
        limit=args.limit,
    )
    await print_listing(args, _COLUMNS, pager, key="jobs", noun="jobs", order="newest")
