"""PATCH of a job: UpdateJob."""

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"
STAGES = [
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
