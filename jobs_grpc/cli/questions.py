"""Asks questions on the terminal."""

import asyncio
import sys

from jobs_grpc.cli.errors import CliError
from jobs_grpc.text import escape_unprintable


def can_ask() -> bool:
    """Return whether a person can answer: scripts have no terminal."""
    return all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))


async def confirm(question: str, *, yes: bool, verb: str) -> None:
    """Ask a person, unless --yes is given. Raises CliError after a "no".

    Without a terminal, it does not ask, because scripts cannot answer.
    """
    if not yes and can_ask() and not await ask(question):
        raise CliError(f"nothing was changed; to {verb} without this question, add --yes")


async def ask(question: str) -> bool:
    """Ask a question that has the answers yes and no. Ctrl-C ends the wait."""
    print(f"{escape_unprintable(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in ("y", "yes")
