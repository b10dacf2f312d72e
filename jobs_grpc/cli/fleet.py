"""`jobs-grpc fleet` and `labels`: summarize devices and jobs, and list the labels of devices."""

import argparse
from collections.abc import Iterator

from fleet.jobs.v1 import fleet_pb2 as pb

from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.formatting import format_age, format_number, format_time
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.output import field_lines, message_dict, print_note, print_result
from jobs_grpc.cli.tables import Column
from jobs_grpc.client import FleetClient, execution_status_name

_LABELS = Listing[pb.LabelSummary](
    "labels",
    (
        Column("key"),
        Column("device_count", "DEVICES", is_number=True),
        Column("values", read=lambda label: _values(label), min_width=20, wraps=True),
    ),
)


def add_command(commands: Subparsers) -> None:
    add_client_command(commands, "fleet", _fleet)
    parser = add_client_command(commands, "labels", _labels, formats=FORMATS)
    _LABELS.add_options(parser)


async def _fleet(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Summarize the devices by last seen, the active jobs, and their failures by code.

    jobs-grpc fleet
    jobs-grpc fleet --json
    """
    summary = await fleet.summary()
    print_result(args, summary, *field_lines(_fields(summary, args.utc), 9))


def _fields(summary: pb.GetFleetSummaryResponse, utc: bool) -> Iterator[tuple[str, str]]:
    at = summary.computed_at
    counted = f"at {format_time(at)}" if utc else format_age(at)
    yield "devices", f"{summary.device_count:,}, counted {counted}"
    seen = summary.last_seen
    yield (
        "last seen",
        f"{seen.within_hour:,} in the last hour, {seen.within_day:,} 1–24 hours ago, "
        f"{seen.within_week:,} 1–7 days ago, {seen.earlier:,} more than 7 days ago, "
        f"{seen.never:,} never",
    )
    jobs = summary.jobs
    approvals = jobs.awaiting_approval
    yield (
        "jobs",
        f"{jobs.in_progress:,} in progress, {jobs.paused:,} paused, {jobs.scheduled:,} scheduled"
        + (f"; {format_number(approvals, 'job')} awaiting approval" if approvals else ""),
    )
    name = "failures"
    for failure in summary.failures:
        more = failure.job_count - len(failure.job_ids)
        others = f" and {more:,} more" if more else ""
        yield (
            name,
            f"{failure.execution_count:,} {execution_status_name(failure.status)}"
            f" {failure.failure_code or '(no code)'}: {', '.join(failure.job_ids)}{others}",
        )
        name = ""
    if summary.other_failure_count:
        yield name, format_number(summary.other_failure_count, "other failure")


async def _labels(args: argparse.Namespace, fleet: FleetClient) -> None:
    """List the labels of devices with their values, those of the most devices first.

    jobs-grpc labels
    jobs-grpc labels -o csv
    """
    response = await fleet.labels()
    _LABELS.print_items(
        args,
        response.labels,
        groups=list(map(message_dict, response.groups)),
        complete=response.complete,
    )
    if not response.complete and args.output != "json":
        print_note("the list is incomplete: the tenant has too many devices, labels or groups")


def _values(label: pb.LabelSummary) -> list[str]:
    values = [f"{value.value} ({value.device_count:,})" for value in label.values]
    return values + ["…"] * label.has_more_values
