"""Requests and their responses, in the transcripts of sessions: transcripts/*.txt.

    > POST /customer/jobs {}    sends a request of the tenant, and of d00001 below /device/
    H X-User-Id: olivia         adds a header to the next request; acme is the tenant
    ?> GET /customer/jobs       sends a request that has no other headers
    405 UNIMPLEMENTED METHOD_NOT_ALLOWED: Use GET
      allow: GET                an error, and its fields or headers;
    200 {"job_id": "j"}         or the status and the body

`UPDATE_TRANSCRIPTS=1 make test ARGS=tests/gateway/test_transcripts.py` writes what is sent now.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.support import RestClient
from tests.support.database import Database
from tests.support.server import Server
from tests.support.transcripts import Transcript, prepare, transcripts, without_variable_parts

FOLDER = Path(__file__).parent / "transcripts"


def described(response: httpx.Response) -> Iterator[str]:
    """Describe a response, whose errors have the format of the API."""
    if response.is_success or response.is_redirect:
        yield f"{response.status_code} {response.text}".rstrip()
    else:
        error = response.json()
        assert error.pop("request_id") == response.headers["x-request-id"]
        assert response.headers["content-type"] == "application/json"
        code, reason, detail = (error.pop(name) for name in ("code", "reason", "detail"))
        yield f"{response.status_code} {code} {reason}: {detail}"
        for violation in error.pop("field_violations"):
            same = violation["description"] == detail
            yield f"  {violation['field']}{'' if same else ': ' + violation['description']}"
        for name, value in error.items():
            yield f"  {name}: {json.dumps(value, ensure_ascii=False)}"
    for name in ("allow", "location", "www-authenticate", "x-ended-executions"):
        if name in response.headers:
            yield f"  {name}: {response.headers[name]}"


@pytest.mark.parametrize("transcript", transcripts(FOLDER))
async def test_responses_are_those_of_the_transcript(
    rest: RestClient, database: Database, server: Server, transcript: Transcript
) -> None:
    headers: list[Any] = []

    async def respond(line: str) -> AsyncIterator[str]:
        mark, text = line.split(" ", 1)
        if mark == "%":
            await prepare(line, database, server, rest.tenant)
            return
        if mark == "H":
            name, _, value = text.replace("acme", rest.tenant).partition(":")
            headers.append((name, value.strip().encode()))
            return
        method, path, *body = text.split(" ", 2)
        content = body[0].encode() if body else None
        if mark == "?>":
            response = await rest.http.request(method, path, content=content, headers=headers)
        else:
            device = [("X-Device-Id", "d00001")] if path.startswith("/device/") else []
            response = await rest.send(method, path, content, headers=[*device, *headers])
        headers.clear()
        for printed in described(response):
            yield without_variable_parts(printed, rest.tenant)

    await transcript.check(respond, r"%|H|\??>")
