"""jobs-grpc devices import."""

import asyncio
import io
import os
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.support.cli import Result, Shell, spawn
from tests.support.database import Database
from tests.support.postgres import Postgres
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture
def shell(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """A shell whose environment has the owner's DSN."""
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)
    return Shell(capsys)


class _Import:
    def __init__(self, shell: Shell, folder: Path, tenant: str) -> None:
        self._shell = shell
        self._file = folder / "fleet.csv"
        self._tenant = tenant

    async def __call__(self, content: str | bytes) -> Result:
        raw = content if isinstance(content, bytes) else content.encode()
        self._file.write_bytes(raw)
        result = await self._shell("devices", "import", str(self._file), "--tenant", self._tenant)
        return Result(result.code, result.out, result.err.replace(str(self._file), "fleet.csv"))


@pytest.fixture
def load(shell: Shell, tmp_path: Path, tenant: str) -> _Import:
    """Imports the content of a file for the test's tenant."""
    return _Import(shell, tmp_path, tenant)


async def _devices(database: Database, tenant: str) -> list[str]:
    rows = await database.owner.fetch(
        "SELECT device_id FROM public.device_state WHERE tenant_id = $1 ORDER BY 1", tenant
    )
    return [row["device_id"] for row in rows]


async def test_devices_and_groups_are_added(load: _Import, database: Database, tenant: str) -> None:
    result = await load("device_id,group_id\na,north\nb,\na,south\n")

    assert result == Result(0, "3 lines: 2 new devices, 2 new group memberships\n", "")
    assert await _devices(database, tenant) == ["a", "b"]


async def test_the_group_column_may_be_missing(
    load: _Import, database: Database, tenant: str
) -> None:
    result = await load("\ufeffdevice_id\r\na\r\n")

    assert result.out == "1 lines: 1 new devices, 0 new group memberships\n"
    assert await _devices(database, tenant) == ["a"]


async def test_what_is_there_is_left_as_it_is(load: _Import) -> None:
    await load("device_id,group_id\na,north\n")

    result = await load("device_id,group_id\na,north\nb,north\n")

    assert result.out == "2 lines: 1 new devices, 1 new group memberships\n"


async def test_bad_lines_are_named_and_nothing_is_loaded(
    load: _Import, database: Database, tenant: str
) -> None:
    result = await load(f"device_id,group_id\na,north\n,north\n{'x' * 257},\nb,north,more\nc\n")

    assert result.code == 2
    assert result.err.splitlines() == [
        "jobs-grpc: nothing was loaded:",
        "fleet.csv:3: device_id must be 1–256 characters without control characters",
        "fleet.csv:4: device_id must be 1–256 characters without control characters",
        "fleet.csv:5: has another number of columns than the header",
        "fleet.csv:6: has another number of columns than the header",
    ]
    assert await _devices(database, tenant) == []


async def test_a_bad_line_after_a_full_batch_undoes_it(
    load: _Import, database: Database, tenant: str
) -> None:
    good = "".join(f"d{number}\n" for number in range(12_000))

    result = await load(f"device_id\n{good}bad\0id\n")

    assert result.code == 2
    assert "fleet.csv:12002: " in result.err
    assert await _devices(database, tenant) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "fleet.csv:1: the header must be device_id or device_id,group_id"),
        ("name\na\n", "header must be device_id or device_id,group_id, not 'name'"),
        ("device_id,group\na,b\n", "not 'device_id', 'group'"),
        ("device_id,device_id\na,b\n", "not 'device_id', 'device_id'"),
        (b"device_id\n\xff\n", "fleet.csv: is not UTF-8"),
        ('device_id\n"a"b\n', "fleet.csv:2: "),
    ],
)
async def test_a_file_of_another_kind_is_refused(
    load: _Import, database: Database, tenant: str, content: str | bytes, message: str
) -> None:
    result = await load(content)

    assert result.code == 2
    assert message in result.err
    assert await _devices(database, tenant) == []


