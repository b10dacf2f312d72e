"""`jobs-grpc events`: prints the events of a tenant, and follows them."""

import argparse
import asyncio
import sys

from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_server_command
from jobs_grpc.cli.connection import connect, resolve_target
from jobs_grpc.cli.errors import retry_note
from jobs_grpc.cli.event_text import add_types, event_line
from jobs_grpc.cli.fields import add_fields, forwarded
from jobs_grpc.cli.output import print_json, print_lines, print_message, print_note
from jobs_grpc.client import EventReader, EventsClient, JobsError, RetryPolicy
from jobs_grpc.client.errors import EventsPurged, PositionUnknown
from jobs_grpc.contract.field_rules import rules_of

_LIMIT = 1000
_PAGE_SIZE = rules_of(pb.ListEventsRequest, "limit").int32.lte


def add_command(commands: Subparsers) -> None:
    parser = add_server_command(commands, "events", _events, formats=("text", "jsonl"))
    after_help = (
        "begin after this position; 0: with the oldest event, which is the default without --follow"
    )
    since_help = "begin at this time, such as 2030-01-31T12:00:00Z, or 24h for the last day"
    starts = {
        "--after POSITION": ("after_position", after_help),
        "--since TIME": ("from_time", since_help),
    }
    start = parser.add_mutually_exclusive_group()
    add_fields(start, pb.ListEventsRequest, starts, time=arguments.moment)
    end = parser.add_mutually_exclusive_group()
    follow_help = "wait for more events; without --after and --since, begin with the next one"
    end.add_argument("-f", "--follow", action="store_true", help=follow_help)
    arguments.add_limit(end, _LIMIT, "events")
    filters = parser.add_argument_group("filters")
    add_fields(filters, pb.ListEventsRequest, {"--job JOB": "job_id"})
    add_types(filters, "events of these types")


def _events(args: argparse.Namespace) -> None:
    """Print the events of all jobs, one per line, oldest first.

    A position identifies an event; later events have larger positions. The server keeps events for
    some days. To process each event once, store its position, and continue with --after.

    jobs-grpc events --since 24h --type paused canceled
    jobs-grpc events --follow --json --after 1795964737123456
    """
    asyncio.run(_follow(args) if args.follow else _list(args))


async def _list(args: argparse.Namespace) -> None:
    async with connect(args, client=EventsClient) as events:
        size = min(_PAGE_SIZE, args.limit)
        reader = events.list_events(**forwarded(args), page_size=size, limit=args.limit)
        count = 0
        async for event in reader:
            _print(args, event)
            count += 1
    shown = (
        "no more events;" if count < args.limit else f"{count:,} events shown; raise --limit, or"
    )
    _print_position(args, reader, f"{shown} continue")


async def _follow(args: argparse.Namespace) -> None:
    target = resolve_target(args)
    if args.output == "text":
        print_note(_followed(args, target.tenant))
    is_connected = True

    def on_retry(error: JobsError) -> None:
        nonlocal is_connected
        if is_connected:
            print_note(retry_note(error, target.server))
        is_connected = False

    async with connect(args, RetryPolicy(on_retry=on_retry), EventsClient) as events:
        reader = events.watch_events(**forwarded(args))
        try:
            async for event in reader:
                is_connected = True
                _print(args, event)
        except (asyncio.CancelledError, JobsError) as e:
            # These errors say themselves where to continue.
            is_lost = isinstance(e, (EventsPurged, PositionUnknown))
            if reader.position is not None and not is_lost:
                _print_position(args, reader, "stopped; continue")
            raise


def _followed(args: argparse.Namespace, tenant: str | None) -> str:
    types = f"the events {', '.join(args.types)}" if args.types else "all events"
    jobs = f"job {args.job_id}" if args.job_id else "all jobs"
    start = "from now on"
    if args.after_position is not None:
        start = f"after position {args.after_position}"
    elif args.from_time is not None:
        start = f"since {args.from_time.isoformat(sep=' ', timespec='seconds')}"
    of_tenant = f" in tenant {tenant}" if tenant else ""
    return f"following {types} of {jobs}{of_tenant} {start}; press Ctrl-C to stop"


def _print(args: argparse.Namespace, event: pb.Event) -> None:
    if args.output == "jsonl":
        print_message(event, "jsonl")
    else:
        print_lines(event_line(event))
    if args.follow:
        sys.stdout.flush()


def _print_position(args: argparse.Namespace, reader: EventReader, note: str) -> None:
    """Say on stderr how to continue."""
    if args.output == "jsonl":
        sys.stdout.flush()
        print_json({"position": str(reader.position)}, indent=None, file=sys.stderr)
    else:
        print_note(f"{note} with --after {reader.position}")
