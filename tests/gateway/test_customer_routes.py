"""The routes for operators: statuses, headers, and values that are absent or null.

tests/doors has what the calls do; test_openapi_examples.py has the fields of all responses.
"""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import RestClient
from tests.support.database import Database

JOBS = "/customer/jobs"


@pytest.fixture(autouse=True)
async def devices(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 2)


@pytest.mark.parametrize(
    ("body", "hours"), [({}, 24), ({"expires_in_hours": 3}, 3), ({"expires_in_hours": None}, None)]
)
async def test_job_expires_after_24_hours_by_default_and_never_when_null(
    rest: RestClient, body: dict[str, Any], hours: int | None
) -> None:
    params = {"a": [1, {"b": "ü<&>"}], "z": None, "n": 1.5}

    await rest.create(job_id="a", target_all=True, document_params=params, **body)

    job = await rest.get("/a")
    created_at = datetime.fromisoformat(job["created_at"])
    expires_at = hours and (created_at + timedelta(hours=hours)).isoformat(timespec="microseconds")
    assert (job["expires_at"], job["document_params"]) == (expires_at, params)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "canceled by operator"),
        (b"", "canceled by operator"),
        ({}, "canceled by operator"),
        ({"reason": None}, "canceled by operator"),
        ({"reason": "wrong firmware"}, "wrong firmware"),
    ],
)
@pytest.mark.parametrize("path", ["", "/executions/d00001"])
async def test_cancel_stores_the_reason_or_a_default(
    rest: RestClient, path: str, body: Any, reason: str
) -> None:
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("DELETE", f"{JOBS}/a{path}", body)

    assert response.status_code == 200
    canceled, other = await rest.get("/a/executions")
    assert canceled["status_details"] == {"reason": reason}
    assert other["status"] == ("QUEUED" if path else "REJECTED")


async def test_response_is_compact_json_on_one_line(rest: RestClient) -> None:
    await rest.create(job_id="a", target_all=True, document_params={"a": {"b": [1, 2]}})

    response = await rest.send("GET", f"{JOBS}/a")

    assert response.headers["content-type"] == "application/json"
    assert response.text == json.dumps(response.json(), separators=(",", ":"))
