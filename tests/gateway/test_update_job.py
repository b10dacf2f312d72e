"""PATCH of a job: its mask, and values that are absent or null. tests/doors has the call."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

STAGES: list[dict[str, Any]] = [{"device_count": 1}, {"remainder": True}]


@pytest.fixture(autouse=True)
async def job(database: Database, rest: RestClient) -> None:
    """The job "a" with two stages, which never expires."""
    await database.add_devices(rest.tenant, 3)
    await rest.create(job_id="a", target_all=True, rollout={"stages": STAGES}, description="d")


async def patch(rest: RestClient, **body: Any) -> Any:
    response = await rest.send("PATCH", "/customer/jobs/a", body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_patch_changes_the_parts_of_a_rollout_that_its_mask_names(rest: RestClient) -> None:
    stages = [STAGES[0], STAGES[1] | {"releases_per_minute": 7}]
    await patch(rest, update_mask="rollout.max_in_progress", rollout={"max_in_progress": 2})

    job = await patch(rest, update_mask="rollout.stages", rollout={"stages": stages})

    assert job["rollout"]["stages"][1]["releases_per_minute"] == 7
    assert job["rollout"]["max_in_progress"] == 2


async def test_patch_clears_what_its_mask_names_and_the_body_lacks(rest: RestClient) -> None:
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for cleared in ({}, {"expires_at": None, "description": None}):
        job = await patch(rest, update_mask="expires_at", expires_at=in_an_hour)
        assert job["expires_at"] == in_an_hour

        job = await patch(rest, update_mask="expires_at,description", **cleared)
        assert (job["expires_at"], job["description"]) == (None, "")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "update_mask"),
        ({"update_mask": ""}, "update_mask"),
        ({"update_mask": "document_type"}, "update_mask"),
        ({"update_mask": "rollout.max__x"}, "update_mask"),
        ({"update_mask": ["failure_criteria"]}, "update_mask"),
        ({"failure_criteria": []}, "update_mask"),
        ({"update_mask": "labels", "labels": {"a": 1}}, "labels"),
        ({"update_mask": "expires_at", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        (
            {"update_mask": "failure_criteria", "failure_criteria": [{"percent": 101}]},
            "failure_criteria[0].percent",
        ),
        (
            {"update_mask": "rollout.stages", "rollout": {"stages": [{"device_count": 2}]}},
            "rollout.stages",
        ),
    ],
)
async def test_patch_names_the_field_that_is_wrong(
    rest: RestClient, body: dict[str, Any], field: str
) -> None:
    response = await rest.send("PATCH", "/customer/jobs/a", body)

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert [violation["field"] for violation in error["field_violations"]] == [field]
