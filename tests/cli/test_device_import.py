"""`jobs-grpc devices import`."""

import asyncio
import getpass
import io
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from jobs_grpc.db import citus
from tests.support.cli import Result, Shell, run_on_terminal, spawn
from tests.support.database import Database, new_database
from tests.support.postgres import Postgres
from tests.support.waiting import TIMEOUT


@pytest.fixture
def shell(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
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
    """A function that imports a file with the given content for the test's tenant."""
    return _Import(shell, tmp_path, tenant)


async def _devices(database: Database, tenant: str) -> list[str]:
    rows = await database.owner.fetch(
        "SELECT device_id FROM public.device_state WHERE tenant_id = $1 ORDER BY 1", tenant
    )
    return [row["device_id"] for row in rows]


async def test_import_writes_a_line_of_the_audit_log(
    load: _Import, shell: Shell, database: Database, tenant: str
) -> None:
    await load("device_id,group_id,label:team\na,north,pumps\nb,,\n")
    [audited] = shell.audit_log
    await load("device_id\n\n")

    assert (audited["message"], audited["code"]) == ("audit devices import", "OK")
    assert (audited["tenant"], audited["subject"]) == (tenant, getpass.getuser())
    assert audited["changes"] == {"registered": 2, "memberships": 1, "labels_or_time_zone": 1}
    assert "password" not in json.dumps(audited)


async def test_import_is_rolled_back_when_line_after_full_batch_is_invalid(
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
        (b"device_id\n\xff\n", "fleet.csv: must be UTF-8"),
        ('device_id\n"a"b\n', "fleet.csv:2: "),
        ("device_id\na\n" + 200_000 * "b", "fleet.csv:3: field larger than field limit"),
        (200_000 * "b", "fleet.csv:1: field larger than field limit"),
        ("device_id\na\nb" + (1 << 20) * ",", "fleet.csv:3: has more than 1,048,576 characters"),
        ('device_id\n"' + 100_000 * "b\n", ": field larger than field limit"),
    ],
)
async def test_import_rejects_file_in_another_format(
    load: _Import, database: Database, tenant: str, content: str | bytes, message: str
) -> None:
    result = await load(content)

    assert result.code == 2
    assert message in result.err
    assert await _devices(database, tenant) == []


async def test_import_accepts_the_longest_ids(
    load: _Import, database: Database, tenant: str
) -> None:
    quotes = '"' * 256
    escaped = '"' + '""' * 256 + '"'

    result = await load(f"device_id,group_id\n{escaped},{escaped}\n{escaped},north\n")

    assert result == Result(0, "lines read: 2, new devices: 1, new group memberships: 2\n", "")
    assert await _devices(database, tenant) == [quotes]


async def test_import_reads_standard_input_as_utf_8(
    shell: Shell, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a byte order mark, and in a locale with another encoding.
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
            "nothing was imported:\n-: must be UTF-8",
        ),
        (None, "standard input is closed"),
    ],
)
async def test_import_fails_when_standard_input_is_unusable(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, stdin: io.TextIOWrapper | None, message: str
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)

    result = await shell("devices", "import", "-", "--tenant", "t")

    assert (result.code, result.out, result.err) == (2, "", f"jobs-grpc: {message}\n")


async def test_import_reads_a_pipe(shell: Shell, database: Database, tenant: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"device_id\na\n")
    os.close(writer)

    result = await shell("devices", "import", f"/dev/fd/{reader}", "--tenant", tenant)

    os.close(reader)
    assert (result.code, result.err) == (0, "")
    assert await _devices(database, tenant) == ["a"]


