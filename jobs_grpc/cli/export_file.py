"""The file that `export --to FILE` writes.

The rows go to FILE.part until the export is complete, and the progress to FILE.part.json. In a
shared folder, another user can create these names as links. So the export creates new files, and
continues only with regular files of its user.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TextIO

from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.files import replace_private_file

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# With O_NONBLOCK, opening a FIFO does not wait for its other end.
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass
class ExportState:
    """The progress of an export. It is stored after each page."""

    request: dict[str, object]
    job_created_at: str = ""
    """Tells the job from a later one with the same id."""
    page_token: str = ""
    row_count: int = 0
    size: int = 0
    """The bytes of the complete pages."""


class ExportFile:
    """The file of an export. It appears under its name when it is complete."""

    def __init__(self, name: str) -> None:
        """Raises CliError if `name` exists and is not a regular file."""
        self._path = Path(name)
        self._replaced_mode = self._check_regular(self._path)
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._state_file = self._path.with_name(f"{self._path.name}.part.json")

    def read_state(self, request: dict[str, object]) -> ExportState:
        """Return the progress of the interrupted export of the same request. Raises CliError."""
        try:
            with os.fdopen(self._open_own(self._state_file), encoding="utf-8") as file:
                state = _parse_state(file.read())
        except FileNotFoundError:
            raise CliError(
                f"nothing to resume: no file {self._state_file}", ExitCode.USAGE
            ) from None
        except (OSError, ValueError, TypeError, RecursionError):
            raise CliError(
                f"can't read {self._state_file}; export again without --resume", ExitCode.USAGE
            ) from None
        if state.request != request:
            both = state.request | request
            differs = ", ".join(key for key in both if state.request.get(key) != request.get(key))
            raise CliError(
                f"{self._state_file} belongs to a different export: {differs} differs",
                ExitCode.USAGE,
            )
        return state

    def save_state(self, state: ExportState, file: TextIO) -> None:
        """Store the progress: `file` has been flushed after a complete page. Raises CliError."""
        self._check_own(file)
        state.size = os.fstat(file.fileno()).st_size
        replace_private_file(self._state_file, json.dumps(asdict(state)))

    @contextmanager
    def writing(self, state: ExportState) -> Iterator[TextIO]:
        """Yield the file for the rows after those of `state`. Give it its name if the block ends.

        If the block fails, the rows stay for `--resume` when there is a stored state.
        """
        try:
            descriptor = self._reopen() if state.page_token else self._create()
            with os.fdopen(descriptor, "r+", encoding="utf-8", newline="") as file:
                try:
                    if os.fstat(file.fileno()).st_size < state.size:
                        raise self._lost_rows()
                    # Bytes after the last complete page may be part of an incomplete one.
                    file.seek(state.size)
                    file.truncate()
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                    self._publish(file)
                finally:
                    if self._is_own(file) and not self._state_file.exists():
                        self._part.unlink()
        except OSError as e:
            raise CliError(f"can't write {self._path}: {e.strerror}") from None

    def _create(self) -> int:
        if self._check_regular(self._part) is not None:
            # It has the rows of an earlier export.
            self._part.unlink()
        self._state_file.unlink(missing_ok=True)
        if self._replaced_mode is None:
            return os.open(self._part, _CREATE, 0o666)  # less the umask
        descriptor = os.open(self._part, _CREATE, 0o600)
        # A resumed export opens it again, also if it replaces a read-only file.
        os.fchmod(descriptor, self._replaced_mode | 0o600)
        return descriptor

    def _reopen(self) -> int:
        try:
            return self._open_own(self._part)
        except FileNotFoundError:
            raise self._lost_rows() from None

    def _is_own(self, file: TextIO) -> bool:
        """Return whether FILE.part is still `file`, and not that of another export."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._part.lstat())
        except FileNotFoundError:
            return False

    def _check_own(self, file: TextIO) -> None:
        if not self._is_own(file):
            raise CliError(f"another export has replaced {self._part}; export again")

    def _publish(self, file: TextIO) -> None:
        self._check_own(file)
        if self._replaced_mode is not None:
            os.fchmod(file.fileno(), self._replaced_mode)
        self._part.replace(self._path)
        self._state_file.unlink(missing_ok=True)

    def _lost_rows(self) -> CliError:
        return CliError(
            f"{self._part} has lost rows; export again without --resume", ExitCode.USAGE
        )

    def _open_own(self, path: Path) -> int:
        """Open a regular file of this user that has no other name."""
        self._check_regular(path)
        descriptor = os.open(path, _OPEN)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid():
            return descriptor
        os.close(descriptor)
        raise CliError(
            f"{path} belongs to another user or has another name; export again without --resume",
            ExitCode.USAGE,
        )

    def _check_regular(self, path: Path) -> int | None:
        """Return the permissions of a regular file; None if there is no file. Raises CliError."""
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return None
        except OSError as e:
            raise CliError(f"can't write {path}: {e.strerror}", ExitCode.USAGE) from None
        if stat.S_ISREG(mode):
            return mode & 0o777
        if stat.S_ISDIR(mode):
            problem = "it is a folder; name a file in it"
        elif stat.S_ISLNK(mode):
            problem = "it is a symbolic link; remove it or name another file"
        else:
            problem = "it is not a regular file; without --to, rows go to standard output"
        raise CliError(f"can't write {path}: {problem}", ExitCode.USAGE)


def _parse_state(text: str) -> ExportState:
    state = ExportState(**json.loads(text))
    types = [type(value) for value in astuple(state)]
    if types != [type(value) for value in astuple(ExportState({}))]:
        raise TypeError
    if not state.page_token.encode() or min(state.row_count, state.size) < 0:
        raise ValueError
    return state
