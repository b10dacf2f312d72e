"""Operator routes that change a job: create, cancel, retry, delete; and routes of one execution."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"
FAILED_PRECONDITION = (400, "FAILED_PRECONDITION")


async def test_create_accepts_an_in_progress_timeout(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, in_progress_timeout_minutes=5)
    await rest.create(job_id="b", target_all=True, in_progress_timeout_minutes=None)

    timeouts = [job["in_progress_timeout_minutes"] for job in await rest.get()]
    assert timeouts == [None, 5]
    response = await rest.create(target_all=True, in_progress_timeout_minutes=10081)
    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert error["field_violations"][0]["field"] == "in_progress_timeout_minutes"


@pytest.mark.parametrize(("force", "status"), [(True, "REJECTED"), (False, "IN_PROGRESS")])
async def test_cancel_ends_executions_in_progress_only_when_forced(
    database: Database, rest: RestClient, force: bool, status: str
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "POST", "/a:start")

    response = await rest.send("DELETE", f"{JOBS}/a", {"force": force})

    assert response.json() == {"job_id": "a", "status": "CANCELED"}
    assert (await rest.get("/a"))["executions"][0]["status"] == status


async def test_retry_queues_executions_in_the_given_statuses(
    database: Database, rest: RestClient
) -> None:
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
    executions = [(e["status"], e["execution_number"]) for e in job["executions"]]
    assert executions == [("QUEUED", 2), ("REJECTED", 1), ("SUCCEEDED", 1)]


async def test_retry_sets_the_expiry_when_expires_in_hours_is_set(
    database: Database, rest: RestClient
) -> None:
    """A number counts hours from now; null means that the job never expires."""
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
        ({"statuses": [4]}, "statuses must be given by name, as a string"),
        ({"statuses": [None]}, "statuses must be given by name, as a string"),
        (
            {"statuses": ["BROKEN"]},
            'statuses "BROKEN" is unknown; it must be one of '
            "QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, TIMED_OUT, REJECTED, HELD",
        ),
    ],
)
async def test_retry_is_rejected_when_statuses_are_invalid(
    rest: RestClient, body: Any, detail: str | None
) -> None:
    response = await rest.send("POST", f"{JOBS}/a:retry", body)

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD", detail)
    assert error["field_violations"][0]["field"].startswith("statuses")


async def test_delete_removes_a_job_when_it_is_finished(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    response = await rest.send("POST", f"{JOBS}/a:delete")
    assert_error(response, *FAILED_PRECONDITION, "JOB_NOT_DELETABLE")
    await rest.send("DELETE", f"{JOBS}/a")
    response = await rest.send("POST", f"{JOBS}/a:retry", {"statuses": ["REJECTED"]})
    assert_error(response, *FAILED_PRECONDITION, "JOB_NOT_RETRYABLE")

    response = await rest.send("POST", f"{JOBS}/a:delete", {"dry_run": True})
    assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD", 'unknown field "dry_run"')
    response = await rest.send("POST", f"{JOBS}/a:delete")
    assert (response.status_code, response.json()) == (200, {})

    assert await rest.get() == []
    for method, path in (("GET", "/a"), ("POST", "/a:delete"), ("GET", "/a/executions")):
        response = await rest.send(method, JOBS + path)
        assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")


@pytest.mark.parametrize("body", [None, {}, {"reason": "wrong device"}])
async def test_cancel_execution_rejects_only_the_execution_of_one_device(
    database: Database, rest: RestClient, body: Any
) -> None:
    await database.add_devices(rest.tenant, 2)
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("DELETE", f"{JOBS}/a/executions/d00001", body)

    assert response.status_code == 200
    canceled = response.json()
    reason = (body or {}).get("reason", "canceled by operator")
    assert (canceled["device_id"], canceled["status"]) == ("d00001", "REJECTED")
    assert canceled["status_details"] == {"reason": reason}
    assert [e["status"] for e in await rest.get("/a/executions")] == ["REJECTED", "QUEUED"]


async def test_cancel_execution_requires_force_when_in_progress(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 2)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "POST", "/a:start")
    path = f"{JOBS}/a/executions/d00001"

    assert_error(await rest.send("DELETE", path), *FAILED_PRECONDITION, "EXECUTION_IN_PROGRESS")
    response = await rest.send("DELETE", path, {"force": True})
    assert response.json()["status"] == "REJECTED"
    assert_error(await rest.send("DELETE", path), *FAILED_PRECONDITION, "EXECUTION_FINISHED")
    response = await rest.send("DELETE", f"{JOBS}/a/executions/none")
    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")


async def test_attempts_are_listed_with_the_current_one_first(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    await rest.as_device("d00001", "PATCH", "/a", {"status": "FAILED", "status_details": {"n": 1}})
    await rest.send("POST", f"{JOBS}/a:retry", {"statuses": ["FAILED"]})

    current, previous = await rest.get("/a/executions/d00001/attempts")

    assert (current["execution_number"], current["status"]) == (2, "QUEUED")
    assert (previous["execution_number"], previous["status"]) == (1, "FAILED")
    assert previous["status_details"] == {"n": 1}
    page = await rest.send("GET", f"{JOBS}/a/executions/d00001/attempts?limit=1")
    assert (page.json(), "x-next-page-token" in page.headers) == ([current], True)
    page = await rest.send("GET", page.links["next"]["url"])
    assert (page.json(), "link" in page.headers) == ([previous], False)
    response = await rest.send("GET", f"{JOBS}/a/executions/none/attempts")
    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")
