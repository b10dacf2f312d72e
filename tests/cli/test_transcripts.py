"""The output of commands, in the transcripts of sessions: transcripts/*.txt.

    $ jobs-grpc cancel j        runs a command; variables of the environment may precede it
    canceled j                  what it must print to stdout,
    ! no jobs                   to stderr,
    [3]                         and its exit code, unless it is 0
    % fleet.csv device_id\\na    writes a file; tests/support/transcripts.py has the other lines

`UPDATE_TRANSCRIPTS=1 make test ARGS=tests/cli/test_transcripts.py` writes what commands print now.
"""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cli import Shell
from tests.support.database import Database
from tests.support.server import Server
from tests.support.transcripts import Transcript, prepare, transcripts, without_variable_parts

FOLDER = Path(__file__).parent / "transcripts"


def _write(file: Path, escaped: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.loads(f'"{escaped}"'))


def _sorted(line: str) -> str:
    """Sort the members of a JSON object: those of maps are in any order."""
    if not line.startswith('{"'):
        return line
    return json.dumps(json.loads(line), sort_keys=True, ensure_ascii=False)


@pytest.mark.parametrize("transcript", transcripts(FOLDER))
async def test_session_prints_what_its_transcript_has(
    shell: Shell,
    database: Database,
    server: Server,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transcript: Transcript,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOBS_OWNER_DATABASE_URL", database.owner_dsn)

    async def respond(line: str) -> AsyncIterator[str]:
        mark, name, *_ = line.split(" ", 2)
        if name.endswith((".csv", ".json", ".toml", ".yaml")):
            await asyncio.to_thread(_write, Path(name), line.split(" ", 2)[2])
        elif mark == "%":
            await prepare(line, database, server, tenant)
        else:
            words = shlex.split(line)[1:]
            with monkeypatch.context() as changed:
                while "=" in words[0]:
                    changed.setenv(*words.pop(0).split("=", 1))
                result = await shell(*words[1:])
            for prefix, text in (("", result.out), ("! ", result.err)):
                for printed in without_variable_parts(text, tenant).splitlines():
                    yield f"{prefix}{_sorted(printed)}".rstrip()
            if result.code:
                yield f"[{result.code}]"

    await transcript.check(respond, "%$")
