"""The device's side: /device/v1/jobs, shape by shape."""

from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.gateway.support import Rest, assert_error
from tests.support.database import Database

JOBS = "/device/v1/jobs"
FIELDS = [
    "job_id", "device_id", "document_type", "document_params", "status", "status_details",
    "execution_number", "version", "queued_at", "started_at", "last_updated_at", "expires_at",
    "times_out_at",
]  # fmt: skip


@pytest.fixture
async def jobs(database: Database, rest: Rest) -> None:
    """Jobs "1" and "2" for two devices."""
    await database.add_devices(rest.tenant, 2)
    for job_id in "12":
        await rest.create(job_id=job_id, target_all=True, document_params={"n": int(job_id)})


@pytest.mark.usefixtures("jobs")
async def test_pending_executions_come_with_their_documents(rest: Rest) -> None:
    pending = await rest.as_device("d00001", "GET")

    assert list(pending) == ["executions", "more"]
    assert pending["more"] is False
    first, second = pending["executions"]
    assert list(first) == FIELDS
    assert (first["job_id"], first["document_params"], first["status"]) == ("1", {"n": 1}, "QUEUED")
    assert (first["started_at"], first["status_details"]) == (None, None)
    assert second["job_id"] == "2"
    pending = await rest.as_device("d00001", "GET", "?limit=1")
    assert ([e["job_id"] for e in pending["executions"]], pending["more"]) == (["1"], True)
    assert await rest.as_device("stranger", "GET") == {"executions": [], "more": False}


@pytest.mark.parametrize("body", [None, {}, {"status_details": {"step": 1}}])
@pytest.mark.usefixtures("jobs")
async def test_start_next_answers_an_execution_or_null(rest: Rest, body: Any) -> None:
    answer = await rest.as_device("d00001", "POST", ":startNext", body)

    assert list(answer) == ["execution"]
    execution = answer["execution"]
    assert list(execution) == FIELDS
    assert (execution["job_id"], execution["status"]) == ("1", "IN_PROGRESS")
    assert execution["status_details"] == (body or {}).get("status_details")
    assert datetime.fromisoformat(execution["started_at"]).tzinfo
    assert await rest.as_device("d00001", "POST", ":startNext") == answer
    nothing = await rest.as_device("stranger", "POST", ":startNext")
    assert nothing == {"execution": None}


@pytest.mark.usefixtures("jobs")
async def test_start_read_and_report(rest: Rest) -> None:
    started = await rest.as_device("d00001", "POST", "/2:start", {"status_details": {"a": 1}})
    assert list(started) == FIELDS
    assert (started["job_id"], started["status"]) == ("2", "IN_PROGRESS")
    assert await rest.as_device("d00001", "GET", "/2") == started

    report = {"status": "IN_PROGRESS", "status_details": {"percent": 50}}
    running = await rest.as_device("d00001", "PATCH", "/2", report)
    assert running["status_details"] == {"percent": 50}
    assert running["version"] == started["version"] + 1
    final = {"status": "SUCCEEDED", "expected_version": running["version"], "execution_number": 1}
    done = await rest.as_device("d00001", "PATCH", "/2", final)
    assert (done["status"], done["status_details"]) == ("SUCCEEDED", {"percent": 50})

    response = await rest.send("GET", "/customer/jobs/2/executions?status=SUCCEEDED")
    assert [e["device_id"] for e in response.json()] == ["d00001"]


async def test_a_report_may_extend_the_timeout(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, in_progress_timeout_minutes=5)
    started = await rest.as_device("d00001", "POST", "/a:start")

    body = {"status": "IN_PROGRESS", "extend_timeout_minutes": 60}
    extended = await rest.as_device("d00001", "PATCH", "/a", body)

    before, after = (datetime.fromisoformat(e["times_out_at"]) for e in (started, extended))
    assert (after - before).total_seconds() > 50 * 60


async def send(rest: Rest, method: str, path: str, body: Any = None) -> httpx.Response:
    """A request of the device d00001, which may fail."""
    return await rest.send(method, JOBS + path, body, headers=[("X-Device-Id", "d00001")])


