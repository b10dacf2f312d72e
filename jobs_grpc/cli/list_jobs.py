"""`jobs-grpc list` and `groups`: list jobs, and groups of devices."""

import argparse

from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.fields import Fields, add_fields, forwarded
from jobs_grpc.cli.formatting import format_target, is_active
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.tables import Column
from jobs_grpc.client import FleetClient, JobsClient, job_priority_name, job_status_name


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "list", _list_jobs, formats=FORMATS)
    filters = parser.add_argument_group("filters", "Only jobs that match all filters are listed.")
    add_fields(filters, pb.ListJobsRequest, _FILTERS, time=arguments.moment)
    add_fields(filters.add_mutually_exclusive_group(), pb.ListJobsRequest, _TARGETS)
    _JOBS.add_options(parser, limit=50)
    request, fields = fleet_pb.ListGroupsRequest, {"--id-prefix TEXT": "group_id_prefix"}
    parser = add_client_command(commands, "groups", _groups, request, fields, formats=FORMATS)
    _GROUPS.add_options(parser, limit=50)


def _expiry(job: pb.Job) -> object:
    return job.expires_at if is_active(job) and job.HasField("expires_at") else None


def _count(status: str) -> Column[pb.Job]:
    return Column(
        status, read=lambda job: getattr(job.execution_counts, status), wide=True, is_number=True
    )


_JOBS = Listing[pb.Job](
    "jobs",
    (
        Column("job_id", "JOB"),
        Column("status", read=lambda job: job_status_name(job.status), drop_order=1),
        Column("document_type", "TYPE", drop_order=6, min_width=4),
        Column("target", read=format_target, drop_order=2, min_width=10),
        Column("total_executions", "DEVICES", drop_order=3, is_number=True),
        _count("queued"),
        _count("held"),
        _count("in_progress"),
        Column("succeeded_count", "OK", drop_order=5, is_number=True),
        Column("failed_count", "NOT_OK", drop_order=4, is_number=True),
        Column("created_at", "CREATED", drop_order=7),
        Column("created_by", "BY", min_width=6, wide=True),
        Column("updated_at", "UPDATED", wide=True),
        Column("expires_at", "EXPIRES", wide=True, text=_expiry),
        Column("start_at", "START", wide=True),
        Column("priority", read=lambda j: j.priority and job_priority_name(j.priority), wide=True),
        Column("labels", wide=True),
        Column("description", wide=True),
    ),
    first_page_word="newest",
)

_TARGETS: Fields = {
    "--target-device ID": (
        "target_device_id",
        "jobs that target this one device (`device ID` lists all jobs of a device)",
    ),
    "--target-group ID": ("target_group_id", "jobs that target this group"),
    "--target-all": ("target_all", "jobs that target all devices"),
}
_FILTERS: Fields = {
    "--status STATUS": ("statuses", "jobs with one of these statuses"),
    "--type TYPE": "document_type",
    "--created-by USER": ("created_by", "only jobs that this user created"),
    "--created-from TIME": (
        "created_from",
        "jobs created at or after this time, such as 2030-01-31T12:00:00Z, or 24h for the last day",
    ),
    "--created-until TIME": ("created_until", "jobs created before this time"),
    "--awaiting-approval": "awaiting_approval",
    "--where SELECTOR": "selector",
    "--id-prefix TEXT": "job_id_prefix",
}


async def _list_jobs(args: argparse.Namespace, jobs: JobsClient) -> None:
    """List jobs, newest first.

    OK counts executions that are SUCCEEDED; NOT_OK those that are FAILED, TIMED_OUT or REJECTED.

    jobs-grpc list --status PAUSED --where 'team=pumps,wave in (1,2)'
    jobs-grpc list -o csv --columns job_id,status,total_executions
    """
    await _JOBS.print_pages(args, jobs.list(**forwarded(args)))


# The server counts no further: 10,001 means more than 10,000.
_MAX_COUNT = 10_000


def _device_count(group: fleet_pb.Group) -> object:
    return f"{_MAX_COUNT:,}+" if group.device_count > _MAX_COUNT else group.device_count


_GROUPS = Listing[fleet_pb.Group](
    "groups",
    (
        Column("group_id", "GROUP"),
        Column("device_count", "DEVICES", is_number=True, text=_device_count),
    ),
)


async def _groups(args: argparse.Namespace, fleet: FleetClient) -> None:
    """List groups with the number of their devices, in the order of their IDs.

    10,000+ is more than 10,000; in CSV and JSON it is 10001.

    jobs-grpc groups
    jobs-grpc groups --id-prefix site- -o csv
    """
    await _GROUPS.print_pages(args, fleet.groups(**forwarded(args)))