async def test_the_file_can_be_piped_in(
    shell: Shell, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In UTF-8, whatever the locale says, with or without a byte order mark."""
    content = "\ufeffdevice_id\r\nä\r\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="latin-1"))

    result = await shell("devices", "import", "-", "--tenant", tenant)

    assert result.code == 0
    assert await _devices(database, tenant) == ["ä"]


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        (
            io.TextIOWrapper(io.BytesIO(b"device_id\n\xff\n")),
            "nothing was loaded:\n-: is not UTF-8",
        ),
        (None, "standard input is closed"),
    ],
)
async def test_what_is_piped_in_may_be_unusable(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, stdin: io.TextIOWrapper | None, message: str
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)

    result = await shell("devices", "import", "-", "--tenant", "t")

    assert (result.code, result.out, result.err) == (2, "", f"jobs-grpc: {message}\n")


async def test_a_pipe_has_no_bar(
    shell: Shell, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"device_id\na\n")
    os.close(writer)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    result = await shell("devices", "import", f"/dev/fd/{reader}", "--tenant", tenant)

    os.close(reader)
    assert (result.code, result.err) == (0, "")
    assert await _devices(database, tenant) == ["a"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_undoes_the_import(database: Database, tenant: str, number: int) -> None:
    before = await database.owner.fetchval("SELECT clock_timestamp()")
    process = await spawn(
        *("devices", "import", "-", "--tenant", tenant),
        stdin=asyncio.subprocess.PIPE,
        JOBS_OWNER_DATABASE_URL=database.owner_dsn,
    )
    assert process.stdin
    lines = "".join(f"d{number}\n" for number in range(12_000))
    process.stdin.write(f"device_id\n{lines}".encode())

    async def waiting_for_more() -> bool:
        sessions = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%' AND query LIKE 'COPY %'"
            # Not that of another import, which may take a moment to go.
            " AND backend_start > $1"
        )
        return bool(await database.owner.fetchval(sessions, before))

    await wait_until(waiting_for_more)
    process.send_signal(number)

    _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    assert (process.returncode, errors) == (130, b"")
    assert await _devices(database, tenant) == []


@pytest.mark.parametrize("name", ["münchen", " a", "a ", "", "a\nb", "\udcff", "x" * 257])
async def test_a_tenant_that_no_call_can_name_is_refused(shell: Shell, name: str) -> None:
    result = await shell("devices", "import", "-", "--tenant", name)

    assert (result.code, result.err) == (
        2,
        "jobs-grpc: --tenant must be 1–256 printable ASCII characters, no space at the ends\n",
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("gone.csv", "No such file or directory"),
        (f"{__file__}/x", "Not a directory"),
        ("/", "Is a directory"),
    ],
)
async def test_a_file_that_cannot_be_read_is_one_line(
    shell: Shell, name: str, problem: str
) -> None:
    result = await shell("devices", "import", name, "--tenant", "t")

    assert (result.code, result.err) == (2, f"jobs-grpc: can't read {name}: {problem}\n")


async def test_the_file_is_not_blamed_for_the_database(
    load: _Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", f"postgresql://u@/d?host={tmp_path}")

    result = await load("device_id\na\n")

    assert result.code == 5
    assert "can't read" not in result.err
    assert result.err.count("\n") == 1


async def test_a_wrong_option_of_the_driver_is_one_line(
    load: _Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", "postgresql://u@h/d?sslmode=bogus")

    result = await load("device_id\na\n")

    assert result.code == 2
    assert result.err.startswith("jobs-grpc: a database URL is wrong: `sslmode` parameter must")
    assert result.err.count("\n") == 1


async def test_the_owners_dsn_is_required(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBS_OWNER_DATABASE_URL")

    result = await shell("devices", "import", "-", "--tenant", "t")

    assert result.code == 2
    assert result.err.startswith("jobs-grpc: JOBS_OWNER_DATABASE_URL is not set")


async def test_row_level_security_may_hold_for_the_owner_of_the_tables(
    cluster: tuple[Postgres, str],
    shell: Shell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running, template = cluster
    (tmp_path / "fleet.csv").write_text("device_id,group_id\na,north\na,south\n")
    async with running.database(template) as name, running.role_in(name) as platform:
        await running.execute(f"CREATE ROLE {platform.name} LOGIN PASSWORD '{platform.password}'")
        owner = await asyncpg.connect(running.dsn(name))
        for table in ("device_state", "device_group_members"):
            await owner.execute(
                f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
                f"ALTER TABLE {table} OWNER TO {platform.name}"
            )
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", running.dsn(name, platform))

        result = await shell("devices", "import", str(tmp_path / "fleet.csv"), "--tenant", "t")

        loaded = await owner.fetch("SELECT tenant_id, device_id FROM device_state")
        await owner.close()
    assert result == Result(0, "2 lines: 1 new devices, 2 new group memberships\n", "")
    assert [tuple(row) for row in loaded] == [("t", "a")]
