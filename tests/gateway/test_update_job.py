"""PATCH of a job: UpdateJob."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"
STAGES: list[dict[str, Any]] = [
    {"display_name": "canary", "device_count": 1},
    {"display_name": "rest", "remainder": True},
]


async def test_patch_changes_the_fields_of_its_mask(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 3)
    await rest.create(job_id="a", target_all=True, rollout={"stages": STAGES})

    response = await rest.send(
        "PATCH",
        f"{JOBS}/a",
        {
            "update_mask": "rollout.max_in_progress,failure_criteria,in_progress_timeout_minutes",
            "rollout": {"max_in_progress": 2},
            "failure_criteria": [{"percent": 5, "min_finished": 100, "action": "CANCEL"}],
        },
    )

    assert response.status_code == 200, response.text
    job = response.json()
    assert job["rollout"]["max_in_progress"] == 2
    assert len(job["rollout"]["stages"]) == 2
    assert job["failure_criteria"][0]["percent"] == 5
    assert job["failure_criteria"][0]["action"] == "CANCEL"

    stages = [STAGES[0], STAGES[1] | {"releases_per_minute": 7}]
    response = await rest.send(
        "PATCH",
        f"{JOBS}/a",
        {"update_mask": "rollout.stages", "rollout": {"stages": stages}, "etag": job["etag"]},
    )

    assert response.status_code == 200, response.text
    assert response.json()["rollout"]["stages"][1]["releases_per_minute"] == 7
    assert response.json()["rollout"]["max_in_progress"] == 2
    response = await rest.send(
        "PATCH", f"{JOBS}/a", {"update_mask": "failure_criteria", "etag": job["etag"]}
    )
    assert_error(response, 409, "ABORTED", "JOB_CHANGED")


async def test_patch_changes_the_expiry(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 3)
    stages = [STAGES[0], STAGES[1] | {"releases_per_minute": 1}]
    await rest.create(job_id="a", target_all=True, rollout={"stages": stages})
    in_an_hour = (datetime.now(UTC) + timedelta(hours=1)).isoformat()

    response = await rest.send(
        "PATCH", f"{JOBS}/a", {"update_mask": "expires_at", "expires_at": in_an_hour}
    )
    assert response.status_code == 200, response.text
    assert response.json()["expires_at"] == in_an_hour
    for body in ({}, {"expires_at": None}):
        response = await rest.send("PATCH", f"{JOBS}/a", {"update_mask": "expires_at"} | body)
        assert response.json()["expires_at"] is None, response.text

    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    response = await rest.send(
        "PATCH", f"{JOBS}/a", {"update_mask": "expires_at", "expires_at": soon}
    )
    assert_error(response, 400, "FAILED_PRECONDITION", "EXPIRY_TOO_EARLY")
    assert "at least 2 min" in response.json()["detail"]
    response = await rest.send(
        "PATCH", f"{JOBS}/a", {"update_mask": "expires_at", "expires_at": "2020-01-01T00:00:00Z"}
    )
    assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")


async def test_patch_replaces_labels_of_a_finished_job(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, labels={"a": "1", "b": ""}, description="d")
    job = await rest.get("/a")
    assert (job["labels"], job["description"]) == ({"a": "1", "b": ""}, "d")
    await rest.send("DELETE", f"{JOBS}/a")

    response = await rest.send(
        "PATCH", f"{JOBS}/a", {"update_mask": "labels,description", "labels": {"a": "2"}}
    )

    assert response.status_code == 200, response.text
    assert (response.json()["labels"], response.json()["description"]) == ({"a": "2"}, "")
    response = await rest.send("PATCH", f"{JOBS}/a", {"update_mask": "labels", "labels": {"a": 1}})
    assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")


async def test_create_names_an_empty_stage(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 3)
    stages: list[dict[str, Any]] = [{"group_id": "nort"}, {"remainder": True}]

    response = await rest.create(job_id="a", target_all=True, rollout={"stages": stages})
    assert_error(response, 400, "FAILED_PRECONDITION", "STAGE_EMPTY")

    stages[0]["allow_empty"] = True
    response = await rest.create(job_id="a", target_all=True, rollout={"stages": stages})
    assert response.status_code == 201, response.text


async def test_patch_names_the_field_that_is_wrong(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 3)
    await rest.create(job_id="a", target_all=True, rollout={"stages": STAGES})
    changed = [{"device_count": 2}, STAGES[1]]

    for body, field in (
        ({}, "update_mask"),
        ({"update_mask": ""}, "update_mask"),
        ({"update_mask": "document_type"}, "update_mask"),
        ({"update_mask": "rollout.max__x"}, "update_mask"),
        ({"update_mask": ["failure_criteria"]}, "update_mask"),
        ({"failure_criteria": []}, "update_mask"),
        (
            {"update_mask": "failure_criteria", "failure_criteria": [{"percent": 101}]},
            "failure_criteria[0].percent",
        ),
        (
            {"update_mask": "rollout.stages", "rollout": {"stages": changed}},
            "rollout.stages[0].device_count",
        ),
    ):
        response = await rest.send("PATCH", f"{JOBS}/a", body)
        assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
        violations = [v["field"] for v in response.json()["field_violations"]]
        assert violations == [field], response.text
