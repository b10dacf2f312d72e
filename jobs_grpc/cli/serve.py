"""`jobs-grpc serve`: the service on a database that is there already."""

import argparse
import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import TYPE_CHECKING

from jobs_grpc import app, telemetry
from jobs_grpc.config import Config, describe_settings
from jobs_grpc.signals import handling

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_commands(commands: "Commands") -> None:
    """Add `serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve on the database of JOBS_DATABASE_URL",
        description="Serve on the database of JOBS_DATABASE_URL until SIGTERM or SIGINT. Calls "
        "in flight may then go on for JOBS_SHUTDOWN_GRACE; a second signal ends them at once.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--insecure-metadata",
        action="store_true",
        help="as JOBS_INSECURE_METADATA=true",
    )
    parser.set_defaults(run=_serve)


def serve(config: Config, on_serving: Callable[[app.App], None] | None = None) -> None:
    """Serve until a signal says stop; `on_serving` is called once when the service is ready."""
    telemetry.configure_logging(config.log_level, config.log_format)
    try:
        asyncio.run(_until_signal(config, on_serving))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _signals(stop: asyncio.Event) -> AbstractContextManager[None]:
    """Let the first signal set `stop`, and a further one cancel the present task.

    Not with the loop's own handlers: they would leave SIGTERM with its default afterwards.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks

    def on_signal(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(task.cancel if stop.is_set() else stop.set)

    return handling(on_signal)


async def _until_signal(config: Config, on_serving: Callable[[app.App], None] | None) -> None:
    stop = asyncio.Event()
    with _signals(stop):
        await _serve_until(stop, config, on_serving)


async def _serve_until(
    stop: asyncio.Event, config: Config, on_serving: Callable[[app.App], None] | None
) -> None:
    async with app.running(config) as running:
        stopping = asyncio.create_task(stop.wait())
        serving = asyncio.create_task(running.serving.wait())
        waiting: set[asyncio.Task[object]] = {stopping, serving, running.failed}
        while not stopping.done() and not running.failed.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if serving in done and on_serving:
                on_serving(running)
        for task in (stopping, serving):
            task.cancel()
        if running.failed.done():
            await running.failed


def _serve(args: argparse.Namespace) -> None:
    flags = {"JOBS_INSECURE_METADATA": "true"} if args.insecure_metadata else {}
    serve(Config.from_env(os.environ | flags))


def _settings() -> str:
    lines = ["environment:"]
    for name, default, meaning in describe_settings():
        lines.append(f"  {name:<27} {meaning}" + (f" [{default}]" if default else ""))
    return "\n".join(lines)
