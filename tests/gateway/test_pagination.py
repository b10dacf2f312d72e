"""Pages of lists: X-Next-Page-Token, Link and page_token."""

from tests.gateway.support import RestClient
from tests.support.database import Database


async def test_list_is_paged_by_offset_or_by_next_page_headers(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    for number in range(5):
        await rest.create(job_id=str(number), target_all=True)

    assert [job["job_id"] for job in await rest.get(limit=2, offset=3)] == ["1", "0"]

    page = await rest.send("GET", "/customer/jobs?limit=2&offset=1&status=IN_PROGRESS")
    token = page.headers["x-next-page-token"]
    seen = [job["job_id"] for job in page.json()]
    assert page.links["next"]["url"] == (
        f"/customer/jobs?limit=2&page_token={token}&status=IN_PROGRESS"
    )
    page = await rest.send("GET", page.links["next"]["url"])
    seen += [job["job_id"] for job in page.json()]

    assert seen == ["3", "2", "1", "0"]
    assert "x-next-page-token" not in page.headers
    assert "link" not in page.headers


async def test_executions_of_a_job_are_listed_in_pages(
    database: Database, rest: RestClient
) -> None:
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


async def test_get_links_to_the_remaining_executions(database: Database, rest: RestClient) -> None:
    await database.add_devices(rest.tenant, 3)
    await rest.create(job_id="a", target_all=True)

    response = await rest.send("GET", "/customer/jobs/a?executions_limit=2")

    token = response.json()["next_executions_page_token"]
    assert response.headers["x-next-page-token"] == token
    assert response.links["next"]["url"] == f"/customer/jobs/a/executions?page_token={token}"
    next_page = await rest.send("GET", response.links["next"]["url"])
    assert [e["device_id"] for e in next_page.json()] == ["d00003"]


async def test_executions_of_a_device_are_listed_in_pages(
    database: Database, rest: RestClient
) -> None:
    """They come newest first with their job_id, and can be filtered by job on both paths."""
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


async def test_next_page_link_works_when_device_id_contains_a_slash(
    database: Database, rest: RestClient
) -> None:
    await database.add_devices(rest.tenant, ["a/b"])
    for job_id in ("1", "2"):
        await rest.create(job_id=job_id, target_all=True)

    page = await rest.send("GET", "/customer/devices/a%2Fb/executions?limit=1")
    page = await rest.send("GET", page.links["next"]["url"])

    assert [e["job_id"] for e in page.json()] == ["1"]
