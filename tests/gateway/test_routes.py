"""The shapes of the document's endpoints, field by field."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.gateway.support import Rest
from tests.support.database import Database


async def test_create_answers_201_with_the_documents_four_fields(
    database: Database, rest: Rest
) -> None:
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


async def test_the_same_create_again_is_answered_alike(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)

    first = await rest.create(job_id="a", target_all=True)
    again = await rest.create(job_id="a", target_all=True)

    assert (again.status_code, again.json()) == (201, first.json())


@pytest.mark.parametrize(
    ("body", "hours"),
    [({}, 24), ({"expires_in_hours": 3}, 3), ({"expires_in_hours": None}, None)],
)
async def test_no_expiry_means_24_hours_and_null_never(
    database: Database, rest: Rest, body: dict[str, Any], hours: int | None
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


async def test_null_expiry_keeps_the_rest_of_the_body(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    params = {"a": [1, {"b": "ü<&>"}], "z": None, "n": 1.5}

    await rest.create(job_id="a", target_all=True, expires_in_hours=None, document_params=params)

    assert (await rest.get("/a"))["document_params"] == params


@pytest.mark.parametrize(
    "target",
    [{"target_device_id": "d00001"}, {"target_group_id": "north"}, {"target_all": True}],
)
async def test_all_three_target_fields_are_in_answers(
    database: Database, rest: Rest, target: dict[str, Any]
) -> None:
    await database.add_devices(rest.tenant, 1, group="north")
    nulls = dict.fromkeys(("target_device_id", "target_group_id"))

    created = await rest.create(job_id="a", **nulls | target)

    assert created.status_code == 201, created.text
    expected = nulls | {"target_all": False} | target
    (row,) = await rest.get()
    job = await rest.get("/a")
    assert {name: row[name] for name in expected} == expected
    assert {name: job[name] for name in expected} == expected


async def test_get_answers_the_jobs_fields_with_its_executions_inside(
    database: Database, rest: Rest
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
        "status": "IN_PROGRESS",
        "created_by": "olivia",
        "cancel_reason": None,
        "in_progress_timeout_minutes": None,
        "total_executions": 2,
        "succeeded_count": 1,
        "failed_count": 0,
        "execution_counts": {
            "queued": 1, "in_progress": 0, "succeeded": 1,
            "failed": 0, "timed_out": 0, "rejected": 0,
        },
        "next_executions_page_token": "",
    }  # fmt: skip
    assert isinstance(job["document_params"]["retries"], int)
    done, queued = job["executions"]
    assert list(done) == [
        "device_id", "status", "status_details", "queued_at", "started_at", "last_updated_at",
        "execution_number", "times_out_at",
    ]  # fmt: skip
    assert (done["device_id"], done["status"]) == ("pump-1", "SUCCEEDED")
    assert datetime.fromisoformat(done["started_at"]).tzinfo
    assert (queued["device_id"], queued["status"]) == ("pump-2", "QUEUED")
    assert (queued["started_at"], queued["execution_number"]) == (None, 1)
    assert queued["status_details"] is None


async def test_list_answers_a_bare_array_newest_first(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    assert await rest.get() == []
    for job_id in ("first", "second"):
        await rest.create(job_id=job_id, target_all=True)

    rows = await rest.get()

    assert [row["job_id"] for row in rows] == ["second", "first"]
    documented = {
        "job_id", "document_type", "document_params", "status", "target_device_id",
        "target_group_id", "target_all", "expires_at", "created_by", "created_at",
        "total_executions", "succeeded_count", "failed_count",
    }  # fmt: skip
    assert documented <= set(rows[0])
    assert "executions" not in rows[0]
    assert rows[0]["document_params"] == {}
    assert rows[0]["total_executions"] == 1


async def test_list_filters_by_the_names_of_the_statuses(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    for job_id in ("a", "b"):
        await rest.create(job_id=job_id, target_all=True)
    await rest.send("DELETE", "/customer/jobs/a")

    assert [row["job_id"] for row in await rest.get(status="IN_PROGRESS")] == ["b"]
    assert [row["job_id"] for row in await rest.get(status="CANCELED")] == ["a"]
    assert await rest.get(status="COMPLETED") == []
    assert len(await rest.get(status="", limit="", offset="")) == 2


async def test_list_is_read_on_by_offset_or_by_the_headers(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    for number in range(5):
        await rest.create(job_id=str(number), target_all=True)

    assert [row["job_id"] for row in await rest.get(limit=2, offset=3)] == ["1", "0"]

    page = await rest.send("GET", "/customer/jobs?limit=2&offset=1&status=IN_PROGRESS")
    token = page.headers["x-next-page-token"]
    seen = [row["job_id"] for row in page.json()]
    assert page.links["next"]["url"] == (
        f"/customer/jobs?limit=2&page_token={token}&status=IN_PROGRESS"
    )
    page = await rest.send("GET", page.links["next"]["url"])
    seen += [row["job_id"] for row in page.json()]

    assert seen == ["3", "2", "1", "0"]
    assert "x-next-page-token" not in page.headers
    assert "link" not in page.headers


async def test_executions_are_listed_in_pages(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 5)
    await rest.create(job_id="a", target_all=True)
    await database.set_status(rest.tenant, "a", "d00002", "FAILED")

    page = await rest.send("GET", "/customer/jobs/a/executions?limit=3")
    seen = [e["device_id"] for e in page.json()]
    page = await rest.send("GET", page.links["next"]["url"])
    seen += [e["device_id"] for e in page.json()]

    assert seen == [f"d{n:05}" for n in range(1, 6)]
    assert "link" not in page.headers
    (failed,) = await rest.get("/a/executions", status="FAILED")
    assert failed["device_id"] == "d00002"


async def test_get_links_to_the_executions_that_follow(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 3)
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("GET", "/customer/jobs/a?executions_limit=2")

    token = response.json()["next_executions_page_token"]
    assert response.headers["x-next-page-token"] == token
    assert response.links["next"]["url"] == f"/customer/jobs/a/executions?page_token={token}"
    rest_of_it = await rest.send("GET", response.links["next"]["url"])
    assert [e["device_id"] for e in rest_of_it.json()] == ["d00003"]


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
async def test_cancel_takes_a_body_or_none(
    database: Database, rest: Rest, body: Any, reason: str
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
async def test_any_job_id_can_be_in_a_path(database: Database, rest: Rest, job_id: str) -> None:
    await database.add_devices(rest.tenant, 1)
    created = await rest.create(job_id=job_id, target_all=True)

    assert (await rest.get(f"/{job_id}"))["job_id"] == job_id
    assert (await rest.send("GET", created.headers["location"])).json()["job_id"] == job_id
    assert (await rest.get(f"/{job_id.replace(':', '%3A')}"))["job_id"] == job_id
    assert len(await rest.get(f"/{job_id}/executions")) == 1


async def test_answers_are_compact_json_in_one_line(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True, document_params={"a": {"b": [1, 2]}})

    response = await rest.send("GET", "/customer/jobs/a")

    assert response.text == json.dumps(response.json(), separators=(",", ":"))
