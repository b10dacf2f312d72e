"""The routes for devices: /device/v1/jobs."""

from typing import Any

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

DEVICE_JOBS = "/device/v1/jobs"


@pytest.fixture
async def jobs(database: Database, rest: RestClient) -> None:
    """Create the jobs "1" and "2" for two devices."""
    await database.add_devices(rest.tenant, 2)
    for job_id in "12":
        await rest.create(job_id=job_id, target_all=True, document_params={"n": int(job_id)})


@pytest.mark.parametrize("body", [None, {}, {"status_details": {"step": 1}}])
@pytest.mark.usefixtures("jobs")
async def test_start_next_returns_the_same_execution_when_repeated(
    rest: RestClient, body: Any
) -> None:
    response = await rest.as_device("d00001", "POST", ":startNext", body)

    assert response["poll_after"] is None
    execution = response["execution"]
    assert (execution["job_id"], execution["document_params"]) == ("1", {"n": 1})
    assert execution["status_details"] == (body or {}).get("status_details")
    assert await rest.as_device("d00001", "POST", ":startNext") == response


async def test_device_is_told_when_to_poll_again(rest: RestClient) -> None:
    none = await rest.send_as_device("d00001", "POST", ":startNext")
    pending = await rest.send_as_device("d00001", "GET")

    assert (none.json()["execution"], pending.json()) == (None, [])
    seconds = float(none.json()["poll_after"].removesuffix("s"))
    assert seconds == float(none.headers["x-poll-after"])
    for response in (none, pending):
        assert 30 <= float(response.headers["x-poll-after"]) < 90


@pytest.mark.usefixtures("jobs")
async def test_report_returns_the_current_execution_when_version_or_attempt_is_stale(
    rest: RestClient,
) -> None:
    started = await rest.as_device("d00001", "POST", "/1:start")

    for stale in ({"expected_version": 1}, {"execution_number": 2}):
        report = {"status": "SUCCEEDED"} | stale
        response = await rest.send_as_device("d00001", "PATCH", "/1", report)

        error = response.json()
        assert (response.status_code, error["reason"]) == (409, "EXECUTION_CHANGED")
        assert error.pop("current_execution") == started | {"document_params": None}
        assert set(error) == {"detail", "code", "reason", "field_violations", "request_id"}


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


@pytest.mark.parametrize("name", ["Grpc-Metadata-X-Device-Id", "X_Device_Id"])
async def test_device_is_ignored_in_any_other_header(rest: RestClient, name: str) -> None:
    response = await rest.send("GET", DEVICE_JOBS, headers=[(name, "d00001")])
    assert_error(response, 401, "UNAUTHENTICATED", "DEVICE_REQUIRED")
