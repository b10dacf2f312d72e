"""`jobs-grpc serve`: the service on a database that is there already."""

import argparse
import asyncio
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobs_grpc import app, telemetry
from jobs_grpc.config import Config, describe_settings

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands


def add_commands(commands: "Commands") -> None:
    """Add `serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve on the database of JOBS_DATABASE_URL",
        description="Serve on the database of JOBS_DATABASE_URL until SIGTERM or SIGINT. Calls "
        "in flight are then finished; a second signal ends them.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_serve)


def serve(config: Config, on_serving: Callable[[app.App], None] | None = None) -> None:
    """Serve until a signal says stop; `on_serving` is called once when the service is ready."""
    telemetry.configure_logging(config.log_level, config.log_format)
    asyncio.run(_until_signal(config, on_serving))


async def _until_signal(config: Config, on_serving: Callable[[app.App], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set()
        for each in signals:
            loop.remove_signal_handler(each)

    for each in signals:
        loop.add_signal_handler(each, on_signal)

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
    serve(Config.from_env(os.environ))


def _settings() -> str:
    lines = ["environment:"]
    for name, default, meaning in describe_settings():
        lines.append(f"  {name:<27} {meaning}" + (f" [{default}]" if default else ""))
    return "\n".join(lines)
