"""`jobs-grpc serve`: the service on a database that is there already."""

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import TYPE_CHECKING

from jobs_grpc import app, telemetry
from jobs_grpc.cli.signals import STOP_SIGNALS
from jobs_grpc.config import Config, describe_settings

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
    parser.set_defaults(run=_serve)


def serve(config: Config, on_serving: Callable[[app.App], None] | None = None) -> None:
    """Serve until a signal says stop; `on_serving` is called once when the service is ready."""
    telemetry.configure_logging(config.log_level, config.log_format)
    asyncio.run(_until_signal(config, on_serving))


@asynccontextmanager
async def _set_by_signal(stop: asyncio.Event) -> AsyncIterator[None]:
    """Let the first signal set `stop`; the next does what it did before.

    Not with the loop's own handlers: those leave SIGTERM with its default, which would
    end the process without any cleaning up.
    """
    loop = asyncio.get_running_loop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        restore()
        loop.call_soon_threadsafe(stop.set)

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()


async def _until_signal(config: Config, on_serving: Callable[[app.App], None] | None) -> None:
    stop = asyncio.Event()
    async with _set_by_signal(stop), app.running(config) as running:
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
    config = Config.from_env(os.environ)
    # For the second signal: nothing here needs cleaning up.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    serve(config)


def _settings() -> str:
    lines = ["environment:"]
    for name, default, meaning in describe_settings():
        lines.append(f"  {name:<27} {meaning}" + (f" [{default}]" if default else ""))
    return "\n".join(lines)