@pytest.mark.usefixtures("jobs")
async def test_a_report_about_what_has_changed_says_what_is(rest: Rest) -> None:
    started = await rest.as_device("d00001", "POST", "/1:start")

    for stale in ({"expected_version": 1}, {"execution_number": 2}):
        response = await send(rest, "PATCH", "/1", {"status": "SUCCEEDED", **stale})
        assert response.status_code == 409
        error = response.json()
        assert (error["code"], error["reason"]) == ("ABORTED", "EXECUTION_CHANGED")
        current = error.pop("current_execution")
        assert set(error) == {"detail", "code", "reason", "field_violations"}
        assert list(current) == FIELDS
        seen = {name: current[name] for name in ("job_id", "status", "version", "started_at")}
        assert seen.items() <= started.items()


@pytest.mark.usefixtures("jobs")
async def test_errors_of_the_service(rest: Rest) -> None:
    for method, path in (("GET", "/none"), ("POST", "/none:start")):
        response = await send(rest, method, path)
        assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")
    await rest.as_device("d00001", "PATCH", "/1", {"status": "REJECTED"})
    response = await send(rest, "POST", "/1:start")
    assert_error(response, 400, "FAILED_PRECONDITION", "EXECUTION_FINISHED")
    response = await send(rest, "PATCH", "/1", {"status": "SUCCEEDED"})
    assert_error(response, 400, "FAILED_PRECONDITION", "EXECUTION_FINISHED")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (None, "status", ""),
        ({"status": None}, "status", ""),
        ({"status": "QUEUED"}, "status", ""),
        ({"status": "DONE"}, "status", "it must be one of QUEUED, IN_PROGRESS"),
        ({"status": "STATUS_UNSPECIFIED"}, "status", "it must be one of QUEUED"),
        ({"status": 3}, "status", "by name"),
        ({"status": ["FAILED"]}, "status", "by name"),
        ({"status": "FAILED", "expected_version": "x"}, "expected_version", "int32"),
        ({"status": "FAILED", "job_id": "2"}, "job_id", "unknown field"),
        ({"status": "FAILED", "device_id": "d2"}, "device_id", "unknown field"),
        ({"status": "FAILED", "extend_timeout_minutes": 0}, "extend_timeout_minutes", ""),
    ],
)
async def test_reports_that_are_wrong(rest: Rest, body: Any, field: str, words: str) -> None:
    error = assert_error(
        await send(rest, "PATCH", "/1", body), 400, "INVALID_ARGUMENT", "INVALID_FIELD"
    )

    assert error["field_violations"][0]["field"] == field
    assert words in error["field_violations"][0]["description"]


async def test_a_device_is_required(rest: Rest) -> None:
    for method, path in (("GET", ""), ("POST", ":startNext"), ("GET", "/1"), ("POST", "/1:start")):
        response = await rest.send(method, JOBS + path)
        assert_error(response, 401, "UNAUTHENTICATED", "DEVICE_REQUIRED")


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (["d00001", "d00002"], "DUPLICATE_METADATA"),
        (["d00001", "d00001"], "DUPLICATE_METADATA"),
        ([""], "INVALID_METADATA"),
        ([b"p\xc3\xbcmp"], "INVALID_METADATA"),
        (["a" * 257], "INVALID_METADATA"),
    ],
)
async def test_a_device_who_is_none_or_two_is_refused(
    rest: Rest, devices: list[Any], reason: str
) -> None:
    response = await rest.send("GET", JOBS, headers=[("X-Device-Id", name) for name in devices])
    assert_error(response, 401, "UNAUTHENTICATED", reason)


@pytest.mark.usefixtures("jobs")
async def test_a_device_sees_its_own_tenant_only(rest: Rest, client: httpx.AsyncClient) -> None:
    stranger = Rest(client, f"{rest.tenant}-stranger")

    assert await stranger.as_device("d00001", "GET") == {"executions": [], "more": False}
    response = await send(stranger, "PATCH", "/1", {"status": "FAILED"})
    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")


@pytest.mark.parametrize("name", ["Grpc-Metadata-X-Device-Id", "X_Device_Id"])
async def test_a_device_in_any_other_header_gets_nowhere(rest: Rest, name: str) -> None:
    response = await rest.send("GET", JOBS, headers=[(name, "d00001")])
    assert_error(response, 401, "UNAUTHENTICATED", "DEVICE_REQUIRED")
