"""`jobs-grpc simulate`: a fleet of devices that carry out jobs."""

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from jobs_grpc.cli import errors
from jobs_grpc.cli.connection import add_client_command, caller_metadata, channel_credentials
from jobs_grpc.cli.errors import Failed
from jobs_grpc.cli.output import note
from jobs_grpc.cli.watch import clock
from jobs_grpc.client.retry import CallFailed, Totals
from jobs_grpc.dev.simulator.fleet import Behaviour, Fleet, run_fleet

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands

T = TypeVar("T")

# More devices than these poll: a stream each is not what a laptop should carry.
_MAX_WATCHING = 500

# Polls of the whole fleet a second, unless --poll says otherwise.
_POLL_RATE = 150

# Seconds between lines where there is no terminal.
_LINE_INTERVAL = 5.0

_DAY = 86400.0

# What of the totals the summary leaves out.
_NO_NUMBERS = frozenset({"at_work", "asked", "answered", "away", "last_error"})


def add_commands(commands: "Commands") -> None:
    """Add `simulate`."""
    parser = add_client_command(commands, "simulate", _simulate, "be a fleet that carries out jobs")
    parser.description = (
        "Be a fleet of devices: each waits for jobs, starts them, reports progress, and ends them. "
        "The devices must exist; the default names are those of `dev`. Ctrl-C ends it; what was "
        "at work then is taken up by the next run. While the server is away, it is tried again."
    )
    add = parser.add_argument
    seconds = _typed(lambda text: _number(text, 0.001, _DAY), "seconds, more than 0")
    add(
        "--devices",
        type=_typed(lambda text: _count(text, 1, 100_000), "from 1 to 100000"),
        required=True,
        metavar="N",
        help="how many",
    )
    add("--first", type=int, default=1, metavar="N", help="number of the first [1]")
    add(
        "--device-format",
        type=_typed(_device_format, "printable ASCII with a field such as {:04}"),
        default="device-{:04}",
        metavar="FORMAT",
        help="a device's name, given its number [device-{:04}]",
    )
    add(
        "--latency",
        type=_typed(_latency, "MIN:MAX seconds"),
        default=(1.0, 5.0),
        metavar="MIN:MAX",
        help="seconds that a device takes for a job [1:5]",
    )
    for name, default, what in (
        ("failure", 0.05, "fail"),
        ("reject", 0.0, "are refused by the device"),
        ("silence", 0.01, "are started and never reported again"),
    ):
        add(
            f"--{name}-rate",
            type=_typed(lambda text: _number(text, 0, 1), "from 0 to 1"),
            default=default,
            metavar="0–1",
            help=f"how many {what} [{default:g}]",
        )
    add(
        "--progress",
        type=_typed(lambda text: _count(text, 0, 1000), "from 0 to 1000"),
        default=2,
        metavar="N",
        help="reports in between [2]",
    )
    add(
        "--poll",
        type=seconds,
        metavar="SECONDS",
        help=f"ask for jobs so often [up to {_MAX_WATCHING} devices are told by streams; "
        f"more ask, {_POLL_RATE} a second together]",
    )
    add("--bridge", action="store_true", help="report for all devices over one stream")
    add("--for", type=seconds, dest="run_for", metavar="SECONDS", help="end then [Ctrl-C]")
    add("--seed", type=int, metavar="N", help="with the same seed, devices fare the same")
    for action in parser._actions:
        if action.dest == "json":
            action.help = "the summary as JSON"


