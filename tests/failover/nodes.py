"""PostgreSQL servers that are copies of that of the system: standbys and restored backups."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import asyncpg

from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries
from jobs_grpc.dev.embedded_postgres.server import Server
from tests.harness.system import POSTGRES_SETTINGS, System, owner_dsn
from tests.support.postgres import connected
from tests.support.processes import output_of
from tests.support.waiting import wait_until

_STANDBYS = """
    SELECT count(*) FROM pg_stat_replication
    WHERE application_name = 'walreceiver' AND state = 'streaming' AND sync_state = $1
"""
_REPLAYED = "SELECT pg_last_wal_replay_lsn()"
_QUIET_SECONDS = 0.2
_RESTORED_WITHIN = 600.0


@dataclass
class Node:
    """A data folder with its server, and the folder of its socket."""

    pgdata: Path
    sockets: Path
    server: Server

    @classmethod
    def of(cls, system: System) -> "Node":
        return cls(system.pgdata, system.socket_dir, system.postgres)

    @classmethod
    def new(cls, folder: Path, name: str) -> "Node":
        """Return a node without data in a folder of this name in that of the system."""
        account, node = unprivileged_account(), folder / name
        node.mkdir()
        if account:
            os.chown(node, account.pw_uid, account.pw_gid)
        pgdata = node / "pgdata"
        return cls(pgdata, node, Server(find_binaries(folder, account), pgdata, account))

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection]:
        async with connected(owner_dsn(self.sockets)) as connection:
            yield connection

    async def configure(self, **settings: str | None) -> None:
        """Change settings with ALTER SYSTEM; None removes one."""
        async with self.owner() as owner:
            for name, value in settings.items():
                change = f"RESET {name}" if value is None else f"SET {name} = '{value}'"
                await owner.execute(f"ALTER SYSTEM {change}")
            await owner.execute("SELECT pg_reload_conf()")

    async def start(self) -> None:
        log = self.sockets / "postgresql.log"
        await asyncio.to_thread(self.server.start, self.sockets, log, POSTGRES_SETTINGS)

    async def copy(self, primary: "Node", *options: str) -> None:
        """Make a base backup of a running server the data of this node."""
        await output_of("rm", "-rf", self.pgdata)
        account = unprivileged_account()
        await output_of(
            find_binaries(self.sockets.parent, account) / "pg_basebackup",
            *(f"--host={primary.sockets}", "--username=postgres"),
            *(f"--pgdata={self.pgdata}", "--checkpoint=fast", *options),
            cwd="/",
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=account and [],
        )

    async def restore(self, archive: Path, until: datetime | None) -> None:
        """Replay archived WAL on a base backup: until a time, or all of it. Accept writes then."""
        settings = {
            "restore_command": f"cp {archive}/%f %p",
            "recovery_target_time": until.isoformat() if until else "",
            "recovery_target_action": "promote",
            # Otherwise the copy would write to the archive of the original, and wait for a standby.
            "archive_mode": "off",
            "synchronous_standby_names": "",
        }
        with (self.pgdata / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        (self.pgdata / "recovery.signal").touch()
        await self.start()

        async def accepts_writes() -> bool:
            async with self.owner() as owner:
                return not await owner.fetchval("SELECT pg_is_in_recovery()")

        await wait_until(accepts_writes, _RESTORED_WITHIN)

    async def follow(self, primary: "Node", *, synchronous: bool) -> None:
        """Become a new standby of a server, whose commits wait for it if it is synchronous."""
        await self.copy(primary, "--write-recovery-conf", "--create-slot", "--slot", "standby")
        await self.start()
        await primary.configure(synchronous_standby_names="*" if synchronous else None)

        async def is_streaming() -> bool:
            async with primary.owner() as owner:
                return bool(await owner.fetchval(_STANDBYS, "sync" if synchronous else "async"))

        await wait_until(is_streaming)

    async def wait_until_replayed(self) -> None:
        """Return when a standby whose primary is lost has replayed what it has received."""
        async with self.owner() as owner:

            async def is_quiet() -> bool:
                before = await owner.fetchval(_REPLAYED)
                await asyncio.sleep(_QUIET_SECONDS)
                return bool(before == await owner.fetchval(_REPLAYED))

            await wait_until(is_quiet)

    async def promote(self) -> None:
        # The standby has the settings of its primary: without this, it would wait for a standby.
        await self.configure(synchronous_standby_names=None)
        async with self.owner() as owner:
            assert await owner.fetchval("SELECT pg_promote()")

    def serve(self, system: System) -> None:
        """Let the system check this server from now on."""
        system.pgdata, system.socket_dir, system.postgres = self.pgdata, self.sockets, self.server

    def signal_all(self, number: signal.Signals) -> None:
        """Send all processes of the server SIGSTOP or SIGKILL, as if its machine were lost."""
        file = self.pgdata / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int(file.read_text().split()[0])
            os.kill(pid, signal.SIGSTOP)  # It starts no more processes.
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for each in (*map(int, children), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, number)
            if number == signal.SIGKILL:
                file.unlink()
