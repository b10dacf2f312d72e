"""Finds the version of the project that users upgrade from, and takes its code from the history."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.harness.system import Code

_ROOT = Path(__file__).parents[2]

# A release sets these files (see CONTRIBUTING.md): the functions that servers of the released
# version call, and its contract.
_BASELINES = ("tests/db/released_functions.json", "protos/released.txtpb")


class NoHistoryError(Exception):
    """The earlier version is not in this copy of the project. The message says what is missing."""


def find_earlier_commit() -> str:
    """Return the newest tag before HEAD; without tags, the last commit that set the baseline.

    The tag of HEAD does not count: a release is compared with the release before it. Without tags,
    HEAD counts, because it may break what was never released. Raises NoHistoryError.
    """
    if not (_ROOT / ".git").exists():
        raise NoHistoryError("this is not a clone of the repository")
    if _git("rev-parse", "--is-shallow-repository").strip() == b"true":
        raise NoHistoryError("the clone is shallow: run `git fetch --unshallow --tags`")
    tags = _git("tag", "--list", "v*", "--merged", "HEAD^", "--sort", "-creatordate").split()
    if tags:
        return tags[0].decode()
    return _git("log", "-1", "--format=%H", "--", *_BASELINES).decode().strip()


def extract(commit: str, folder: Path) -> Code:
    """Put the code of a commit into a folder."""
    archive = _git("archive", commit, "jobs_grpc", "generated")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return Code(folder)


def _git(*args: str) -> bytes:
    # A repository of another user, as in a container, is readable all the same.
    command = ["git", "-c", f"safe.directory={_ROOT}", "-C", str(_ROOT), *args]
    try:
        return subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603
    except FileNotFoundError:
        raise NoHistoryError("git is not installed") from None
    except subprocess.CalledProcessError as e:
        raise NoHistoryError(e.stderr.decode().strip()) from None
