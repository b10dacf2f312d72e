"""What REST shows of a job with a rollout."""

from typing import Any

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

ROLLOUT = {
    "stages": [
        {
            "display_name": "canary",
            "device_count": 1,
            "gate": {"min_succeeded_percent": 90, "require_approval": True},
        },
        {"percent": 50, "releases_per_minute": 100},
        {"remainder": True},
    ],
    "max_in_progress": 2,
}


@pytest.fixture
async def job(database: Database, rest: RestClient) -> Any:
    """The job "a" of four devices in three stages, as GET returns it."""
    await database.add_devices(rest.tenant, 4)
    response = await rest.create(
        job_id="a",
        target_all=True,
        rollout=ROLLOUT,
        failure_criteria=[{"statuses": ["FAILED"], "percent": 50, "min_finished": 2}],
    )
    assert response.status_code == 201, response.text
    return await rest.get("/a")


async def test_job_shows_its_rollout_and_its_criteria(job: Any) -> None:
    canary, half, rest_of_devices = job["rollout"]["stages"]

    assert (canary["display_name"], canary["device_count"]) == ("canary", 1)
    assert canary["gate"]["min_succeeded_percent"] == 90
    assert canary["gate"]["require_approval"] is True
    assert (half["percent"], half["releases_per_minute"]) == (50, 100)
    assert rest_of_devices["remainder"] is True
    assert job["rollout"]["max_in_progress"] == 2
    (criterion,) = job["failure_criteria"]
    assert (criterion["statuses"], criterion["percent"]) == (["FAILED"], 50)
    assert (criterion["basis"], criterion["scope"]) == ("FINISHED", "JOB")
    assert (criterion["action"], criterion["min_finished"]) == ("PAUSE", 2)
    assert job["trip"] is None


async def test_job_shows_the_state_and_the_counts_of_each_stage(job: Any) -> None:
    assert [stage["state"] for stage in job["stages"]] == ["OPEN", "PENDING", "PENDING"]
    assert sum(stage["total_executions"] for stage in job["stages"]) == 4
    assert job["stages"][0]["released_count"] == 1
    assert job["stages"][0]["execution_counts"]["queued"] == 1
    assert job["stages"][1]["opened_at"] is None
    assert (job["execution_counts"]["queued"], job["execution_counts"]["held"]) == (1, 3)


async def test_executions_are_filtered_by_held(rest: RestClient, job: Any) -> None:
    held = await rest.get("/a/executions", status="HELD")
    queued = await rest.get("/a/executions", status="QUEUED")

    assert [execution["status"] for execution in held] == 3 * ["HELD"]
    (execution,) = queued
    assert (execution["status"], execution["stage"]) == ("QUEUED", 0)
    assert {execution["stage"] for execution in held} == {1, 2}


async def test_device_does_not_find_a_held_execution(rest: RestClient, job: Any) -> None:
    (execution, *_) = await rest.get("/a/executions", status="HELD")

    response = await rest.send_as_device(execution["device_id"], "GET", "/a")

    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")


async def test_list_finds_jobs_that_await_an_approval(
    database: Database, rest: RestClient, job: Any
) -> None:
    assert await rest.get(awaiting_approval="true") == []

    await database.owner.execute(
        "UPDATE jobs.jobs SET awaiting_approval = true WHERE tenant_id = $1", rest.tenant
    )

    (listed,) = await rest.get(awaiting_approval="true")
    assert listed["job_id"] == "a"
    assert listed["execution_counts"]["held"] == 3
    assert (await rest.get("/a"))["stages"][0]["awaiting_approval"] is True
