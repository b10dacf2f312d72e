"""Lines of the audit log for commands that change the database as its owner, without a server."""

import getpass
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from jobs_grpc.cli.errors import CliError
from jobs_grpc.observability import logs


@contextmanager
def audited(command: str, owner_dsn: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """Write a line of JSON to stderr when the block ends, like those of the server's audit log.

    It has who ran the command, on which database, and the result: OK, FAILED with the type of the
    error, or CANCELLED for a command that was interrupted. The block may add fields to the
    dictionary. There is no line for a CliError, which says that nothing was changed.
    """
    dsn = urlsplit(owner_dsn)
    fields |= {
        "subject": _account(),
        "login": dsn.username,
        "database": f"{dsn.hostname or ''}{dsn.path}",
    }
    started = time.perf_counter()
    try:
        yield fields
    except CliError:
        raise
    except BaseException as e:
        code = "CANCELLED" if isinstance(e, KeyboardInterrupt) else "FAILED"
        _write(command, {"code": code, **fields, "reason": type(e).__name__}, started)
        raise
    _write(command, {"code": "OK", **fields}, started)


def _write(command: str, fields: dict[str, Any], started: float) -> None:
    record = logging.makeLogRecord(
        {
            "name": "jobs_grpc.audit",
            "levelname": "INFO",
            "msg": f"audit {command}",
            "fields": fields | {"ms": round((time.perf_counter() - started) * 1000, 2)},
        }
    )
    print(logs.JsonFormatter().format(record), file=sys.stderr, flush=True)


def _account() -> str:
    """Return the account of the operating system: its name, or its number in most containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
