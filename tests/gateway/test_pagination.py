"""Pages of lists: X-Next-Page-Token, Link and page_token."""

import pytest

from tests.gateway.support import RestClient
from tests.support.database import Database

DEVICES = ["a/b", "d1", "d2"]


@pytest.fixture(autouse=True)
async def jobs(database: Database, rest: RestClient) -> None:
    """The jobs "0", "1" and "2" for three devices, which are in three groups."""
    for group in ("north, east", "south", "west"):
        await database.add_devices(rest.tenant, DEVICES, group=group)
    for job_id in "012":
        await rest.create(job_id=job_id, target_all=True)


@pytest.mark.parametrize(
    ("path", "query", "field", "ids"),
    [
        ("/customer/jobs", "statuses=IN_PROGRESS&statuses=CANCELED", "job_id", ["2", "1", "0"]),
        ("/customer/jobs/0/executions", "status=QUEUED", "device_id", DEVICES),
        ("/customer/devices/a%2Fb/executions", "status=QUEUED", "job_id", ["2", "1", "0"]),
        ("/customer/fleet/devices", "selector=group%3Dsouth", "device_id", DEVICES),
        ("/customer/fleet/groups", "", "group_id", ["north, east", "south", "west"]),
        ("/customer/jobs/0/executions/d1/attempts", "", "device_id", ["d1"]),
        ("/device/v1/jobs", "", "job_id", ["0", "1", "2"]),
    ],
)
async def test_list_links_to_its_next_page(
    rest: RestClient, path: str, query: str, field: str, ids: list[str]
) -> None:
    headers = [("X-Device-Id", "d1")] if path.startswith("/device/") else []
    seen, url = [], f"{path}?limit=2&{query}".rstrip("&")
    while url:
        page = await rest.send("GET", url, headers=headers)
        seen += [item[field] for item in page.json()]
        token = page.headers.get("x-next-page-token")
        url = page.links["next"]["url"] if token else ""
        assert ("link" in page.headers, f"page_token={token}" in url) == (bool(token),) * 2
        assert not url or url.startswith(f"{path}?limit=2&")

    assert seen == ids


async def test_list_of_jobs_is_paged_by_offset(rest: RestClient) -> None:
    assert [job["job_id"] for job in await rest.get(limit=1, offset=1)] == ["1"]
    page = await rest.send("GET", "/customer/jobs?limit=1&offset=1")

    next_page = await rest.send("GET", page.links["next"]["url"])

    assert [job["job_id"] for job in next_page.json()] == ["0"]


async def test_get_links_to_the_remaining_executions(rest: RestClient) -> None:
    response = await rest.send("GET", "/customer/jobs/0?executions_limit=2")

    token = response.json()["next_executions_page_token"]
    assert response.headers["x-next-page-token"] == token
    assert response.links["next"]["url"] == f"/customer/jobs/0/executions?page_token={token}"
    next_page = await rest.send("GET", response.links["next"]["url"])
    assert [e["device_id"] for e in next_page.json()] == ["d2"]


async def test_executions_are_filtered_by_job_and_device(rest: RestClient) -> None:
    (of_device,) = (await rest.send("GET", "/customer/devices/d1/executions?job_id=1")).json()
    (of_job,) = await rest.get("/1/executions", device_id="d2")

    assert (of_device["job_id"], of_job["device_id"]) == ("1", "d2")
