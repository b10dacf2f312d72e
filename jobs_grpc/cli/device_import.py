"""`jobs-grpc devices import`: imports devices from a CSV file."""

import argparse
import csv
import os
from collections.abc import Callable, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from fleet.jobs.v1.jobs_pb2 import CancelExecutionRequest, Stage

from jobs_grpc.cli.command import Subparsers, add_local_command
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.files import standard_input
from jobs_grpc.cli.output import print_note, progress_line
from jobs_grpc.cli.owner_audit import add_tenant, audited, read_tenant
from jobs_grpc.config import LimitsConfig, read_dsn
from jobs_grpc.config.declaration import read_group
from jobs_grpc.contract.field_rules import check
from jobs_grpc.db.device_import import (
    DeviceRow,
    DotSegments,
    Imported,
    TooManyDevices,
    TooManyLabels,
    import_devices,
)
from jobs_grpc.server.signals import interrupt_on_stop_signals, run_until_stop_signal
from jobs_grpc.services.selectors import check_labels
from jobs_grpc.services.time_zones import check_time_zone

_COLUMNS = {"device_id", "group_id", "time_zone"}
_LABEL = "label:"
_MAX_REPORTED = 20
# Memory holds a whole row, which can span lines.
_MAX_ROW_CHARACTERS = 1 << 20
_PROGRESS_LINES = 5000


def add_command(commands: Subparsers) -> None:
    parser = add_local_command(commands, "import FILE", _import_devices)
    parser.add_argument("file", metavar="FILE", help="CSV file; - reads standard input")
    add_tenant(parser, "tenant of the devices")


def _import_devices(args: argparse.Namespace) -> None:
    """Import devices from a CSV file.

    Uses the database of JOBS_OWNER_DATABASE_URL. The file is CSV in UTF-8 with a
    header: device_id, and optionally group_id, time_zone, and label:KEY for each label. A device
    can have several lines, one for each of its groups; if several lines set a label or the time
    zone, the last one wins. Devices and memberships that exist stay. Labels and time zones replace
    those of the device; an empty cell changes nothing. If any line is invalid, nothing is imported.
    Updates the planner's statistics of the tables (ANALYZE) if the login may. Writes a line of the
    audit log to stderr, as JSON.

    jobs-grpc devices import fleet.csv --tenant acme
    gunzip -c fleet.csv.gz | jobs-grpc devices import - --tenant acme
    """
    owner_dsn = read_dsn(os.environ, "JOBS_OWNER_DATABASE_URL")
    max_devices = read_group(LimitsConfig, os.environ).max_tenant_devices
    tenant = read_tenant(args)
    with (
        interrupt_on_stop_signals(),
        _open_file(args.file) as file,
        audited("devices import", owner_dsn, tenant=tenant) as audit,
    ):
        rows = _CsvRows(args.file, file)

        def on_commit(imported: Imported) -> None:
            audit["changes"] = {
                "registered": imported.devices,
                "memberships": imported.memberships,
                "labels_or_time_zone": imported.changed,
            }

        try:
            with progress_line() as rows.show_progress:
                imported = run_until_stop_signal(
                    import_devices(owner_dsn, tenant, rows, max_devices, on_commit)
                )
        except (DotSegments, TooManyLabels) as e:
            raise InvalidInput(f"nothing was imported: {e}") from None
        except TooManyDevices as e:
            limit = f"JOBS_MAX_TENANT_DEVICES is {max_devices:,}"
            raise InvalidInput(f"nothing was imported: {e} ({limit})") from None
        except KeyboardInterrupt:
            which = "all lines" if "changes" in audit else "all lines or none"
            print_note(f"interrupted: {which} were imported; you can repeat the command")
            raise
    changed = f", devices with new labels or time zone: {imported.changed}"
    print(
        f"lines read: {rows.line_count}, new devices: {imported.devices},"
        f" new group memberships: {imported.memberships}{changed if rows.has_labels else ''}"
    )
    print_note(*imported.warnings)


