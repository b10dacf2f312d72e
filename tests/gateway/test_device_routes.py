"""The routes for devices: /device/v1/jobs."""

from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

DEVICE_JOBS = "/device/v1/jobs"
FIELDS = [
    "job_id", "device_id", "document_type", "document_params", "status", "status_details",
    "execution_number", "version", "queued_at", "started_at", "last_updated_at", "expires_at",
    "times_out_at",
    "failure_code",
]  # fmt: skip


@pytest.fixture
async def jobs(database: Database, rest: RestClient) -> None:
    """Create the jobs "1" and "2" for two devices."""
    await database.add_devices(rest.tenant, 2)
    for job_id in "12":
        await rest.create(job_id=job_id, target_all=True, document_params={"n": int(job_id)})


@pytest.mark.usefixtures("jobs")
async def test_list_pending_returns_executions_with_their_documents(rest: RestClient) -> None:
    pending = await rest.as_device("d00001", "GET")

    first, second = pending
    assert list(first) == FIELDS
    assert (first["job_id"], first["document_params"], first["status"]) == ("1", {"n": 1}, "QUEUED")
    assert (first["started_at"], first["status_details"]) == (None, None)
    assert second["job_id"] == "2"
    assert await rest.as_device("unknown", "GET") == []


@pytest.mark.usefixtures("jobs")
async def test_list_pending_returns_pages(rest: RestClient) -> None:
    page = await rest.send_as_device("d00001", "GET", "?limit=1")

    assert [execution["job_id"] for execution in page.json()] == ["1"]
    assert page.headers["x-next-page-token"]
    next_page = page.links["next"]["url"]
    assert next_page.startswith("/device/v1/jobs?limit=1&page_token=")
    last = await rest.send("GET", next_page, headers=[("X-Device-Id", "d00001")])
    assert [execution["job_id"] for execution in last.json()] == ["2"]
    assert "link" not in last.headers
    assert "x-next-page-token" not in last.headers


@pytest.mark.parametrize("body", [None, {}, {"status_details": {"step": 1}}])
@pytest.mark.usefixtures("jobs")
async def test_start_next_returns_the_same_execution_when_repeated(
    rest: RestClient, body: Any
) -> None:
    response = await rest.as_device("d00001", "POST", ":startNext", body)

    assert list(response) == ["execution", "poll_after"]
    assert response["poll_after"] is None
    execution = response["execution"]
    assert list(execution) == FIELDS
    assert (execution["job_id"], execution["status"]) == ("1", "IN_PROGRESS")
    assert execution["status_details"] == (body or {}).get("status_details")
    assert datetime.fromisoformat(execution["started_at"]).tzinfo
    assert await rest.as_device("d00001", "POST", ":startNext") == response


async def test_device_is_told_when_to_poll_again(rest: RestClient) -> None:
    none = await rest.send_as_device("d00001", "POST", ":startNext")
    pending = await rest.send_as_device("d00001", "GET")

    assert none.json()["execution"] is None
    seconds = float(none.json()["poll_after"].removesuffix("s"))
    assert seconds == float(none.headers["x-poll-after"])
    assert pending.json() == []
    for response in (none, pending):
        assert 30 <= float(response.headers["x-poll-after"]) < 90


@pytest.mark.usefixtures("jobs")
async def test_execution_is_started_read_and_updated_by_its_device(rest: RestClient) -> None:
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


async def test_report_extends_the_timeout(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, in_progress_timeout_minutes=5)
    started = await rest.as_device("d00001", "POST", "/a:start")

    body = {"status": "IN_PROGRESS", "extend_timeout_minutes": 60}
    extended = await rest.as_device("d00001", "PATCH", "/a", body)

    before, after = (datetime.fromisoformat(e["times_out_at"]) for e in (started, extended))
    assert (after - before).total_seconds() > 50 * 60


@pytest.mark.usefixtures("jobs")
async def test_report_returns_the_current_execution_when_version_or_attempt_is_stale(
    rest: RestClient,
) -> None:
    started = await rest.as_device("d00001", "POST", "/1:start")

    for stale in ({"expected_version": 1}, {"execution_number": 2}):
        response = await rest.send_as_device(
            "d00001", "PATCH", "/1", {"status": "SUCCEEDED", **stale}
        )
        assert response.status_code == 409
        error = response.json()
        assert (error["code"], error["reason"]) == ("ABORTED", "EXECUTION_CHANGED")
        current = error.pop("current_execution")
        assert set(error) == {"detail", "code", "reason", "field_violations", "request_id"}
        assert list(current) == FIELDS
        seen = {name: current[name] for name in ("job_id", "status", "version", "started_at")}
        assert seen.items() <= started.items()


@pytest.mark.usefixtures("jobs")
async def test_device_request_is_rejected_when_execution_is_missing_or_finished(
    rest: RestClient,
) -> None:
    for method, path in (("GET", "/none"), ("POST", "/none:start")):
        response = await rest.send_as_device("d00001", method, path)
        assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")
    await rest.as_device("d00001", "PATCH", "/1", {"status": "REJECTED"})
    response = await rest.send_as_device("d00001", "POST", "/1:start")
    assert_error(response, 400, "FAILED_PRECONDITION", "EXECUTION_FINISHED")
    response = await rest.send_as_device("d00001", "PATCH", "/1", {"status": "SUCCEEDED"})
    assert_error(response, 400, "FAILED_PRECONDITION", "EXECUTION_FINISHED")


@pytest.mark.parametrize(
    ("body", "field", "text"),
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
async def test_report_is_rejected_when_a_field_is_invalid(
    rest: RestClient, body: Any, field: str, text: str
) -> None:
    error = assert_error(
        await rest.send_as_device("d00001", "PATCH", "/1", body),
        400,
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
    )

    assert error["field_violations"][0]["field"] == field
    assert text in error["field_violations"][0]["description"]


async def test_device_request_is_rejected_without_a_device(rest: RestClient) -> None:
    for method, path in (("GET", ""), ("POST", ":startNext"), ("GET", "/1"), ("POST", "/1:start")):
        response = await rest.send(method, DEVICE_JOBS + path)
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
async def test_device_request_is_rejected_when_device_header_is_invalid_or_repeated(
    rest: RestClient, devices: list[Any], reason: str
) -> None:
    response = await rest.send(
        "GET", DEVICE_JOBS, headers=[("X-Device-Id", name) for name in devices]
    )
    assert_error(response, 401, "UNAUTHENTICATED", reason)


@pytest.mark.usefixtures("jobs")
async def test_device_request_sees_only_its_own_tenant(
    rest: RestClient, http: httpx.AsyncClient
) -> None:
    other_tenant = RestClient(http, f"{rest.tenant}-other")

    assert await other_tenant.as_device("d00001", "GET") == []
    response = await other_tenant.send_as_device("d00001", "PATCH", "/1", {"status": "FAILED"})
    assert_error(response, 404, "NOT_FOUND", "EXECUTION_NOT_FOUND")


@pytest.mark.parametrize("name", ["Grpc-Metadata-X-Device-Id", "X_Device_Id"])
async def test_device_is_ignored_in_any_other_header(rest: RestClient, name: str) -> None:
    response = await rest.send("GET", DEVICE_JOBS, headers=[(name, "d00001")])
    assert_error(response, 401, "UNAUTHENTICATED", "DEVICE_REQUIRED")