def _simulate(args: argparse.Namespace) -> None:
    if args.failure_rate + args.reject_rate + args.silence_rate > 1:
        raise Failed("the rates must not add up to more than 1", errors.USAGE)
    totals = Totals()
    started = time.monotonic()
    try:
        asyncio.run(_until_told(_fleet(args), totals, args.run_for, args.json))
    except CallFailed as e:
        raise Failed(str(e), errors.exit_code(e.code)) from None
    if totals.asked and not totals.answered:
        reason = totals.away or "there was no answer"
        raise Failed(
            f"the server at {args.server} could not be reached: {reason}", errors.UNAVAILABLE
        )
    elapsed = timedelta(seconds=time.monotonic() - started)
    if args.json:
        print(json.dumps({"seconds": round(elapsed.total_seconds(), 3)} | _numbers(totals)))
        return
    numbers = ", ".join(
        f"{number} {name}"
        for name, number in _numbers(totals).items()
        if number or name in ("started", "succeeded")
    )
    print(f"after {clock(elapsed)}: {numbers}")
    if totals.last_error:
        note(f"last error: {totals.last_error}")


def _fleet(args: argparse.Namespace) -> Fleet:
    poll = args.poll
    if poll is None and args.devices > _MAX_WATCHING:
        poll = args.devices / _POLL_RATE
    behaviour = Behaviour(
        latency=args.latency,
        failure_rate=args.failure_rate,
        reject_rate=args.reject_rate,
        silence_rate=args.silence_rate,
        progress=args.progress,
        seed=random.randrange(2**32) if args.seed is None else args.seed,  # noqa: S311
    )
    numbers = range(args.first, args.first + args.devices)
    return Fleet(
        server=args.server,
        metadata=caller_metadata(args),
        credentials=channel_credentials(args),
        device_ids=[args.device_format.format(number) for number in numbers],
        behaviour=behaviour,
        poll=poll,
        bridge=args.bridge,
        timeout=args.timeout,
    )


async def _until_told(fleet: Fleet, totals: Totals, run_for: float | None, quiet: bool) -> None:
    how = f"asking every {fleet.poll:g} s" if fleet.poll else "told by streams"
    title = f"{len(fleet.device_ids):,} devices, {how}"
    try:
        async with asyncio.timeout(run_for), asyncio.TaskGroup() as group:
            group.create_task(run_fleet(fleet, totals))
            group.create_task(_show(title, quiet, totals))
    except (TimeoutError, asyncio.CancelledError):
        pass  # The end that was asked for; what is at work is left as it is.
    except BaseExceptionGroup as failed:
        raise _first(failed) from None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _show(title: str, quiet: bool, totals: Totals) -> None:
    """Show the totals as they change, for ever."""
    if not quiet and sys.stdout.isatty():
        try:
            from jobs_grpc.cli.live import live_totals
        except ImportError:
            pass  # without rich
        else:
            with live_totals(title, totals):
                await asyncio.Event().wait()
    shown, away = _numbers(totals), False
    while True:
        await asyncio.sleep(_LINE_INTERVAL)
        if totals.away and not away:
            note(f"the server is away, trying again: {totals.away}")
        away = bool(totals.away)
        numbers = _numbers(totals)
        if not quiet and numbers != shown:
            shown = numbers
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            pairs = {"at_work": totals.at_work} | numbers
            print(now, *(f"{name}={number}" for name, number in pairs.items()), flush=True)


def _numbers(totals: Totals) -> dict[str, int]:
    fields = dataclasses.asdict(totals)
    return {name: fields[name] for name in fields if name not in _NO_NUMBERS}


def _typed(parse: Callable[[str], T], what: str) -> Callable[[str], T]:
    """An argument's type; what does not parse is told what it must be."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what}") from None

    return parsed


def _number(text: str, low: float, high: float) -> float:
    number = float(text)
    if not low <= number <= high:
        raise ValueError
    return number


def _device_format(text: str) -> str:
    try:
        names = {text.format(number) for number in (1, 2)}
    except (LookupError, AttributeError) as e:
        raise ValueError from e
    if len(names) != 2 or not text.isascii() or not text.isprintable():
        raise ValueError
    return text


def _latency(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    fastest = _number(low, 0, _DAY)
    return fastest, _number(high or low, fastest, _DAY)


def _count(text: str, low: int, high: int) -> int:
    number = int(text)
    if not low <= number <= high:
        raise ValueError
    return number
