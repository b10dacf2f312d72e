"""`jobs-grpc devices`: lists, shows, labels and deletes the devices of a tenant."""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from fleet.jobs.v1 import fleet_pb2 as pb

from jobs_grpc.cli import arguments, device_import
from jobs_grpc.cli.changes import LOST_RESPONSE, confirm, explaining_failures
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.executions import DEVICE_EXECUTIONS
from jobs_grpc.cli.fields import Fields, add_fields, forwarded
from jobs_grpc.cli.formatting import format_device_count, format_field, format_labels, format_number
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.output import (
    field_lines,
    message_dict,
    print_lines,
    print_note,
    print_result,
    progress_line,
)
from jobs_grpc.cli.tables import Column
from jobs_grpc.client import FleetClient
from jobs_grpc.contract.field_rules import rules_of

_PAGE_SIZE = 1000
_MAX_UPDATED = rules_of(pb.UpdateDevicesRequest, "devices").repeated.max_items

_DEVICES = Listing[pb.Device](
    "devices",
    (
        Column("device_id", "DEVICE"),
        Column("group_ids", "GROUPS", drop_order=3, min_width=8),
        Column("labels", drop_order=1, min_width=12),
        Column("time_zone", drop_order=4),
        Column("last_seen_at", "LAST_SEEN", drop_order=2),
        Column("facts", wide=True),
        Column("facts_updated_at", "FACTS_UPDATED", wide=True),
    ),
)


_FILTERS: Fields = {
    "--where SELECTOR": (
        "selector",
        "devices that match, such as 'group in (north,south),model=x200,!quarantined'; != and notin"
        " also match devices without the label",
    ),
    "--id-prefix TEXT": "device_id_prefix",
}


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser("devices", help="manage the devices of a tenant")
    subcommands = parser.add_commands()
    listing = add_client_command(subcommands, "list", _list, formats=FORMATS)
    filters = listing.add_argument_group("filters")
    add_fields(filters, pb.ListDevicesRequest, _FILTERS)
    _DEVICES.add_options(listing, limit=50)
    get = add_client_command(subcommands, "get DEVICE", _get, pb.GetDeviceRequest, formats=FORMATS)
    DEVICE_EXECUTIONS.add_options(get)
    add_client_command(subcommands, "facts DEVICE", _facts, pb.GetDeviceRequest)
    _add_label(subcommands)
    device_import.add_command(subcommands)
    usage, ids = "delete DEVICE [DEVICE ...]", {"DEVICE": ("device_ids", "IDs of the devices")}
    delete = add_client_command(subcommands, usage, _delete, pb.DeleteDevicesRequest, ids)
    arguments.add_yes(delete)


async def _list(args: argparse.Namespace, fleet: FleetClient) -> None:
    """List devices, in the order of their IDs.

    jobs-grpc devices list --where 'group in (north,south),model=x200,!beta'
    jobs-grpc devices list --id-prefix pump- -o csv --columns device_id,labels
    """
    await _DEVICES.print_pages(args, fleet.devices(**forwarded(args), page_size=_PAGE_SIZE))


