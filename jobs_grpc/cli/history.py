"""`jobs-grpc history`: shows what has happened to a job."""

import argparse

from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.event_text import add_types, event_by, event_detail, event_name
from jobs_grpc.cli.listing import FORMATS, Column, add_listing_options, print_listing
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import EventsClient, job_status_name

_PAGE_SIZE = 1000

_COLUMNS: tuple[Column[pb.Event], ...] = (
    Column("time", "TIME"),
    Column("type", "EVENT", text=event_name),
    Column("user", "BY", drop_order=1, min_width=8, text=event_by),
    Column("detail", "DETAIL", event_detail, min_width=20, wraps=True),
    Column("status", "STATUS", lambda event: job_status_name(event.status), 2, wide=True),
    Column("cause", "CAUSE", drop_order=3, wide=True),
    Column("position", "POSITION", lambda event: str(event.position), 4, wide=True),
)


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(
        commands, "history JOB", _history, client=EventsClient, formats=FORMATS
    )
    parser.epilog = (
        "The newest events come last. The history begins with the creation of the job; if the "
        "tenant has very many events, the oldest are purged."
    )
    arguments.add_job(parser)
    add_types(parser.add_argument_group("filters"), "events of these types")
    add_listing_options(parser, _COLUMNS, limit=50, noun="events")


async def _history(args: argparse.Namespace, events: EventsClient) -> None:
    """Show what has happened to a job, who did it and why.

    jobs-grpc history update-1 --type paused resumed
    jobs-grpc history update-1 --limit 1000 --utc -o csv
    """
    pager = events.list_job_events(
        args.job_id,
        newest_first=True,
        types=args.types or (),
        page_size=_PAGE_SIZE,
        page_token=args.page_token,
        limit=args.limit,
    )
    await print_listing(
        args, _COLUMNS, pager, key="events", noun="events", order="newest", reverse=True
    )
