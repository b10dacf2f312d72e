"""`jobs-grpc preview`: shows the devices that a target selects."""

import argparse

from jobs_grpc.cli.command import add_client_command
from jobs_grpc.cli.output import print_result
from jobs_grpc.cli.parser import Subparsers
from jobs_grpc.cli.rollout_options import add_rollout_options, read_rollout_options
from jobs_grpc.cli.targets import add_target, empty_target_reason, preview_lines, read_target
from jobs_grpc.client import FleetClient


def add_command(commands: Subparsers) -> None:
    parser = add_client_command(commands, "preview TARGET", _preview, client=FleetClient)
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
        lines.append(f"`create` would fail with {empty_target_reason(target)}")
    print_result(args, preview, *lines)