class _CsvRows:
    """Iterates over the rows of a CSV file. Raises CliError at the end if a line is invalid."""

    def __init__(self, name: str, file: TextIO) -> None:
        self._name = name
        self._file = file
        self._row_characters = 0
        self.line_count = 0
        self.has_labels = False
        """Whether the file has labels or time zones."""
        self.show_progress: Callable[[str], None] | None = None

    def __iter__(self) -> Iterator[DeviceRow]:
        problems: list[str] = []
        try:
            reader = csv.DictReader(self._lines(), strict=True)
            label_keys = self._read_header(reader.fieldnames)
            self._row_characters = 0
            for row in reader:
                self._row_characters = 0
                self.line_count += 1
                if self.show_progress and self.line_count % _PROGRESS_LINES == 0:
                    self.show_progress(f"{self.line_count:,} lines")
                device_row, problem = _read_row(row, label_keys)
                if problem:
                    problems.append(f"{self._name}:{reader.line_num}: {problem}")
                    if len(problems) >= _MAX_REPORTED:
                        problems.append("…")
                        break
                elif not problems:
                    yield device_row
        except UnicodeDecodeError:
            problems.append(f"{self._name}: must be UTF-8")
        except csv.Error as e:
            # line_num counts only the lines that the reader has accepted.
            problems.append(f"{self._name}:{reader.line_num + 1}: {e}")
        if problems:
            raise InvalidInput("nothing was imported:\n" + "\n".join(problems))

    def _lines(self) -> Iterator[str]:
        """Yield the lines of the file. Raises csv.Error if a row is too long."""
        while line := self._file.readline(_MAX_ROW_CHARACTERS + 1):
            self._row_characters += len(line)
            if self._row_characters > _MAX_ROW_CHARACTERS:
                raise csv.Error(f"has more than {_MAX_ROW_CHARACTERS:,} characters")
            yield line

    def _read_header(self, columns: object) -> dict[str, str]:
        """Return the keys of the labels by their columns. Raises CliError."""
        found = list(columns) if isinstance(columns, list) else []
        keys = {name: name.removeprefix(_LABEL) for name in found if name.startswith(_LABEL)}
        unknown = set(found) - _COLUMNS - set(keys)
        if unknown or "device_id" not in found or len(set(found)) != len(found):
            actual = f", not {', '.join(map(repr, found))}" if found else ""
            raise InvalidInput(
                f"{self._name}:1: the header must be device_id, and optionally group_id,"
                f" time_zone and label:KEY{actual}"
            )
        if violations := check_labels(dict.fromkeys(keys.values(), ""), of_device=True):
            raise InvalidInput(f"{self._name}:1: {violations[0].description}")
        self.has_labels = bool(keys) or "time_zone" in found
        return keys


def _read_row(row: dict[str, str], label_keys: Mapping[str, str]) -> tuple[DeviceRow, str]:
    """Return the device of a row, and what is invalid about it; empty: nothing."""
    if None in row or None in row.values():
        return DeviceRow(""), "must have as many columns as the header"
    device_row = DeviceRow(
        row["device_id"],
        row.get("group_id") or None,
        row.get("time_zone") or None,
        {key: row[column] for column, key in label_keys.items() if row[column]},
    )
    violations = check(CancelExecutionRequest(job_id="any", device_id=device_row.device_id))
    if device_row.group_id is not None:
        violations += check(Stage(group_id=device_row.group_id))
    violations += check_labels(device_row.labels, of_device=True)
    violations += check_time_zone(device_row.time_zone or "")
    return device_row, "; ".join(violation.description for violation in violations)


def _open_file(name: str) -> TextIO:
    """Open the file, or standard input: UTF-8, whatever the locale's encoding is."""
    try:
        if name != "-":
            return Path(name).open(encoding="utf-8-sig", newline="")
    except OSError as e:
        raise InvalidInput(f"can't read {name}: {e.strerror}") from None
    return TextIOWrapper(standard_input(), encoding="utf-8-sig", newline="")
