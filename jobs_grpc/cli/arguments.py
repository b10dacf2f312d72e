"""Types of arguments whose refusals say what an argument must be."""

import argparse
from collections.abc import Callable
from typing import TypeVar

from jobs_grpc.config import parsers

T = TypeVar("T")


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which passes on the message of no other ValueError."""

    def checked(value: str) -> T:
        try:
            return parse(value)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return checked


def text(value: str) -> str:
    """Text that can be sent; an argument may be any bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("must be UTF-8") from None
    return value


def server(value: str) -> str:
    """Where a server listens."""
    return _argument(parsers.address)(text(value))


hours = _argument(parsers.integer(1, 720))
minutes = _argument(parsers.integer(1, 10080))
worker_count = _argument(parsers.worker_count)
limit = _argument(parsers.integer(1, 2**31 - 1))
timeout = _argument(parsers.seconds(0.001, 86400))
