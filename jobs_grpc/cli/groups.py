"""`jobs-grpc groups`: lists the groups of devices."""

import argparse

from fleet.jobs.v1 import fleet_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.listing import FORMATS, Column, add_listing_options, print_listing
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.client import FleetClient

# The server counts no further: 10,001 means more than 10,000.
_MAX_COUNT = 10_000


def _device_count(group: pb.Group) -> object:
    return f"{_MAX_COUNT:,}+" if group.device_count > _MAX_COUNT else group.device_count


_COLUMNS: tuple[Column[pb.Group], ...] = (
    Column("group_id", "GROUP"),
    Column("device_count", "DEVICES", is_number=True, text=_device_count),
)


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "groups", _groups, client=FleetClient, formats=FORMATS)
    parser.epilog = (
        f"{_MAX_COUNT:,}+ is more than {_MAX_COUNT:,}; in CSV and JSON it is {_MAX_COUNT + 1}."
    )
    help_text = "groups whose ID starts with this text"
    arguments.add_options(parser, {"--id-prefix TEXT": help_text}, default="")
    add_listing_options(parser, _COLUMNS, limit=50, noun="groups")


async def _groups(args: argparse.Namespace, fleet: FleetClient) -> None:
    """List groups with the number of their devices, in the order of their IDs.

    jobs-grpc groups
    jobs-grpc groups --id-prefix site- -o csv
    """
    pager = fleet.groups(
        group_id_prefix=args.id_prefix, page_token=args.page_token, limit=args.limit
    )
    await print_listing(args, _COLUMNS, pager, key="groups", noun="groups")
