"""The target of `create` and `preview`, and the command `preview`."""

import argparse
from collections.abc import Iterator
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.fields import FAILURE_CODES, REJECTED_INCLUDES_CANCELED, add_fields, forwarded
from jobs_grpc.cli.files import read_text
from jobs_grpc.cli.formatting import format_device_count
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.rollout_options import add_rollout_options, read_rollout_options
from jobs_grpc.cli.stages import planned_stage_lines
from jobs_grpc.client import FleetClient

_SHOWN_DEVICES = 5  # in a line of a preview

# The reason with which CreateJob rejects a target without devices.
_EMPTY_REASONS = {
    "target_device_id": "DEVICE_NOT_FOUND",
    "target_group_id": "GROUP_EMPTY",
    "target_all": "TENANT_EMPTY",
}

_STATUSES = (
    "only executions in these statuses, where REJECTED includes those that are CANCELED (default: "
    "all three)"
)


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "preview TARGET", _preview)
    add_target(parser)
    add_rollout_options(parser)


async def _preview(args: argparse.Namespace, fleet: FleetClient) -> None:
    """Show the devices that a target selects now, and create nothing.

    jobs-grpc preview --where 'group in (north,south),model=x200,!quarantined'
    jobs-grpc preview --failed-in update-1 --status FAILED --failure-code FLASH
    """
    rollout = read_rollout_options(args).get("rollout")
    target = read_target(args)
    preview = await fleet.preview_target(**target, rollout=rollout)
    lines = [*preview_lines(preview, rollout), f"digest {preview.target_digest}"]
    if not preview.device_count:
        [field] = target
        reason = _EMPTY_REASONS.get(field, "TARGET_EMPTY")
        lines.append(f"`create` would fail with {reason}")
    print_result(args, preview, *lines)


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(target_error=parser.error)
    group = parser.add_argument_group(
        "target", "Exactly one is required. --failed-in can be combined with --where."
    )
    target = group.add_mutually_exclusive_group()
    helps = {
        "--device ID ...": "these devices",
        "--devices-file FILE": "the devices whose IDs are the lines of this file; - reads stdin",
        "--group ID": "the members of a group",
        "--all": "all devices",
        "--failed-in JOB": "the devices that have failed in another job",
    }
    arguments.add_options(target, helps)
    where = "the devices that match, such as 'group in (north,south),model=x200,!quarantined'"
    arguments.add_options(group, {"--where SELECTOR": where})
    fields = {
        "--status STATUS": ("statuses", f"with --failed-in: {_STATUSES}"),
        "--failure-code CODE": ("failure_codes", f"with --failed-in: {FAILURE_CODES}"),
    }
    add_fields(group, pb.FailedIn, fields, canceled=REJECTED_INCLUDES_CANCELED)


def read_target(args: argparse.Namespace) -> dict[str, Any]:
    """Return the target as parameters of a client. Raises UsageError unless there is one."""
    if args.failed_in is None and (args.statuses or args.failure_codes):
        args.target_error("--status and --failure-code need --failed-in")
    devices = args.device
    if args.devices_file:
        lines = map(str.strip, read_text(args.devices_file).splitlines())
        if not (devices := [line for line in lines if line]):
            raise InvalidInput(f"{args.devices_file} has no device")
    # An unset variable of a shell must not leave out a condition.
    for option, ids in (("where", [args.where]), ("group", [args.group]), ("device", devices)):
        if "" in ids:
            args.target_error(f"--{option} is empty; --all targets all devices")
    if args.failed_in is not None:
        failures = forwarded(args, pb.FailedIn)
        failed_in = pb.FailedIn(job_id=args.failed_in, selector=args.where or "", **failures)
        return {"target_failed_in": failed_in}
    others = {"target_group_id": args.group, "target_all": args.all, "target_device_ids": devices}
    given = {name: value for name, value in others.items() if value}
    if args.where:
        given["target_selector"] = args.where
    if len(given) != 1:
        args.target_error(
            "--where can be combined only with --failed-in"
            if given
            else "a target is required, such as --device, --group, --where or --all"
        )
    if len(devices) == 1:
        return {"target_device_id": devices[0]}
    return given


def preview_lines(preview: pb.TargetPreview, rollout: pb.Rollout | None) -> Iterator[str]:
    """Yield the devices, the stages and the jobs of a preview, for people."""
    shown = list(preview.device_ids[:_SHOWN_DEVICES])
    more = ", …" if preview.device_count > len(shown) else ""
    devices = f": {', '.join(shown)}{more}" if shown else ""
    yield f"{format_device_count(preview.device_count)}{devices}"
    yield from planned_stage_lines(rollout, preview.stage_sizes)
    if preview.overlapping_job_ids:
        count = len(preview.device_ids)
        devices = "them" if count == preview.device_count else f"the first {count} devices"
        jobs = ", ".join(preview.overlapping_job_ids)
        yield f"other jobs with pending executions on {devices}: {jobs}"
    yield from preview.hints
