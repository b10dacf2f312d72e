"""PATCH of a job: its mask, and values that are absent or null. tests/doors has the call."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import RestClient
from tests.support.database import Database

STAGES: list[dict[str, Any]] = [{"device_count": 1}, {"remainder": True}]


@pytest.fixture(autouse=True)
async def job(database: Database, rest: RestClient) -> None:
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
