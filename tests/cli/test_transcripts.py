"""The output of commands, in the transcripts of sessions: transcripts/*.txt.

A session begins with its title, "== …", and runs in a new tenant, as the user olivia:

    % 2 devices in north        register devices: d00001, d00002 …, in a group
    % pump SUCCEEDED j          a device reports, here on the job j; the last word is a code
    % j expires                 pass the expiry of a job
    % fleet.csv device_id\\na   write a file
    $ jobs-grpc cancel j        run a command; variables of the environment may precede it
    canceled j                  what it must print to stdout,
    ! no jobs                   to stderr,
    [3]                         and its exit code, unless it is 0

`UPDATE_TRANSCRIPTS=1 make test ARGS=tests/cli/test_transcripts.py` writes what commands print now.
"""

import asyncio
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Result, Shell
from tests.support.database import Database
from tests.support.server import Server

FILES = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))

# What differs in every run, and what is written instead.
_REPLACED = {
    r"\b20\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z": "TIME",
    r"\b\d:\d\d:\d\d\b": "DURATION",
    r"(?<=--after )\d{16}": "POSITION",
    r"(?<=digest )\S+": "DIGEST",
    r'(?<="request_id": ")[^"]+': "ID",
    r'(?<=_token": ")[^"]+': "TOKEN",
}


def sessions(file: Path) -> list[str]:
    """Return the sessions of a file, after its heading."""
    return re.split(r"(?m)^== ", file.read_text(encoding="utf-8"))[1:]


def update(file: Path, old: str, new: str) -> None:
    """Replace a session in its file."""
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def all_sessions() -> Iterator[object]:
    for file in FILES:
        for number, session in enumerate(sessions(file)):
            title = f"{file.stem}: {session.partition(chr(10))[0]}"
            yield pytest.param(file, number, id=title.replace("`", ""))


class Session:
    """Runs the lines of a session."""

    def __init__(self, shell: Shell, database: Database, server: Server, tenant: str) -> None:
        self._shell = shell
        self._database = database
        self._server = server
        self._tenant = tenant

    async def prepare(self, line: str) -> None:
        """Carry out a line that begins with "%"."""
        words = line.split()
        if words[0].endswith(".csv"):
            content: str = json.loads(f'"{line.partition(" ")[2]}"')
            await asyncio.to_thread(Path(words[0]).write_text, content)
        elif words[1] == "expires":
            await self._database.expire(self._tenant, words[0])
        elif words[0].isdigit() or "devices" in words:
            devices = int(words[0]) if words[0].isdigit() else words[: words.index("devices")]
            group = words[-1] if "in" in words else ""
            await self._database.add_devices(self._tenant, devices, group=group)
        else:
            device, status, job, *code = words
            report = {"failure_code": code[0]} if code else {}
            await self._server.device(self._tenant, device).update(job, status, **report)

    async def run(self, line: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Run a command; return the lines that the transcript has for it."""
        words = shlex.split(line)
        with monkeypatch.context() as changed:
            while "=" in words[0]:
                changed.setenv(*words.pop(0).split("=", 1))
            result = await self._shell(*words[1:])
        return self._lines(result)

    def _lines(self, result: Result) -> Iterator[str]:
        for prefix, text in (("", result.out), ("! ", result.err)):
            text = text.replace(self._tenant, "acme").replace(str(Path.cwd()), "FOLDER")
            for pattern, replacement in _REPLACED.items():
                text = re.sub(pattern, replacement, text)
            yield from (f"{prefix}{_sorted(line)}".rstrip() for line in text.splitlines())
        if result.code:
            yield f"[{result.code}]"


def _sorted(line: str) -> str:
    """Sort the members of a JSON object: those of maps are in any order."""
    if not line.startswith('{"'):
        return line
    return json.dumps(json.loads(line), sort_keys=True, ensure_ascii=False)


@pytest.mark.parametrize(("file", "number"), [*all_sessions()])
async def test_session_prints_what_its_transcript_has(
    shell: Shell,
    database: Database,
    server: Server,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
    number: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)
    session = Session(shell, database, server, tenant)
    expected = sessions(file)[number].rstrip("\n").split("\n")
    printed = expected[:1]
    for line in expected[1:]:
        if line.startswith(("% ", "$ ")):
            printed.append(line)
        if line.startswith("% "):
            await session.prepare(line[2:])
        if line.startswith("$ "):
            printed += await session.run(line[2:], monkeypatch)
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        old, new = ("== " + "\n".join(lines) for lines in (expected, printed))
        update(file, old, new)
        return

    assert printed == expected
