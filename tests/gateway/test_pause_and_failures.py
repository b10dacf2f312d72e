"""Routes that pause and resume a job, and those that show and select failure codes."""

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


async def test_pause_and_resume_return_the_job(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    assert (await rest.get("/a"))["pause"] is None

    paused = await rest.send("POST", f"{JOBS}/a:pause", {"reason": "error rate"})

    job = paused.json()
    assert (paused.status_code, job["status"]) == (200, "PAUSED")
    assert job["pause"]["reason"] == "error rate"
    assert job["pause"].keys() == {"paused_at", "paused_by", "reason", "cause"}
    assert job["pause"]["cause"] == "OPERATOR"
    assert "executions" not in job
    assert [j["job_id"] for j in await rest.get(status="PAUSED")] == ["a"]
    started = await rest.as_device("d00001", "POST", ":startNext")
    assert started["execution"] is None

    resumed = await rest.send("POST", f"{JOBS}/a:resume", {"etag": job["etag"]})

    assert (resumed.status_code, resumed.json()["status"]) == (200, "IN_PROGRESS")
    assert resumed.json()["pause"] is None
    response = await rest.send("POST", f"{JOBS}/a:pause", {"etag": job["etag"]})
    assert_error(response, 409, "ABORTED", "JOB_CHANGED")


async def test_pause_is_rejected_when_job_is_finished(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    await rest.send("DELETE", f"{JOBS}/a")

    for verb, reason in (("pause", "JOB_NOT_PAUSABLE"), ("resume", "JOB_NOT_RESUMABLE")):
        response = await rest.send("POST", f"{JOBS}/a:{verb}")
        assert_error(response, 400, "FAILED_PRECONDITION", reason)


async def test_failures_are_counted_listed_and_retried_by_code(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 4)
    await rest.create(job_id="a", target_all=True)
    for number, code in ((1, "E1"), (2, "E1"), (3, "E2")):
        failed = {"status": "FAILED", "failure_code": code}
        execution = await rest.as_device(f"d{number:05}", "PATCH", "/a", failed)
        assert execution["failure_code"] == code

    summary = await rest.get("/a/failures")
    assert summary["other_count"] == 0
    assert summary["failures"][0] == {
        "status": "FAILED",
        "failure_code": "E1",
        "execution_count": 2,
        "device_ids": ["d00001", "d00002"],
    }
    of_code = await rest.get("/a/failures", failure_codes=["E2", "E3"], statuses="FAILED")
    assert [failure["execution_count"] for failure in of_code["failures"]] == [1]
    listed = await rest.get("/a/executions", failure_code="E1", limit=1)
    assert [e["device_id"] for e in listed] == ["d00001"]
    (attempt,) = await rest.get("/a/executions/d00004/attempts")
    assert attempt["failure_code"] is None

    retry = {"statuses": ["FAILED"], "failure_codes": ["E1"], "device_ids": ["d00002", "d00003"]}
    response = await rest.send("POST", f"{JOBS}/a:retry", retry)
    assert response.json()["retried_count"] == 1
    response = await rest.send("GET", f"{JOBS}/a/failures?failure_codes=a%20b")
    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert error["field_violations"][0]["field"] == "failure_codes[0]"