@pytest.mark.slow
async def test_import_counts_lines_on_a_terminal(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text("device_id\n" + "".join(f"d{number}\n" for number in range(12_000)))

    code, shown = await run_on_terminal(
        *("devices", "import", str(file), "--tenant", tenant),
        JOBS_OWNER_DATABASE_URL=database.owner_dsn,
    )

    assert code == 0
    assert re.sub(r'\{"time".*\n', "", shown) == (
        "\r\x1b[K5,000 lines\r\x1b[K10,000 lines\r\x1b[K"
        "lines read: 12000, new devices: 12000, new group memberships: 0\r\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
async def test_import_is_rolled_back_when_signaled(
    database: Database, tenant: str, signal_number: int
) -> None:
    before = await database.owner.fetchval("SELECT clock_timestamp()")
    process = await spawn(
        *("devices", "import", "-", "--tenant", tenant),
        stdin=asyncio.subprocess.PIPE,
        JOBS_OWNER_DATABASE_URL=database.owner_dsn,
    )
    assert process.stdin
    lines = "".join(f"d{number}\n" for number in range(12_000))
    process.stdin.write(f"device_id\n{lines}".encode())
    # It waits for input. The session of the previous import may still be closing.
    await database.wait_for_session(
        "state LIKE 'idle in transaction%' AND query LIKE 'COPY %' AND backend_start > $1", before
    )
    process.send_signal(signal_number)

    _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)
    note, audited = errors.splitlines(keepends=True)
    assert json.loads(audited)["code"] == "CANCELLED"
    assert (process.returncode, note) == (
        130,
        b"interrupted: all lines or none were imported; you can repeat the command\n",
    )
    assert await _devices(database, tenant) == []


async def test_import_audits_its_changes_when_it_is_interrupted_after_the_commit(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text("device_id\na\n")
    async with database.owner.transaction():
        # ANALYZE waits, but the import does not.
        await database.owner.execute("LOCK public.device_state IN SHARE UPDATE EXCLUSIVE MODE")
        process = await spawn(
            *("devices", "import", str(file), "--tenant", tenant),
            JOBS_OWNER_DATABASE_URL=database.owner_dsn,
        )
        await database.wait_for_blocked_sessions(1)
        process.send_signal(signal.SIGINT)
        _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT)

    note, audited = errors.splitlines()
    assert note == b"interrupted: all lines were imported; you can repeat the command"
    assert json.loads(audited)["code"] == "CANCELLED"
    assert json.loads(audited)["changes"]["registered"] == 1
    assert await _devices(database, tenant) == ["a"]


async def test_import_works_when_row_level_security_applies_to_owner(
    cluster: tuple[Postgres, str], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleet.csv").write_text("device_id,group_id\na,north\na,south\n")
    async with new_database(*cluster, new_role=True) as database:
        owner, platform = database.owner, database.role
        await cluster[0].execute(
            f"CREATE ROLE {platform.name} LOGIN PASSWORD '{platform.password}'"
        )
        for table in ("device_state", "device_group_members"):
            await owner.execute(
                f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY;"
                f"ALTER TABLE {table} OWNER TO {platform.name}"
            )
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.request_dsn)

        result = await shell("devices", "import", str(tmp_path / "fleet.csv"), "--tenant", "t")

        loaded = await owner.fetch("SELECT tenant_id, device_id FROM device_state")
    assert result == Result(0, "lines read: 2, new devices: 1, new group memberships: 2\n", "")
    assert [tuple(row) for row in loaded] == [("t", "a")]


@pytest.fixture
async def platform_tables(
    cluster: tuple[Postgres, str], shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """The owner of a database, and the name of the login that imports.

    The login may write to the device tables, but does not own them.
    """
    (tmp_path / "fleet.csv").write_text("device_id,group_id\na,north\n")
    async with new_database(*cluster, new_role=True) as database:
        login = database.role
        await database.owner.execute(
            f"CREATE ROLE {login.name} LOGIN BYPASSRLS PASSWORD '{login.password}';"
            f"GRANT TEMPORARY ON DATABASE {database.name} TO {login.name};"
            f"GRANT SELECT, INSERT ON device_state, device_group_members TO {login.name}"
        )
        monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.request_dsn)
        yield database.owner, login.name


async def _analyzed_tables(owner: asyncpg.Connection) -> list[str]:
    sql = (
        "SELECT string_agg(tablename, ',') FROM pg_stats"
        " WHERE schemaname IN ('public', 'jobs') AND tablename LIKE 'device%'"
    )
    on_all_nodes = "SELECT result FROM run_command_on_all_nodes($1)"
    rows = await (
        owner.fetch(on_all_nodes, sql) if await citus.is_installed(owner) else owner.fetch(sql)
    )
    names = ",".join(row[0] or "" for row in rows).split(",")
    # The names of shards end with a number.
    return sorted({re.sub(r"_\d+$", "", name) for name in names if name})


async def test_import_updates_statistics_of_tables_with_new_rows(
    platform_tables: tuple[asyncpg.Connection, str], shell: Shell, tmp_path: Path
) -> None:
    owner, login = platform_tables
    await owner.execute(f"GRANT USAGE ON SCHEMA jobs TO {login}")
    for table in ("device_state", "device_group_members", "jobs.devices"):
        await owner.execute(f"ALTER TABLE {table} OWNER TO {login}")
    (tmp_path / "fleet.csv").write_text("device_id,group_id,label:a\na,north,1\n")

    result = await shell("devices", "import", str(tmp_path / "fleet.csv"), "--tenant", "t")

    assert (result.code, result.err) == (0, "")
    assert await _analyzed_tables(owner) == ["device_group_members", "device_state", "devices"]


async def test_import_names_the_tables_whose_statistics_the_login_may_not_update(
    platform_tables: tuple[asyncpg.Connection, str], shell: Shell, tmp_path: Path
) -> None:
    owner, _ = platform_tables

    result = await shell("devices", "import", str(tmp_path / "fleet.csv"), "--tenant", "t")
    again = await shell("devices", "import", str(tmp_path / "fleet.csv"), "--tenant", "t")

    assert result.code == 0
    # The text depends on the version of PostgreSQL.
    assert re.findall(r'"(\w+)"', result.err) == ["device_state", "device_group_members"]
    assert (result.err.count("skipping"), again.err) == (2, "")
    assert await _analyzed_tables(owner) == []


async def test_import_updates_statistics_with_the_maintain_privilege(
    platform_tables: tuple[asyncpg.Connection, str], shell: Shell, tmp_path: Path
) -> None:
    owner, login = platform_tables
    if owner.get_server_version().major < 17:
        pytest.skip("PostgreSQL has the privilege MAINTAIN from 17 on")
    await owner.execute(f"GRANT MAINTAIN ON device_state TO {login}")

    result = await shell("devices", "import", str(tmp_path / "fleet.csv"), "--tenant", "t")

    assert re.findall(r'"(\w+)"', result.err) == ["device_group_members"]
    assert await _analyzed_tables(owner) == ["device_state"]
