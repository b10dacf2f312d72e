"""Transcripts: files of sessions, whose lines are inputs and what these must print.

A session begins with its title, "== …", and runs in a new tenant. Lines that begin with "%" prepare
it:

    % 2 devices in north        register devices: d00001, d00002 …, in a group
    % pump SUCCEEDED j          a device reports, here on the job j; the last word is a code
    % j expires                 pass the expiry of a job

With UPDATE_TRANSCRIPTS in the environment, what is printed now is written instead of compared.
"""

import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.support.database import Database
from tests.support.server import Server

# What differs in every run, and what is written instead. Sessions choose times of 2035.
_REPLACED = {
    r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b": "UUID",
    r"\b20(?!35)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)": "TIME",
    r"\b\d:\d\d:\d\d\b": "DURATION",
    r"(?<=--after )\d{16}": "POSITION",
    r"(?<=digest )\S+": "DIGEST",
    r'(?<="request_id": ")[^"]+': "ID",
    r'(?<=_token": ")[^"]+': "TOKEN",
    r"(?<=not valid JSON: ).+": "…",  # Go's words
}


@dataclass(frozen=True)
class Transcript:
    """A session of a file, by its number."""

    file: Path
    number: int

    @property
    def lines(self) -> list[str]:
        text = self.file.read_text(encoding="utf-8")
        return re.split(r"(?m)^== ", text)[1 + self.number].rstrip("\n").split("\n")

    async def check(self, respond: Callable[[str], AsyncIterator[str]], inputs: str) -> None:
        """Compare with what `respond` yields for each line that begins with the pattern `inputs`.

        A space follows the pattern.
        """
        expected = self.lines
        printed = expected[:1]
        for line in expected[1:]:
            if re.match(f"({inputs}) ", line):
                printed.append(line)
                printed += [output async for output in respond(line)]
        if os.environ.get("UPDATE_TRANSCRIPTS"):
            old, new = ("== " + "\n".join(lines) + "\n" for lines in (expected, printed))
            text = self.file.read_text("utf-8").rstrip("\n") + "\n"
            assert text.count(old) == 1, f"{self.file}: write this session once"
            self.file.write_text(text.replace(old, new), "utf-8")
        elif printed != expected:
            changes = unified_diff(expected, printed, str(self.file), "printed", lineterm="")
            pytest.fail("\n".join(changes), pytrace=False)


def transcripts(folder: Path) -> list[object]:
    """Return the parameters of a test of all sessions in a folder."""
    return [*_transcripts(folder)]


def _transcripts(folder: Path) -> Iterator[object]:
    for file in sorted(folder.glob("*.txt")):
        for number in range(file.read_text(encoding="utf-8").count("\n== ")):
            transcript = Transcript(file, number)
            yield pytest.param(transcript, id=f"{file.stem}: {transcript.lines[0]}")


def without_variable_parts(text: str, tenant: str) -> str:
    """Replace what differs in every run."""
    text = text.replace(tenant, "acme").replace(str(Path.cwd()), "FOLDER")
    for pattern, replacement in _REPLACED.items():
        text = re.sub(pattern, replacement, text)
    return text


async def prepare(line: str, database: Database, server: Server, tenant: str) -> None:
    _, *words = line.split()
    if words[1] == "expires":
        await database.expire(tenant, words[0])
    elif "devices" in words:
        names = words[: words.index("devices")]
        devices = int(names[0]) if names[0].isdigit() else names
        await database.add_devices(tenant, devices, group=words[-1] if "in" in words else "")
    else:
        device, status, job, *code = words
        report = {"failure_code": code[0]} if code else {}
        await server.device(tenant, device).update(job, status, **report)