async def _get(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Show a device and its queue.

    The queue has the first 100 executions that are IN_PROGRESS or QUEUED, in the order in which the
    device gets them; `jobs-grpc device` lists all executions. The formats csv and jsonl print the
    queue only.

    jobs-grpc devices get device-0003
    jobs-grpc devices get device-0003 --json
    """
    response = await fleet.get(args.device_id)
    is_table = args.output in ("table", "wide")
    if is_table:
        print_lines(*field_lines(_device_fields(response.device, args.utc), 9), "")
    if response.executions or not is_table:
        DEVICE_EXECUTIONS.print_items(args, response.executions, message_dict(response.device))
    else:
        print_note("the queue is empty")


def _device_fields(device: pb.Device, utc: bool) -> Iterator[tuple[str, str]]:
    yield "device", device.device_id
    yield "groups", " ".join(device.group_ids) or "-"
    yield "labels", format_labels(device.labels) or "-"
    if device.facts:
        yield "facts", format_labels(device.facts)
    yield "time zone", device.time_zone or "-"
    yield "last seen", format_field(device, "last_seen_at", utc)


async def _facts(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Show the facts of a device: what it reports about itself.

    Only the device and its bridges can change them. Selectors match them as fact.KEY, such as
    'fact.version!=2.1'.

    jobs-grpc devices facts device-0003
    jobs-grpc devices facts device-0003 --json | jq .facts.version
    """
    device = (await fleet.get(args.device_id)).device
    lines = ["no facts"]
    if device.facts:
        lines = [*field_lines(sorted(device.facts.items()), max(map(len, device.facts)))]
        changed = format_field(device, "facts_updated_at", args.utc)
        lines += ["", f"facts last changed  {changed}"]
    print_result(args, device, *lines)


def _add_label(commands: Subparsers) -> None:
    parser = add_client_command(commands, "label DEVICE ... [KEY=VALUE ...] [KEY- ...]", _label)
    parser.add_argument(
        "devices_and_labels",
        type=arguments.text,
        nargs="*",
        metavar="DEVICE",
        help="IDs of the devices, then KEY=VALUE to set a label, or KEY- to remove it",
    )
    arguments.add_repeated(parser, "--device ID", "another device; can be repeated")
    zone_help = "time zone, such as Europe/Berlin or UTC; '' clears it"
    arguments.add_options(parser, {"--time-zone ZONE": zone_help})
    groups = parser.add_mutually_exclusive_group()
    set_help = "make the devices members of this group and of no others; can be repeated"
    arguments.add_repeated(groups, "--set-group GROUP", set_help, dest="set_groups")
    arguments.add_options(groups, {"--clear-groups": "remove the devices from all groups"})
    arguments.add_options(parser, {"--allow-missing": "register the devices that do not exist"})


async def _label(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Change labels, time zones and groups of devices, or register devices.

    Put IDs before labels, and both before the options. Pass an ID that contains = or ends with -
    with --device. Each call changes up to 1,000 devices, all or none; more devices take several
    calls.

    jobs-grpc devices label pump-1 pump-2 model=x200 ring=canary beta-
    jobs-grpc devices label pump-3 --allow-missing --set-group north
    """
    device_ids, labels, removed = _read_devices_and_labels(args.devices_and_labels)
    device_ids = [*dict.fromkeys(device_ids + args.device)]
    fields: dict[str, Any] = {"labels": labels} if labels else {}
    if args.time_zone is not None:
        fields["time_zone"] = args.time_zone
    if args.set_groups or args.clear_groups:
        fields["group_ids"] = args.set_groups
    if not device_ids:
        raise InvalidInput("no device is given; see `jobs-grpc devices label --help`")
    if not (fields or removed or args.allow_missing):
        raise InvalidInput("nothing to change; see `jobs-grpc devices label --help`")
    total = pb.UpdateDevicesResponse()
    done = 0

    def explain() -> str:
        changed = f"changed so far: {format_device_count(done)}; you can repeat the command"
        return changed if done else ""

    with explaining_failures(args, explain):
        for done in range(0, len(device_ids), _MAX_UPDATED):
            ids = device_ids[done : done + _MAX_UPDATED]
            devices = [pb.Device(device_id=device_id, **fields) for device_id in ids]
            response = await fleet.update(
                devices, fields, remove_labels=removed, allow_missing=args.allow_missing
            )
            total.registered_count += response.registered_count
            total.updated_count += response.updated_count
    counts = {"registered": total.registered_count, "updated": total.updated_count}
    lines = (f"{done} {format_device_count(count)}" for done, count in counts.items() if count)
    print_result(args, total, *lines)


def _read_devices_and_labels(words: Sequence[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Split the arguments into IDs of devices, labels to set and labels to remove."""
    device_ids: list[str] = []
    labels: dict[str, str] = {}
    removed: list[str] = []
    for word in words:
        key, separator, value = word.partition("=")
        if separator:
            if key in labels:
                raise InvalidInput(f"the label {key} is given twice")
            labels[key] = value
        elif word.endswith("-"):
            removed.append(word.removesuffix("-"))
        elif labels or removed:
            raise InvalidInput(
                f"{word} is neither KEY=VALUE nor KEY-; IDs of devices come before the labels"
            )
        else:
            device_ids.append(word)
    return device_ids, labels, [*dict.fromkeys(removed)]


async def _delete(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Delete devices, and end their QUEUED and HELD executions.

    These executions become REJECTED; those that are IN_PROGRESS continue. Devices that do not exist
    are accepted, so an interrupted command can be repeated.

    jobs-grpc devices delete pump-1 pump-2
    jobs-grpc devices delete pump-1 --yes
    """
    device_ids = [*dict.fromkeys(args.device_ids)]
    is_one = len(device_ids) == 1
    what, whose = (device_ids[0], "its") if is_one else (f"{len(device_ids):,} devices", "their")
    question = f"delete {what} and end {whose} QUEUED and HELD executions?"
    await confirm(question, yes=args.yes, verb="delete")
    advice = "to delete what is left, repeat the command"
    with explaining_failures(args, lambda: advice, LOST_RESPONSE), progress_line() as show:
        total = await fleet.delete(
            device_ids, on_progress=show and (lambda total: show(f"{_deletion_text(total)} …"))
        )
    print_result(args, total, _deletion_text(total))


def _deletion_text(total: pb.DeleteDevicesResponse) -> str:
    executions = format_number(total.ended_execution_count, "execution")
    return f"deleted {format_device_count(total.deleted_count)}, ended {executions}"
