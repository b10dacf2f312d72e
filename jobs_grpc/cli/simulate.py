"""`jobs-grpc simulate`: runs a fleet of simulated devices."""

import argparse
import asyncio
import json
import random
import sys
import time
from datetime import timedelta
from typing import Any

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_server_command
from jobs_grpc.cli.connection import Target, connect, resolve_target
from jobs_grpc.cli.errors import CliError, ExitCode, InvalidInput, call_error_text, retry_note
from jobs_grpc.cli.formatting import format_device_count, format_duration, utc_now
from jobs_grpc.cli.output import print_note
from jobs_grpc.client import JobsError, RetryPolicy, errors
from jobs_grpc.dev.simulator.behavior import Bug, DeviceBehavior
from jobs_grpc.dev.simulator.fleet import Fleet, run_fleet
from jobs_grpc.dev.simulator.totals import Totals

# Larger fleets poll by default: a stream for each device would overload a laptop.
_MAX_STREAMS = 500

_LINE_INTERVAL_SECONDS = 5.0


_OPTIONS = {
    "--first N": "number of the first device (default: 1)",
    "--device-format FORMAT": "Python format of a device ID, given its number (default: "
    "device-{:04})",
    "--latency MIN:MAX": "seconds that an execution takes, chosen at random (default: 1:5)",
    "--failure-rate RATE": "share of executions that fail, 0–1 (default: 0.05)",
    "--reject-rate RATE": "share of executions that the device rejects, 0–1 (default: 0)",
    "--stall-rate RATE": "share of executions that the device starts and never reports on, 0–1 "
    "(default: 0.01)",
    "--offline-rate RATE": "share of devices that do not call the server in this run, 0–1 "
    "(default: 0)",
    "--bug RATE:CODE": "share of devices that always fail, with this failure code, such as "
    "0.08:FLASH",
    "--recovering RATE:CODE:ATTEMPTS": "share of devices that fail with this failure code in the "
    "first ATTEMPTS attempts of each execution, such as 0.3:NETWORK:2",
    "--bug-version VERSION": "only executions whose document has this `version` have the bug "
    "(default: all)",
    "--poll SECONDS": "poll interval of each device (default: fleets of up to "
    f"{_MAX_STREAMS} devices use streams; larger fleets poll when the server asks for it)",
    "--initial-version VERSION": "`version` fact that each device reports at the start; after a "
    "successful execution, the device reports the `version` of its document (default: no facts)",
    "--bridge": "send the reports of all devices over one stream",
}
_TYPES: dict[str, Any] = {
    "N": int,
    "FORMAT": arguments.device_format,
    "MIN:MAX": arguments.latency,
    "RATE": arguments.rate,
    "RATE:CODE": arguments.bug,
    "RATE:CODE:ATTEMPTS": arguments.recovering,
    "SECONDS": arguments.seconds,
}


def add_command(commands: Subparsers) -> None:
    parser = add_server_command(commands, "simulate --devices N", _simulate)
    count_help = "number of devices, 1–100000"
    parser.add_argument(
        "--devices", type=arguments.device_count, required=True, metavar="N", help=count_help
    )
    arguments.add_options(parser, _OPTIONS, **_TYPES)
    for_help = "stop after this time (default: run until Ctrl-C)"
    parser.add_argument(
        "--for", type=arguments.seconds, dest="run_for", metavar="SECONDS", help=for_help
    )
    parser.set_defaults(first=1, device_format="device-{:04}", latency=(1.0, 5.0))
    parser.set_defaults(failure_rate=0.05, reject_rate=0.0, stall_rate=0.01, offline_rate=0.0)


def _simulate(args: argparse.Namespace) -> None:
    """Run a fleet of simulated devices that carry out jobs.

    Each one waits for executions, starts them, reports progress and reports the result. The devices
    must exist; the default IDs are those of the demo fleet. Ctrl-C stops the fleet; the next run
    continues the executions that are still IN_PROGRESS. Devices retry while the server is
    unavailable.

    jobs-grpc simulate --tenant demo --devices 1000
    jobs-grpc simulate --tenant demo --devices 300 --bug 0.08:FLASH --for 60
    """
    if args.failure_rate + args.reject_rate + args.stall_rate > 1:
        raise InvalidInput("the rates must not add up to more than 1")
    target = resolve_target(args)
    target.check_caller()
    fleet, totals = _make_fleet(args, target), Totals()
    if args.output == "text" and sys.stderr.isatty():
        print_note(_start_note(args, fleet))
    started = time.monotonic()
    try:
        asyncio.run(_run(args, fleet, totals))
    except JobsError as e:
        raise target.call_error(e) from None
    if totals.called and not totals.responded:
        if totals.retrying:
            raise target.call_error(totals.retrying)
        silent = f"can't reach the server at {target.server}: no response"
        raise CliError(silent, ExitCode.UNAVAILABLE)
    elapsed = timedelta(seconds=time.monotonic() - started)
    if args.output != "text":
        print(json.dumps({"seconds": round(elapsed.total_seconds(), 3)} | totals.counters()))
        return
    counters = ", ".join(
        f"{number:,} {name}"
        for name, number in totals.counters().items()
        if number or name in ("started", "succeeded")
    )
    print(f"after {format_duration(elapsed)}: {counters}")
    if totals.last_error:
        print_note(f"last error: {call_error_text(totals.last_error, target.server)}")


