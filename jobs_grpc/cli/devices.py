"""`jobs-grpc devices`: lists, shows, labels and deletes the devices of a tenant."""

import argparse
from collections.abc import Iterator, Sequence

from fleet.jobs.v1 import fleet_pb2 as pb

from jobs_grpc.cli import arguments, device_import
from jobs_grpc.cli.changes import LOST_RESPONSE, explaining_failures
from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.executions import DEVICE_EXECUTIONS
from jobs_grpc.cli.fields import DEVICE, Fields, add_fields, forwarded
from jobs_grpc.cli.formatting import format_device_count, format_field, format_labels, format_number
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.output import field_lines, message_dict, print_note, print_result, progress_line
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.questions import confirm
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
    ),
)


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser("devices", help="manage the devices of a tenant")
    subcommands = parser.add_commands()
    _add_list(subcommands)
    _add_get(subcommands)
    _add_label(subcommands)
    device_import.add_command(subcommands)
    _add_delete(subcommands)


def _add_list(commands: Subparsers) -> None:
    parser = add_client_command(commands, "list", _list, client=FleetClient, formats=FORMATS)
    where = (
        "devices that match, such as 'group in (north,south),model=x200,!quarantined'; != and notin"
        " also match devices without the label"
    )
    fields: Fields = {
        "--where SELECTOR": ("selector", where),
        "--id-prefix TEXT": "device_id_prefix",
    }
    add_fields(parser.add_argument_group("filters"), pb.ListDevicesRequest, fields)
    _DEVICES.add_options(parser, limit=50)


async def _list(args: argparse.Namespace, fleet: FleetClient) -> None:
    """List devices, in the order of their IDs.

    jobs-grpc devices list --where 'group in (north,south),model=x200,!beta'
    jobs-grpc devices list --id-prefix pump- -o csv --columns device,labels
    """
    await _DEVICES.print_pages(args, fleet.devices(**forwarded(args), page_size=_PAGE_SIZE))


def _add_get(commands: Subparsers) -> None:
    parser = add_client_command(commands, "get DEVICE", _get, client=FleetClient, formats=FORMATS)
    parser.epilog = (
        "The queue has the first 100 executions that are IN_PROGRESS or QUEUED, in the order in "
        "which the device gets them; `jobs-grpc device` lists all executions. The formats csv and "
        "jsonl print the queue only."
    )
    add_fields(parser, pb.GetDeviceRequest, DEVICE)
    DEVICE_EXECUTIONS.add_options(parser)


async def _get(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Show a device and its queue.

    jobs-grpc devices get device-0003
    jobs-grpc devices get device-0003 --json
    """
    response = await fleet.get(args.device_id)
    is_table = args.output in ("table", "wide")
    if is_table:
        print(*field_lines(_device_fields(response.device, args.utc), 9), "", sep="\n")
    if response.executions or not is_table:
        DEVICE_EXECUTIONS.print_items(args, response.executions, message_dict(response.device))
    else:
        print_note("the queue is empty")


def _device_fields(device: pb.Device, utc: bool) -> Iterator[tuple[str, str]]:
    yield "device", device.device_id
    yield "groups", " ".join(device.group_ids) or "-"
    yield "labels", format_labels(device.labels) or "-"
    yield "time zone", device.time_zone or "-"
    yield "last seen", format_field(device, "last_seen_at", utc)


def _add_label(commands: Subparsers) -> None:
    parser = add_client_command(
        commands, "label DEVICE ... [KEY=VALUE ...] [KEY- ...]", _label, client=FleetClient
    )
    parser.epilog = (
        "Put IDs before labels, and both before the options. Pass an ID that contains = or ends "
        "with - with --device. "
        f"Each call changes up to {_MAX_UPDATED:,} devices, all or none; more devices take several "
        "calls."
    )
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

    jobs-grpc devices label pump-1 pump-2 model=x200 ring=canary beta-
    jobs-grpc devices label pump-3 --allow-missing --set-group north
    """
    device_ids, labels, removed = _read_devices_and_labels(args.devices_and_labels)
    device_ids = [*dict.fromkeys(device_ids + args.device)]
    fields = {
        "labels": bool(labels),
        "time_zone": args.time_zone is not None,
        "group_ids": bool(args.set_groups) or args.clear_groups,
    }
    if not device_ids:
        raise InvalidInput("no device is given; see `jobs-grpc devices label --help`")
    if not (any(fields.values()) or removed or args.allow_missing):
        raise InvalidInput("nothing to change; see `jobs-grpc devices label --help`")
    total = pb.UpdateDevicesResponse()
    done = 0

    def explain() -> str:
        changed = f"changed so far: {format_device_count(done)}; you can repeat the command"
        return changed if done else ""

    with explaining_failures(args, explain):
        for done in range(0, len(device_ids), _MAX_UPDATED):
            response = await fleet.update(
                [
                    pb.Device(
                        device_id=device_id,
                        labels=labels,
                        time_zone=args.time_zone or "",
                        group_ids=args.set_groups,
                    )
                    for device_id in device_ids[done : done + _MAX_UPDATED]
                ],
                [name for name, is_changed in fields.items() if is_changed],
                remove_labels=removed,
                allow_missing=args.allow_missing,
            )
            total.registered_count += response.registered_count
            total.updated_count += response.updated_count
    registered = format_device_count(total.registered_count)
    lines = [f"registered {registered}"] if total.registered_count else []
    if total.updated_count:
        lines.append(f"updated {format_device_count(total.updated_count)}")
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


def _add_delete(commands: Subparsers) -> None:
    parser = add_client_command(commands, "delete DEVICE [DEVICE ...]", _delete, client=FleetClient)
    parser.epilog = (
        "Their executions that are QUEUED or HELD become REJECTED; those that are IN_PROGRESS "
        "continue. Devices that do not exist are accepted, so an interrupted command can be "
        "repeated."
    )
    parser.add_argument(
        "device_ids",
        type=arguments.text,
        nargs="+",
        metavar="DEVICE",
        help="IDs of the devices",
    )
    arguments.add_yes(parser, "skip the confirmation that a terminal shows")


async def _delete(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Delete devices, and end their QUEUED and HELD executions.

    jobs-grpc devices delete pump-1 pump-2
    jobs-grpc devices delete pump-1 --yes
    """
    device_ids = [*dict.fromkeys(args.device_ids)]
    is_one = len(device_ids) == 1
    what, whose = (device_ids[0], "its") if is_one else (f"{len(device_ids):,} devices", "their")
    question = f"delete {what} and end {whose} QUEUED and HELD executions?"
    await confirm(question, yes=args.yes, verb="delete")
    with (
        explaining_failures(
            args, lambda: "to delete what is left, repeat the command", LOST_RESPONSE
        ),
        progress_line() as show,
    ):
        total = await fleet.delete(
            device_ids,
            on_progress=show and (lambda total: show(f"{_deletion_text(total)} …")),
        )
    print_result(args, total, _deletion_text(total))


def _deletion_text(total: pb.DeleteDevicesResponse) -> str:
    executions = format_number(total.ended_execution_count, "execution")
    return f"deleted {format_device_count(total.deleted_count)}, ended {executions}"
