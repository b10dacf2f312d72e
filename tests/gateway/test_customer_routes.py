"""The routes for operators: fields of requests and responses."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import RestClient
from tests.support.database import Database


async def test_create_returns_201_with_four_fields(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 3)

    response = await rest.create(target_all=True)

    assert response.status_code == 201
    body = response.json()
    assert list(body) == ["job_id", "status", "execution_count", "expires_at"]
    assert body["status"] == "IN_PROGRESS"
    assert body["execution_count"] == 3
    assert str(uuid.UUID(body["job_id"])) == body["job_id"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["location"] == f"/customer/jobs/{body['job_id']}"
    expires_in = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < expires_in < timedelta(hours=24)


async def test_create_returns_the_same_response_when_repeated(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)

    first = await rest.create(job_id="a", target_all=True)
    repeated = await rest.create(job_id="a", target_all=True)

    assert (repeated.status_code, repeated.json()) == (201, first.json())


@pytest.mark.parametrize(
    ("body", "hours"),
    [({}, 24), ({"expires_in_hours": 3}, 3), ({"expires_in_hours": None}, None)],
)
async def test_job_expires_after_24_hours_by_default_and_never_when_null(
    database: Database, rest: RestClient, body: dict[str, Any], hours: int | None
) -> None:
    await database.add_devices(rest.tenant, 1)

    created = (await rest.create(target_all=True, **body)).json()

    job = await rest.get(f"/{created['job_id']}")
    assert job["expires_at"] == created["expires_at"]
    if hours is None:
        assert created["expires_at"] is None
    else:
        created_at = datetime.fromisoformat(job["created_at"])
        assert datetime.fromisoformat(job["expires_at"]) == created_at + timedelta(hours=hours)


async def test_create_keeps_the_other_fields_when_expiry_is_null(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    params = {"a": [1, {"b": "ü<&>"}], "z": None, "n": 1.5}

    await rest.create(job_id="a", target_all=True, expires_in_hours=None, document_params=params)

    assert (await rest.get("/a"))["document_params"] == params


@pytest.mark.parametrize(
    "target",
    [{"target_device_id": "d00001"}, {"target_group_id": "north"}, {"target_all": True}],
)
async def test_responses_contain_all_three_target_fields(
    database: Database, rest: RestClient, target: dict[str, Any]
) -> None:
    await database.add_devices(rest.tenant, 1, group="north")
    nulls = dict.fromkeys(("target_device_id", "target_group_id"))

    created = await rest.create(job_id="a", **nulls | target)

    assert created.status_code == 201, created.text
    expected = nulls | {"target_all": False} | target
    (listed,) = await rest.get()
    job = await rest.get("/a")
    assert {name: listed[name] for name in expected} == expected
    assert {name: job[name] for name in expected} == expected


async def test_get_returns_the_job_with_its_executions(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, ["pump-1", "pump-2"])
    params = {"mode": "fast", "retries": 5, "ratio": 0.5}
    await rest.create(job_id="a", target_all=True, document_params=params)
    await database.set_status(rest.tenant, "a", "pump-1", "SUCCEEDED")

    job = await rest.get("/a")

    for name in ("created_at", "updated_at", "expires_at"):
        assert datetime.fromisoformat(job[name]).utcoffset() == timedelta(0)
    assert job["completed_at"] is None
    assert {k: v for k, v in job.items() if not k.endswith("_at") and k != "executions"} == {
        "job_id": "a",
        "tenant_id": rest.tenant,
        "document_type": "reboot",
        "document_params": params,
        "target_device_id": None,
        "target_group_id": None,
        "target_all": True,
        "target_selector": None,
        "target_device_count": None,
        "target_failed_in": None,
        "labels": {},
        "description": "",
        "status": "IN_PROGRESS",
        "created_by": "olivia",
        "cancel_reason": None,
        "pause": None,
        "etag": "1",
        "in_progress_timeout_minutes": None,
        "total_executions": 2,
        "succeeded_count": 1,
        "failed_count": 0,
        "execution_counts": {
            "queued": 1, "in_progress": 0, "succeeded": 1,
            "failed": 0, "timed_out": 0, "rejected": 0, "held": 0,
        },
        "next_executions_page_token": "",
        "rollout": None,
        "failure_criteria": [],
        "stages": [],
        "criterion_states": [],
        "trip": None,
        "start_windows": [],
        "window_time_zone": "",
        "is_window_open": None,
        "next_openings": [],
        "retry_policy": None,
        "retrying_count": 0,
        "is_retry_budget_exhausted": False,
        "priority": "NORMAL",
        "execution_events": False,
    }  # fmt: skip
    assert isinstance(job["document_params"]["retries"], int)
    succeeded, queued = job["executions"]
    assert list(succeeded) == [
        "device_id", "status", "status_details", "queued_at", "started_at", "last_updated_at",
        "execution_number", "version", "times_out_at", "failure_code", "stage", "end_cause",
        "not_before", "time_zone", "reported_by",
    ]  # fmt: skip
    assert (succeeded["device_id"], succeeded["status"]) == ("pump-1", "SUCCEEDED")
    assert datetime.fromisoformat(succeeded["started_at"]).tzinfo
    assert (queued["device_id"], queued["status"]) == ("pump-2", "QUEUED")
    assert (queued["started_at"], queued["execution_number"]) == (None, 1)
    assert queued["status_details"] is None


async def test_list_returns_an_array_newest_first(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    assert await rest.get() == []
    for job_id in ("first", "second"):
        await rest.create(job_id=job_id, target_all=True)

    jobs = await rest.get()

    assert [job["job_id"] for job in jobs] == ["second", "first"]
    expected_fields = {
        "job_id", "document_type", "document_params", "status", "target_device_id",
        "target_group_id", "target_all", "expires_at", "created_by", "created_at",
        "total_executions", "succeeded_count", "failed_count",
    }  # fmt: skip
    assert expected_fields <= set(jobs[0])
    assert not {*("executions", "rollout", "failure_criteria", "stages", "criterion_states")} & set(
        jobs[0]
    )
    assert jobs[0]["document_params"] == {}
    assert jobs[0]["total_executions"] == 1


async def test_list_filters_by_status_name(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    for job_id in ("a", "b"):
        await rest.create(job_id=job_id, target_all=True)
    await rest.send("DELETE", "/customer/jobs/a")

    assert [job["job_id"] for job in await rest.get(status="IN_PROGRESS")] == ["b"]
    assert [job["job_id"] for job in await rest.get(status="CANCELED")] == ["a"]
    assert await rest.get(status="COMPLETED") == []
    assert len(await rest.get(status="", limit="", offset="")) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "canceled by operator"),
        (b"", "canceled by operator"),
        ({}, "canceled by operator"),
        ({"reason": None}, "canceled by operator"),
        ({"reason": "wrong firmware"}, "wrong firmware"),
    ],
)
async def test_cancel_stores_the_reason_or_a_default(
    database: Database, rest: RestClient, body: Any, reason: str
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("DELETE", "/customer/jobs/a", body)

    assert response.status_code == 200
    assert response.json() == {"job_id": "a", "status": "CANCELED"}
    job = await rest.get("/a")
    assert (job["status"], job["cancel_reason"]) == ("CANCELED", reason)
    assert job["executions"][0]["status"] == "REJECTED"
    assert job["executions"][0]["status_details"] == {"reason": reason}
    assert job["failed_count"] == 1


@pytest.mark.parametrize("job_id", ["a:b", "-._:", "executions", "..."])
async def test_job_id_is_usable_in_a_path(
    database: Database, rest: RestClient, job_id: str
) -> None:
    await database.add_devices(rest.tenant, 1)
    created = await rest.create(job_id=job_id, target_all=True)

    assert (await rest.get(f"/{job_id}"))["job_id"] == job_id
    assert (await rest.send("GET", created.headers["location"])).json()["job_id"] == job_id
    assert (await rest.get(f"/{job_id.replace(':', '%3A')}"))["job_id"] == job_id
    assert len(await rest.get(f"/{job_id}/executions")) == 1


async def test_response_is_compact_json_on_one_line(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, document_params={"a": {"b": [1, 2]}})

    response = await rest.send("GET", "/customer/jobs/a")

    assert response.text == json.dumps(response.json(), separators=(",", ":"))
