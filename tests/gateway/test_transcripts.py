"""Requests and their responses, in the transcripts of sessions: transcripts/*.txt.

    > POST /customer/jobs {}    sends a request; "pump> GET /device/v1/jobs" sends it as a device
    405 UNIMPLEMENTED METHOD_NOT_ALLOWED: Use GET
      allow: GET                an error, and its fields or headers;
    200 {"job_id": "j"}         or the status and the body

`UPDATE_TRANSCRIPTS=1 make test ARGS=tests/gateway/test_transcripts.py` writes what is sent now.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

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
        assert error == {}
    for name in ("allow", "location"):
        if name in response.headers:
            yield f"  {name}: {response.headers[name]}"


@pytest.mark.parametrize("transcript", transcripts(FOLDER))
async def test_responses_are_those_of_the_transcript(
    rest: RestClient, database: Database, server: Server, transcript: Transcript
) -> None:
    async def respond(line: str) -> AsyncIterator[str]:
        if line.startswith("% "):
            await prepare(line, database, server, rest.tenant)
            return
        _, method, path, *body = line.split(" ", 3)
        headers = [("X-Device-Id", "d00001")] if path.startswith("/device/") else []
        content = body[0].encode() if body else None
        response = await rest.send(method, path, content, headers=headers)
        for text in described(response):
            yield without_variable_parts(text, rest.tenant)

    await transcript.check(respond, "[%>]")
