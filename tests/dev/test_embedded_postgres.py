"""The embedded PostgreSQL: its data, its folder, and who may use it."""

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from jobs_grpc.dev import embedded_postgres

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="PostgreSQL changes its account as root only"
)

# Holds a cluster until it is killed.
HOLDER = """
import sys
from pathlib import Path
from jobs_grpc.dev import embedded_postgres
with embedded_postgres.running(Path(sys.argv[1]), "fsync=off"):
    print("running", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that every account can go through."""
    with tempfile.TemporaryDirectory(prefix="jobs-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def _query(cluster: embedded_postgres.Cluster, sql: str) -> object:
    connection = await asyncpg.connect(cluster.dsn("postgres"))
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def _modes(*folders: Path) -> list[tuple[int, int]]:
    return [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders]


async def test_data_is_found_again(base: Path) -> None:
    with embedded_postgres.running(base / "data", "fsync=off") as cluster:
        await _query(cluster, "CREATE TABLE kept AS SELECT 42 AS n")

    with embedded_postgres.running(base / "data", "fsync=off") as cluster:
        assert await _query(cluster, "SELECT n FROM kept") == 42


async def test_a_second_use_of_the_folder_is_refused(base: Path) -> None:
    with embedded_postgres.running(base / "data", "fsync=off") as cluster:
        with (
            pytest.raises(
                embedded_postgres.EmbeddedError, match=f"another process uses {base / 'data'}"
            ),
            embedded_postgres.running(base / "data"),
        ):
            pass

        assert await _query(cluster, "SELECT 1") == 1


async def test_a_server_whose_parent_was_killed_is_taken_over(base: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, str(base / "data")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert holder.stdout
    assert await holder.stdout.readline() == b"running\n"
    holder.kill()
    await holder.wait()
    left_over = (base / "data/pgdata/postmaster.pid").read_text().split()[0]

    with embedded_postgres.running(base / "data", "fsync=off") as cluster:
        taken_over = (base / "data/pgdata/postmaster.pid").read_text().split()[0]
        assert taken_over != left_over
        assert await _query(cluster, "SELECT 1") == 1


async def test_a_stranger_that_has_the_pid_of_a_killed_server_is_left_alone(base: Path) -> None:
    with embedded_postgres.running(base / "data", "fsync=off"):
        told = (base / "data/pgdata/postmaster.pid").read_text().splitlines()
    owner = (base / "data/pgdata").stat()
    stranger = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "sleep", "600"), user=owner.st_uid, group=owner.st_gid, cwd="/"
    )
    told[0] = str(stranger.pid)
    (base / "data/pgdata/postmaster.pid").write_text("\n".join(told))

    try:
        # PostgreSQL itself can't tell this account's process from a server of its own.
        with (
            pytest.raises(
                embedded_postgres.EmbeddedError, match=r'lock file "postmaster.pid" already'
            ),
            embedded_postgres.running(base / "data", "fsync=off"),
        ):
            pass

        assert stranger.returncode is None
        stranger.kill()
        await stranger.wait()
        with embedded_postgres.running(base / "data", "fsync=off") as cluster:
            assert await _query(cluster, "SELECT 1") == 1
    finally:
        if stranger.returncode is None:
            stranger.kill()
            await stranger.wait()


async def test_a_copy_of_a_running_folder_does_not_stop_the_original(base: Path) -> None:
    with embedded_postgres.running(base / "copy", "fsync=off"):
        pass
    with embedded_postgres.running(base / "data", "fsync=off") as cluster:
        pid_file = "pgdata/postmaster.pid"
        (base / "copy" / pid_file).write_text((base / "data" / pid_file).read_text())

        with (
            pytest.raises(embedded_postgres.EmbeddedError),
            embedded_postgres.running(base / "copy"),
        ):
            pass

        assert await _query(cluster, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["long" * 25, "with a space", "o'brien"])
async def test_any_folder_works(base: Path, name: str) -> None:
    with embedded_postgres.running(base / name, "fsync=off") as cluster:
        assert await _query(cluster, "SELECT 1") == 1


async def test_it_listens_on_no_port(base: Path) -> None:
    with embedded_postgres.running(base / "data", "fsync=off") as cluster:
        assert await _query(cluster, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(cluster.data_dir.stat().st_mode) == 0o700


async def test_the_socket_is_private_in_a_folder_that_is_not(base: Path) -> None:
    data = base / "data"
    with embedded_postgres.running(data, "fsync=off"):
        pass
    data.chmod(0o755)

    with embedded_postgres.running(data, "fsync=off") as cluster:
        (socket,) = data.glob(".s.PGSQL.5432")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert await _query(cluster, "SELECT 1") == 1


def test_a_folder_that_cannot_be_made_is_one_clear_line(base: Path) -> None:
    (base / "file").touch()

    with (
        pytest.raises(
            embedded_postgres.EmbeddedError, match=f"can't use the data folder {base}/file/data"
        ),
        embedded_postgres.running(base / "file" / "data"),
    ):
        pass


@as_root
def test_as_root_no_folder_above_is_opened_up(base: Path) -> None:
    parents = (base, base / "a", base / "a" / "b")
    parents[-1].mkdir(parents=True)
    parents[1].chmod(0o711)
    before = _modes(*parents)

    with embedded_postgres.running(parents[-1] / "data", "fsync=off"):
        assert _modes(*parents) == before
    assert _modes(*parents) == before


@as_root
def test_as_root_a_private_folder_is_refused_and_stays_private(base: Path) -> None:
    private = base / "private"
    private.mkdir(mode=0o700)
    before = _modes(private)

    with (
        pytest.raises(
            embedded_postgres.EmbeddedError, match=f"can't reach {private}/data; set JOBS_DATA"
        ),
        embedded_postgres.running(private / "data"),
    ):
        pass

    assert _modes(private) == before


@as_root
async def test_as_root_a_folder_that_is_there_keeps_its_owner(base: Path) -> None:
    """It may hold other things; the cluster gets a folder in it, also the next time."""
    data = base / "data"
    data.mkdir(mode=0o755)
    (data / "other").touch()
    before = _modes(data, data / "other")

    with embedded_postgres.running(data, "fsync=off") as first:
        await _query(first, "CREATE TABLE kept AS SELECT 42 AS n")
    with embedded_postgres.running(data, "fsync=off") as second:
        assert await _query(second, "SELECT n FROM kept") == 42

    assert first.data_dir == second.data_dir == data / "jobs-grpc"
    assert _modes(data, data / "other") == before


@as_root
def test_as_root_a_folder_of_another_account_is_refused(base: Path) -> None:
    own = base / "data" / "jobs-grpc"
    own.mkdir(parents=True)
    before = _modes(own)

    with (
        pytest.raises(
            embedded_postgres.EmbeddedError, match=f"^{own} does not belong to the account"
        ),
        embedded_postgres.running(base / "data"),
    ):
        pass

    assert _modes(own) == before
