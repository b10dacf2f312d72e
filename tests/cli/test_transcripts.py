"""The output of commands, in the transcripts of sessions: transcripts/*.txt.

    $ jobs-grpc cancel j        runs a command; variables of the environment may precede it
    canceled j                  what it must print to stdout,
    ! no jobs                   to stderr,
    [3]                         and its exit code, unless it is 0
    $80 y jobs-grpc cancel j    runs it on a terminal of 80 columns, and answers a question with y;
                                colors are left out
    % fleet.csv device_id\\na    writes a file; tests/support/transcripts.py has the other lines
    % unset JOBS_USER           removes variables of the environment
    % GetJob {"job": {}}        lets a scripted server answer the next call, and those after the
    % GetJob NOT_FOUND          last line: with JSON, or with a status and perhaps a reason;
                                NOW-90s is a time
    → GetJob {"job_id": "j"}    what the command has sent to a scripted server

`UPDATE_TRANSCRIPTS=1 make test ARGS=tests/cli/test_transcripts.py` writes what commands print now.
"""

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format

from tests.support.cli import Result, Shell, answer_on_terminal, run_on_terminal
from tests.support.database import Database
from tests.support.scripted_server import (
    METHODS,
    Answer,
    Refusal,
    ScriptedServer,
    new_response,
    running_scripted_server,
)
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


def _time(seconds: re.Match[str]) -> str:
    return (datetime.now(UTC) + timedelta(seconds=int(seconds[1]))).isoformat()


def _as_read(shown: str) -> str:
    """What a terminal has shown, without colors and lines of the audit log."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.replace("\r\n", "\n"))
    text = re.sub(r'^\{"time".*\n', "", text, flags=re.MULTILINE)
    return text.replace("\x1b", "\\e").replace("\r", "\\r")


@dataclass
class Session:
    """The commands of a transcript, and the server that they call."""

    shell: Shell
    server: Server
    database: Database
    tenant: str
    patch: pytest.MonkeyPatch
    stack: AsyncExitStack
    scripted: ScriptedServer | None = None
    _new: set[str] = field(default_factory=set)
    """Methods with answers since the last command."""

    async def respond(self, line: str) -> AsyncIterator[str]:
        """Carry out a line, and yield what it prints."""
        mark, name, rest = (*line.split(" ", 2), "")[:3]
        if name.endswith((".csv", ".json", ".toml", ".txt", ".yaml")):
            await asyncio.to_thread(_write, Path(name), rest)
        elif name == "unset":
            for variable in rest.split():
                self.patch.delenv(variable)
        elif name in METHODS:
            await self._script(name, rest)
        elif mark == "%":
            await prepare(line, self.database, self.server, self.tenant)
        else:
            result = await self._run(mark[1:], shlex.split(line)[1:])
            for prefix, text in (("", result.out), ("! ", result.err)):
                for printed in without_variable_parts(text, self.tenant).splitlines():
                    yield f"{prefix}{_sorted(printed)}".rstrip()
            if result.code:
                yield f"[{result.code}]"
            for request in self._sent():
                yield without_variable_parts(request, self.tenant)

    async def _script(self, method: str, text: str) -> None:
        if self.scripted is None:
            self.scripted = await self.stack.enter_async_context(running_scripted_server())
            self.patch.setenv("JOBS_SERVER", self.scripted.address)
        answer: Answer
        if text.startswith("{"):
            answer = json_format.Parse(re.sub(r"NOW([+-]\d+)s", _time, text), new_response(method))
        else:
            code, _, reason = text.partition(" ")
            answer = Refusal(grpc.StatusCode[code], reason)
        earlier = self.scripted.answers[method] if method in self._new else []
        self.scripted.answers[method] = [*earlier, answer]
        self._new.add(method)

    async def _run(self, columns: str, words: list[str]) -> Result:
        self._new.clear()
        with self.patch.context() as changed:
            while "=" in words[0]:
                changed.setenv(*words.pop(0).split("=", 1))
            answer = words.pop(0) if words[0] != "jobs-grpc" else None
            argv = words[1:]
            if not columns:
                return await self.shell(*argv)
            if answer is None:
                code, shown = await run_on_terminal(*argv, columns=int(columns))
            else:
                code, shown = await answer_on_terminal("[y/N] ", answer, *argv, COLUMNS=columns)
        return Result(code, _as_read(shown), "")

    def _sent(self) -> Iterator[str]:
        """Describe the requests to the scripted server since the last command."""
        requests = self.scripted.requests if self.scripted else []
        for request in requests:
            fields = json_format.MessageToDict(request, preserving_proto_field_name=True)
            name = request.DESCRIPTOR.name.removesuffix("Request")
            yield f"→ {name} {json.dumps(fields, sort_keys=True, ensure_ascii=False)}"
        requests.clear()


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
    async with AsyncExitStack() as stack:
        session = Session(shell, server, database, tenant, monkeypatch, stack)
        await transcript.check(session.respond, r"%|\$\d*")
