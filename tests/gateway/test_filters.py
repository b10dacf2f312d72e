"""What GET /customer/jobs filters by, besides one status."""

from typing import Any

import pytest

from tests.gateway.support import Rest, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


async def ids(rest: Rest, query: str) -> list[str]:
    """The jobs that a query finds, newest first."""
    response = await rest.send("GET", f"{JOBS}?{query}")
    assert response.status_code == 200, response.text
    return [row["job_id"] for row in response.json()]


@pytest.fixture
async def jobs(database: Database, rest: Rest) -> None:
    """One job of each kind: "one" for a device, "north" for a group, "all" for all, canceled."""
    await database.add_devices(rest.tenant, 2, group="north")
    await rest.create(job_id="one", target_device_id="d00001")
    await rest.create(job_id="north", target_group_id="north", document_type="update")
    await rest.create(job_id="all", target_all=True)
    await rest.send("DELETE", f"{JOBS}/all")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("statuses=CANCELED", ["all"]),
        ("statuses=CANCELED&statuses=IN_PROGRESS", ["all", "north", "one"]),
        ("statuses=&statuses=COMPLETED", []),
        ("status=CANCELED&statuses=COMPLETED", ["all"]),
        ("document_type=update", ["north"]),
        ("created_by=olivia", ["all", "north", "one"]),
        ("created_by=nobody", []),
        ("target_device_id=d00001", ["one"]),
        ("target_group_id=north", ["north"]),
        ("target_all=true", ["all"]),
        ("target_all=false", ["all", "north", "one"]),
        ("target_all=&target_group_id=north", ["north"]),
        ("created_from=2020-01-01T00:00:00Z", ["all", "north", "one"]),
        ("created_until=2020-01-01T00:00:00%2B02:00", []),
        ("document_type=reboot&statuses=IN_PROGRESS&target_device_id=d00001", ["one"]),
    ],
)
@pytest.mark.usefixtures("jobs")
async def test_filters(rest: Rest, query: str, found: list[str]) -> None:
    assert await ids(rest, query) == found


@pytest.mark.usefixtures("jobs")
async def test_created_at_of_an_answer_is_a_filter(rest: Rest) -> None:
    """From a time on, and up to before it; the + of its offset is encoded."""
    moment = (await rest.get("/north"))["created_at"]

    assert [row["job_id"] for row in await rest.get(created_from=moment)] == ["all", "north"]
    assert [row["job_id"] for row in await rest.get(created_until=moment)] == ["one"]


@pytest.mark.usefixtures("jobs")
async def test_pages_keep_the_filters(rest: Rest) -> None:
    query = "statuses=IN_PROGRESS&statuses=CANCELED&limit=1"
    page = await rest.send("GET", f"{JOBS}?{query}")
    seen: list[Any] = page.json()
    while "next" in page.links:
        page = await rest.send("GET", page.links["next"]["url"])
        seen += page.json()

    assert [row["job_id"] for row in seen] == ["all", "north", "one"]


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("statuses=DONE", "statuses", "it must be one of IN_PROGRESS, COMPLETED, CANCELED"),
        ("statuses=CANCELED&statuses=1", "statuses", "it must be one of"),
        ("status=CANCELED&status=COMPLETED", "status", "more than once"),
        ("created_by=a&created_by=b", "created_by", "more than once"),
        ("target_all=1", "target_all", "true or false"),
        ("created_from=yesterday", "created_from", "a time like"),
        ("created_from=2026-01-01T00:00:00+00:00", "created_from", "written %2B"),
        ("created_from=2026-01-01T00:00:00Z&created_until=2026-01-01", "created_until", "a time"),
    ],
)
async def test_filters_that_are_wrong(rest: Rest, query: str, field: str, words: str) -> None:
    response = await rest.send("GET", f"{JOBS}?{query}")

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    (violation,) = error["field_violations"]
    assert violation["field"] == field
    assert words in violation["description"]


async def test_targets_that_clash_are_named(rest: Rest) -> None:
    response = await rest.send("GET", f"{JOBS}?target_group_id=north&target_all=false")

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert error["detail"].startswith("target_all and target_group_id must not be given together")
    assert len(error["field_violations"]) == 2
