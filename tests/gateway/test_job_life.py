"""The rest of a job's life: force, retry, deletion, and single executions."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import Rest, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"
PRECONDITION = (400, "FAILED_PRECONDITION")


async def test_create_takes_a_timeout(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, in_progress_timeout_minutes=5)
    await rest.create(job_id="b", target_all=True, in_progress_timeout_minutes=None)

    limits = [row["in_progress_timeout_minutes"] for row in await rest.get()]
    assert limits == [None, 5]
    response = await rest.create(target_all=True, in_progress_timeout_minutes=10081)
    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert error["field_violations"][0]["field"] == "in_progress_timeout_minutes"


@pytest.mark.parametrize(("force", "status"), [(True, "REJECTED"), (False, "IN_PROGRESS")])
async def test_cancel_by_force(database: Database, rest: Rest, force: bool, status: str) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "POST", "/a:start")

    response = await rest.send("DELETE", f"{JOBS}/a", {"force": force})

    assert response.json() == {"job_id": "a", "status": "CANCELED"}
    assert (await rest.get("/a"))["executions"][0]["status"] == status


async def test_retry_queues_again(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 3)
    created = (await rest.create(job_id="a", target_all=True)).json()
    for device, status in (("d00001", "FAILED"), ("d00002", "REJECTED"), ("d00003", "SUCCEEDED")):
        await rest.as_device(device, "PATCH", "/a", {"status": status})
    job = await rest.get("/a")
    assert (job["status"], datetime.fromisoformat(job["completed_at"]).tzinfo) != (None, None)

    response = await rest.send("POST", f"{JOBS}/a:retry", {"statuses": ["FAILED", "TIMED_OUT"]})

    assert response.status_code == 200
    assert response.json() == {"retried_count": 1, "expires_at": created["expires_at"]}
    job = await rest.get("/a")
    assert (job["status"], job["completed_at"]) == ("IN_PROGRESS", None)
    states = [(e["status"], e["execution_number"]) for e in job["executions"]]
    assert states == [("QUEUED", 2), ("REJECTED", 1), ("SUCCEEDED", 1)]


async def test_retry_sets_the_expiry_as_create_does(database: Database, rest: Rest) -> None:
    """Hours from now, or null for never."""
    await database.add_devices(rest.tenant, 2)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "PATCH", "/a", {"status": "FAILED"})
    await rest.as_device("d00002", "PATCH", "/a", {"status": "REJECTED"})

    body: Any = {"statuses": ["FAILED"], "expires_in_hours": 48}
    later = (await rest.send("POST", f"{JOBS}/a:retry", body)).json()
    created = datetime.fromisoformat((await rest.get("/a"))["created_at"])
    assert datetime.fromisoformat(later["expires_at"]) - created >= timedelta(hours=48)
    body = {"statuses": ["REJECTED"], "expires_in_hours": None}
    never = (await rest.send("POST", f"{JOBS}/a:retry", body)).json()
    assert never == {"retried_count": 1, "expires_at": None}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (None, None),
        ({}, None),
        ({"statuses": []}, None),
        ({"statuses": ["SUCCEEDED"]}, None),
        ({"statuses": "FAILED"}, "statuses must be a list of names"),
        ({"statuses": [4]}, "statuses must be given by name"),
        ({"statuses": [None]}, "statuses must be given by name"),
        (
            {"statuses": ["BROKEN"]},
            'statuses "BROKEN" is unknown; it must be one of '
            "QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, TIMED_OUT, REJECTED",
        ),
    ],
)
async def test_retry_names_the_statuses_that_are_wrong(
    rest: Rest, body: Any, detail: str | None
) -> None:
    response = await rest.send("POST", f"{JOBS}/a:retry", body)

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD", detail)
    assert error["field_violations"][0]["field"].startswith("statuses")


async def test_delete_forgets_a_job_that_is_over(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    response = await rest.send("POST", f"{JOBS}/a:delete")
    assert_error(response, *PRECONDITION, "JOB_NOT_DELETABLE")
    await rest.send("DELETE", f"{JOBS}/a")
    response = await rest.send("POST", f"{JOBS}/a:retry", {"statuses": ["REJECTED"]})
    assert_error(response, *PRECONDITION, "JOB_NOT_RETRYABLE")

    response = await rest.send("POST", f"{JOBS}/a:delete", {"dry_run": True})
    assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD", 'unknown field "dry_run"')
    response = await rest.send("POST", f"{JOBS}/a:delete")
    assert (response.status_code, response.json()) == (200, {})

    assert await rest.get() == []
    for method, path in (("GET", "/a"), ("POST", "/a:delete"), ("GET", "/a/executions")):
        response = await rest.send(method, JOBS + path)
        assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")


@pytest.mark.parametrize("body", [None, {}, {"reason": "wrong device"}])
async def test_cancel_one_devices_execution(database: Database, rest: Rest, body: Any) -> None:
    await database.add_devices(rest.tenant, 2)
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("DELETE", f"{JOBS}/a/executions/d00001", body)

    assert response.status_code == 200
    canceled = response.json()
    reason = (body or {}).get("reason", "canceled by operator")
    assert (canceled["device_id"], canceled["status"]) == ("d00001", "REJECTED")
    assert canceled["status_details"] == {"reason": reason}
    assert [e["status"] for e in await rest.get("/a/executions")] == ["REJECTED", "QUEUED"]


async def test_cancel_of_an_execution_that_runs_needs_force(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 2)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "POST", "/a:start")
    path = f"{JOBS}/a/executions/d00001"

    assert_error(await rest.send("DELETE", path), *PRECONDITION, "EXECUTION_IN_PROGRESS")
    response = await rest.send("DELETE", path, {"force": True})
    assert response.json()["status"] == "REJECTED"
    assert_error(await rest.send("DELETE", path), *PRECONDITION, "EXECUTION_FINISHED")
    response = await rest.send("DELETE", f"{JOBS}/a/executions/none")
    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")


async def test_attempts_are_kept_the_present_one_first(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "PATCH", "/a", {"status": "FAILED", "status_details": {"n": 1}})
    await rest.send("POST", f"{JOBS}/a:retry", {"statuses": ["FAILED"]})

    now, before = await rest.get("/a/executions/d00001/attempts")

    assert (now["execution_number"], now["status"]) == (2, "QUEUED")
    assert (before["execution_number"], before["status"]) == (1, "FAILED")
    assert before["status_details"] == {"n": 1}
    response = await rest.send("GET", f"{JOBS}/a/executions/none/attempts")
    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")


async def test_a_devices_executions_are_listed_in_pages(database: Database, rest: Rest) -> None:
    """Newest first, each with its job; and of one job only, on either path."""
    await database.add_devices(rest.tenant, 2)
    for number in range(3):
        await rest.create(job_id=str(number), target_all=True)
    path = "/customer/devices/d00001/executions"

    page = await rest.send("GET", f"{path}?limit=2")
    seen = page.json()
    assert page.links["next"]["url"].startswith(f"{path}?limit=2&page_token=")
    assert page.headers["x-next-page-token"]
    page = await rest.send("GET", page.links["next"]["url"])
    seen += page.json()

    assert [(e["job_id"], e["device_id"]) for e in seen] == [(n, "d00001") for n in "210"]
    assert "link" not in page.headers
    (one,) = (await rest.send("GET", f"{path}?job_id=1")).json()
    assert one["device_id"] == "d00001"
    (one,) = await rest.get("/1/executions", device_id="d00002")
    assert one["device_id"] == "d00002"
    assert (await rest.send("GET", f"{path}?status=FAILED")).json() == []
