"""Creates, starts and stops the server of one data folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from jobs_grpc.dev.embedded_postgres.errors import EmbeddedPostgresError

SUPERUSER = "postgres"

_CONNECT_TIMEOUT = 5.0


class Server:
    """The server of one PostgreSQL data directory. Methods raise EmbeddedPostgresError."""

    def __init__(self, binaries: Path, pgdata: Path, account: pwd.struct_passwd | None) -> None:
        self._binaries = binaries
        self._pgdata = pgdata
        self._account = account

    def init(self) -> None:
        """Create the data directory if it does not exist."""
        if (self._pgdata / "PG_VERSION").exists():
            return
        # Renamed when it is complete, so that an interrupted initdb leaves no partial data.
        partial = self._pgdata.with_name("pgdata.new")
        shutil.rmtree(partial, ignore_errors=True)
        self._run(
            "initdb",
            f"--pgdata={partial}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        )
        partial.rename(self._pgdata)

    def start(self, socket_dir: Path, log: Path, settings: tuple[str, ...]) -> None:
        """Start the server with `settings` (NAME=VALUE) and wait until it accepts connections."""
        self.stop()
        # Anyone who can reach the socket can log in as any user, and the folder may be public.
        options = [
            f"unix_socket_directories={socket_dir}",
            "unix_socket_permissions=0700",
            "listen_addresses=",
            *settings,
        ]
        logged = log.stat().st_size if log.exists() else 0
        try:
            self._run(
                "pg_ctl",
                "start",
                "--wait",
                f"--pgdata={self._pgdata}",
                f"--log={log}",
                "--options=" + " ".join(f"-c '{option}'" for option in options),
            )
        except EmbeddedPostgresError as e:
            cause = _last_fatal_error(log, logged) or e
            raise EmbeddedPostgresError(f"PostgreSQL did not start: {cause}; see {log}") from None

    def stop(self) -> None:
        """Stop the server if it runs, also one that an earlier process started."""
        if self.running_socket_dir() is None:
            return
        try:
            self._run("pg_ctl", "stop", "--wait", "--mode=fast", f"--pgdata={self._pgdata}")
        except EmbeddedPostgresError:
            if self.running_socket_dir() is not None:
                raise

    def running_socket_dir(self) -> Path | None:
        """Return the socket folder in postmaster.pid if that server accepts connections.

        `pg_ctl stop` trusts that file, but it outlives a killed server, whose pid may belong
        to another process by now. In a copied folder it describes the original's server.
        """
        try:
            # Lines: pid, data directory, start time, port, socket directory, …
            lines = (self._pgdata / "postmaster.pid").read_text().splitlines()
            same_directory = self._pgdata.samefile(lines[1])
            socket_dir = Path(lines[4])
            address = str(socket_dir / f".s.PGSQL.{lines[3]}")
        except (OSError, IndexError, ValueError):
            return None
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_CONNECT_TIMEOUT)
            try:
                client.connect(address)
            except TimeoutError:
                pass  # It is busy, but running.
            except OSError:
                return None
        return socket_dir if same_directory else None

    def _run(self, program: str, *args: str) -> None:
        # Output goes to a file, not a pipe: the server that pg_ctl starts keeps it open.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(  # noqa: S603
                [self._binaries / program, *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                # In its own session, PostgreSQL does not receive Ctrl-C; we stop it ourselves.
                start_new_session=True,
                user=self._account and self._account.pw_uid,
                group=self._account and self._account.pw_gid,
                # acting_as has removed the groups of root.
                extra_groups=[] if self._account and os.geteuid() == 0 else None,
                check=False,
            )
            if result.returncode:
                output.seek(0)
                lines = output.read().decode(errors="replace").strip().splitlines()
                raise EmbeddedPostgresError(f"{program}: {lines[-1] if lines else 'failed'}")


def _last_fatal_error(log: Path, start: int) -> str | None:
    """Return the last fatal error after the first `start` bytes, which are of earlier runs."""
    try:
        lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    except OSError:
        return None
    errors = [line.partition("FATAL:")[2].strip() for line in lines if "FATAL:" in line]
    return errors[-1] if errors else None