def _make_fleet(args: argparse.Namespace, target: Target) -> Fleet:
    bugs = []
    if args.bug:
        rate, code = args.bug
        bugs.append(Bug(rate, code, args.bug_version))
    if args.recovering:
        rate, code, attempts = args.recovering
        bugs.append(Bug(rate, code, attempts=attempts))
    behavior = DeviceBehavior(
        latency=args.latency,
        failure_rate=args.failure_rate,
        reject_rate=args.reject_rate,
        stall_rate=args.stall_rate,
        progress=2,
        seed=random.randrange(2**32),  # noqa: S311
        bugs=bugs,
    )
    numbers = range(args.first, args.first + args.devices)
    device_ids = [args.device_format.format(number) for number in numbers]
    online = [i for i in device_ids if random.random() >= args.offline_rate]  # noqa: S311
    return Fleet(
        server=target.server,
        tenant=target.tenant,
        token=target.read_token if target.read_token() else None,
        tls=target.tls(),
        device_ids=online or device_ids[:1],
        behavior=behavior,
        poll=args.poll is not None or args.devices > _MAX_STREAMS,
        poll_interval=args.poll,
        bridge=args.bridge,
        timeout=args.timeout,
        initial_version=args.initial_version,
    )


def _start_note(args: argparse.Namespace, fleet: Fleet) -> str:
    """Say how many devices run, how they receive executions, and when the fleet stops."""
    if not fleet.poll:
        how = "each with a stream"
    elif fleet.poll_interval is None:
        how = "polling when the server asks"
    else:
        how = f"polling every {fleet.poll_interval:g} s"
    end = "press Ctrl-C to stop" if args.run_for is None else f"ends after {args.run_for:g} s"
    return f"{format_device_count(len(fleet.device_ids))}, {how}; {end}"


async def _run(args: argparse.Namespace, fleet: Fleet, totals: Totals) -> None:
    """Run the fleet for the time in --for or until Ctrl-C, and show its totals."""
    try:
        async with asyncio.timeout(args.run_for), asyncio.TaskGroup() as group:
            group.create_task(run_fleet(fleet, totals))
            group.create_task(_check_first_device(args, fleet.device_ids[0]))
            group.create_task(_show_totals(args.output != "text", totals, fleet.server))
    except (TimeoutError, asyncio.CancelledError):
        pass  # The time is up, or Ctrl-C.
    except BaseExceptionGroup as failures:
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def _check_first_device(args: argparse.Namespace, device_id: str) -> None:
    """Raise CliError if the tenant does not have the first device: nothing would ever be pending.

    Calls of DeviceJobService accept unknown devices. ListJobExecutions does not, but the caller may
    lack its role; then this check passes.
    """
    async with connect(args, RetryPolicy(max_attempts=1)) as jobs:
        try:
            async for _ in jobs.executions(device_id=device_id, limit=1):
                pass
        except errors.DeviceNotFound:
            tenant = resolve_target(args).tenant
            raise CliError(
                f"{f'tenant {tenant}' if tenant else 'the tenant'} has no device {device_id};"
                " import it, or choose others with --first and --device-format",
                ExitCode.NOT_FOUND,
            ) from None
        except JobsError:
            pass  # The fleet reports why it cannot call the server.


async def _show_totals(quiet: bool, totals: Totals, server: str) -> None:
    """Print the totals when they have changed, until the task is canceled."""
    shown, was_retrying = totals.counters(), False
    while True:
        await asyncio.sleep(_LINE_INTERVAL_SECONDS)
        if totals.retrying and not was_retrying:
            print_note(retry_note(totals.retrying, server))
        was_retrying = bool(totals.retrying)
        counters = totals.counters()
        if not quiet and counters != shown:
            shown = counters
            print(_progress_line(totals), flush=True)


def _progress_line(totals: Totals) -> str:
    """Return the time and the counters that are not 0. On a terminal, the date is left out."""
    now = utc_now().partition("T")[2] if sys.stdout.isatty() else utc_now()
    counters = {"active": totals.active} | totals.counters()
    return " ".join([now, *(f"{name}={number}" for name, number in counters.items() if number)])
