"""What commands on the owner's database share: --tenant, and lines like those of the audit log."""

import argparse
import getpass
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from jobs_grpc.auth.principal import TENANT_RULE, is_tenant_id
from jobs_grpc.cli.errors import CliError, InvalidInput
from jobs_grpc.observability import logs

# The maximum size of the changes in a line of the audit log.
_MAX_CHANGES_BYTES = 1024


def add_tenant(parser: argparse.ArgumentParser, help_text: str) -> None:
    parser.add_argument("--tenant", metavar="ID", help=f"{help_text} ($JOBS_TENANT)")


def read_tenant(args: argparse.Namespace) -> str:
    """Return the tenant of --tenant or JOBS_TENANT. Raises CliError."""
    # Ignore contexts: they name servers, and this command connects to a database.
    tenant = os.environ.get("JOBS_TENANT") or None if args.tenant is None else args.tenant
    if tenant is None:
        raise InvalidInput("--tenant or JOBS_TENANT is required")
    if not is_tenant_id(tenant):
        raise InvalidInput(f"--tenant {TENANT_RULE}")
    return str(tenant)


@contextmanager
def audited(command: str, owner_dsn: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """Write a line of JSON to stderr when the block ends, like those of the server's audit log.

    It has who ran the command, on which database, and the result: OK, FAILED with the type of the
    error, or CANCELLED for a command that was interrupted. The block may add fields to the
    dictionary. There is no line for a CliError, which says that nothing was changed.
    """
    dsn = urlsplit(owner_dsn)
    try:
        subject = getpass.getuser()
    except (KeyError, OSError):  # The UID has no name, as in most containers.
        subject = str(os.getuid())
    database = f"{dsn.hostname or ''}{dsn.path}"
    fields |= {"subject": subject, "login": dsn.username, "database": database}
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


def add_changes(fields: dict[str, Any], changes: Sequence[str]) -> None:
    """Add the number of changes, and as many of the first as take 1 KB."""
    fields["change_count"] = len(changes)
    fields["changes"] = logs.first_that_fit(changes, _MAX_CHANGES_BYTES)


def _write(command: str, fields: dict[str, Any], started: float) -> None:
    values = {"name": "jobs_grpc.audit", "levelname": "INFO", "msg": f"audit {command}"}
    timed = fields | {"ms": round((time.perf_counter() - started) * 1000, 2)}
    record = logging.makeLogRecord(values | {"fields": timed})
    print(logs.JsonFormatter().format(record), file=sys.stderr, flush=True)
