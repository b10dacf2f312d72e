"""`jobs-grpc devices import`: a fleet from a CSV file."""

import argparse
import asyncio
import csv
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from jobs_grpc.auth.principal import IDENTIFIER_RULE, is_identifier
from jobs_grpc.cli import errors
from jobs_grpc.cli.errors import Failed
from jobs_grpc.cli.output import byte_progress
from jobs_grpc.config import read_dsn
from jobs_grpc.db.device_import import Member, import_devices
from jobs_grpc.server.signals import interrupting
from jobs_grpc.services import validation

if TYPE_CHECKING:
    from jobs_grpc.cli.output import Commands

_COLUMNS = {"device_id", "group_id"}
_MAX_REPORTED = 20


def add_commands(commands: "Commands") -> None:
    """Add `devices import`."""
    devices = commands.add_parser("devices", help="the fleet of a tenant")
    subcommands = devices.add_subparsers(metavar="COMMAND", required=True)
    parser = subcommands.add_parser(
        "import",
        help="add the devices of a CSV file",
        description="Add devices to the database of JOBS_OWNER_DATABASE_URL. The file is CSV in "
        "UTF-8 with a header: device_id and, optionally, group_id. A device may stand in "
        "several lines, with a group each. What is there already is left as it is. If a line "
        "is wrong, nothing is loaded.",
    )
    parser.add_argument("file", metavar="FILE.csv", help="the file; - reads standard input")
    parser.add_argument("--tenant", required=True, help="whose devices they are")
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    owner_dsn = read_dsn(os.environ, "JOBS_OWNER_DATABASE_URL")
    if not is_identifier(args.tenant):
        raise Failed(f"--tenant {IDENTIFIER_RULE}", errors.USAGE)
    with interrupting(), _open(args.file) as (file, size):
        members = _Members(args.file, file)
        imported = asyncio.run(
            import_devices(owner_dsn, args.tenant, byte_progress(members, file, size))
        )
    print(
        f"{members.count} lines: {imported.devices} new devices,"
        f" {imported.memberships} new group memberships"
    )


class _Members:
    """The members that a CSV file names; Failed, at its end, if any line is wrong."""

    def __init__(self, name: str, file: TextIO) -> None:
        self._name = name
        self._file = file
        self.count = 0

    def __iter__(self) -> Iterator[Member]:
        problems: list[str] = []
        try:
            reader = csv.DictReader(self._file, strict=True)
            self._check_header(reader.fieldnames)
            for row in reader:
                self.count += 1
                member = Member(row["device_id"] or "", row.get("group_id") or None)
                problem = _problem(row, member)
                if problem:
                    problems.append(f"{self._name}:{reader.line_num}: {problem}")
                    if len(problems) >= _MAX_REPORTED:
                        problems.append("…")
                        break
                elif not problems:
                    yield member
        except UnicodeDecodeError:
            problems.append(f"{self._name}: is not UTF-8")
        except csv.Error as e:
            # The reader counts a line once it has taken it in.
            problems.append(f"{self._name}:{reader.line_num + 1}: {e}")
        if problems:
            raise Failed("nothing was loaded:\n" + "\n".join(problems), errors.USAGE)

    def _check_header(self, columns: object) -> None:
        found = list(columns) if isinstance(columns, list) else []
        unknown = sorted(set(found) - _COLUMNS)
        if unknown or "device_id" not in found or len(set(found)) != len(found):
            shown = f", not {', '.join(map(repr, found))}" if found else ""
            raise Failed(
                f"{self._name}:1: the header must be device_id or device_id,group_id{shown}",
                errors.USAGE,
            )


def _problem(row: dict[str, str], member: Member) -> str | None:
    if None in row or None in row.values():
        return "has another number of columns than the header"
    violations = validation.check_text("device_id", member.device_id, validation.MAX_ID_LENGTH)
    if member.group_id is not None:
        violations += validation.check_text("group_id", member.group_id, validation.MAX_ID_LENGTH)
    return "; ".join(v.description for v in violations) or None


@contextmanager
def _open(name: str) -> Iterator[tuple[TextIO, int | None]]:
    """The file, and its size if it is one that has a size."""
    size = None
    try:
        if name == "-":
            raw = _standard_input()
        else:
            raw = Path(name).open("rb")  # noqa: SIM115 - closed with its wrapper
            size = os.fstat(raw.fileno()).st_size if raw.seekable() else None
    except OSError as e:
        raise Failed(f"can't read {name}: {e.strerror}", errors.USAGE) from None
    with TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        yield file, size


def _standard_input() -> BinaryIO:
    """As bytes: the locale's encoding is not the file's."""
    if sys.stdin is None:
        raise Failed("standard input is closed", errors.USAGE)
    return sys.stdin.buffer
