"""IDs with custom verbs, slashes and other special characters. transcripts/paths.txt has more."""

from urllib.parse import quote

import pytest

from tests.gateway.support import RestClient
from tests.support.database import Database

JOBS = "/customer/jobs"


@pytest.mark.parametrize(
    "job_id", ["a:retry", "a:delete", "a:start", ":retry", "jobs:startNext", "a:retry:retry"]
)
async def test_job_is_usable_over_rest_when_its_id_ends_in_a_verb(
    database: Database, rest: RestClient, job_id: str
) -> None:
    await database.add_devices(rest.tenant, 2)
    created = await rest.create(job_id=job_id, target_all=True)
    path = f"/{quote(job_id, safe='')}"
    assert created.headers["location"] == f"{JOBS}{path}"

    assert (await rest.get(path))["job_id"] == job_id
    assert (await rest.as_device("d00001", "GET", path))["status"] == "QUEUED"
    started = await rest.as_device("d00001", "POST", f"{path}:start")
    assert (started["job_id"], started["status"]) == (job_id, "IN_PROGRESS")
    await rest.as_device("d00001", "PATCH", path, {"status": "FAILED"})
    response = await rest.send("POST", f"{JOBS}{path}:retry", {"statuses": ["FAILED"]})
    assert response.json()["retried_count"] == 1
    assert (await rest.send("DELETE", f"{JOBS}{path}")).json()["status"] == "CANCELED"
    assert (await rest.send("POST", f"{JOBS}{path}:delete")).status_code == 200
    assert await rest.get() == []


async def test_verb_applies_to_the_job_before_the_colon_when_both_jobs_exist(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    for job_id in ("a", "a:retry"):
        await rest.create(job_id=job_id, target_all=True)
        path = f"/{quote(job_id, safe='')}"
        await rest.as_device("d00001", "PATCH", path, {"status": "FAILED"})

    await rest.send("POST", f"{JOBS}/a:retry", {"statuses": ["FAILED"]})
    assert (await rest.get("/a"))["status"] == "IN_PROGRESS"
    assert (await rest.get("/a%3Aretry"))["status"] == "COMPLETED"
    await rest.send("DELETE", f"{JOBS}/a")
    await rest.send("POST", f"{JOBS}/a:delete")

    assert [job["job_id"] for job in await rest.get()] == ["a:retry"]


@pytest.mark.parametrize(
    "device", ["a/b", "a%2Fb", "a b+c", "pümp", "a:retry", "...", "a?b#c", "attempts", "/"]
)
async def test_device_id_is_usable_in_a_path_when_encoded(
    database: Database, rest: RestClient, device: str
) -> None:
    await database.add_devices(rest.tenant, [device, "other"])
    await rest.create(job_id="a", target_all=True)
    encoded = quote(device, safe="")

    (listed,) = (await rest.send("GET", f"/customer/devices/{encoded}/executions")).json()
    assert (listed["device_id"], listed["job_id"]) == (device, "a")
    (attempt,) = await rest.get(f"/a/executions/{encoded}/attempts")
    assert attempt["device_id"] == device
    canceled = (await rest.send("DELETE", f"{JOBS}/a/executions/{encoded}")).json()
    assert (canceled["device_id"], canceled["status"]) == (device, "REJECTED")
