"""Filters of GET /customer/jobs: how a query writes them. tests/doors has what they select."""

from typing import Any

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


@pytest.fixture
async def jobs(database: Database, rest: RestClient) -> None:
    """Create jobs: "one" for a device, "north" for a group, and "all", which is canceled."""
    await database.add_devices(rest.tenant, 2, group="north")
    await rest.create(job_id="one", target_device_id="d00001", labels={"team": "a,b"})
    await rest.create(job_id="north", target_group_id="north", document_type="update")
    await rest.create(job_id="all", target_all=True)
    await rest.send("DELETE", f"{JOBS}/all")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=STATUS_UNSPECIFIED", ["all", "north", "one"]),
        ("statuses=CANCELED&statuses=IN_PROGRESS", ["all", "north", "one"]),
        ("statuses=&statuses=COMPLETED", []),
        ("status=CANCELED&statuses=COMPLETED", ["all"]),
        ("target_all=true", ["all"]),
        ("target_all=false", ["all", "north", "one"]),
        ("target_all=&target_group_id=north", ["north"]),
        ("selector=team%3D%22a%2Cb%22", ["one"]),
        ("selector=", ["all", "north", "one"]),
        ("created_from=2020-01-01T00:00:00Z", ["all", "north", "one"]),
        ("created_until=2020-01-01T00:00:00%2B02:00", []),
        ("document_type=reboot&statuses=IN_PROGRESS&target_device_id=d00001", ["one"]),
    ],
)
@pytest.mark.usefixtures("jobs")
async def test_list_returns_the_jobs_that_match_the_filters(
    rest: RestClient, query: str, expected: list[str]
) -> None:
    response = await rest.send("GET", f"{JOBS}?{query}")

    assert [job["job_id"] for job in response.json()] == expected


@pytest.mark.usefixtures("jobs")
async def test_list_filters_by_the_created_at_of_a_response(rest: RestClient) -> None:
    """created_from is inclusive, created_until exclusive; httpx encodes the + of the offset."""
    created_at = (await rest.get("/north"))["created_at"]

    assert [job["job_id"] for job in await rest.get(created_from=created_at)] == ["all", "north"]
    assert [job["job_id"] for job in await rest.get(created_until=created_at)] == ["one"]


@pytest.mark.usefixtures("jobs")
async def test_next_page_link_keeps_the_filters(rest: RestClient) -> None:
    query = "statuses=IN_PROGRESS&statuses=CANCELED&limit=1"
    page = await rest.send("GET", f"{JOBS}?{query}")
    seen: list[Any] = page.json()
    while "next" in page.links:
        page = await rest.send("GET", page.links["next"]["url"])
        seen += page.json()

    assert [job["job_id"] for job in seen] == ["all", "north", "one"]


@pytest.mark.parametrize(
    ("query", "field", "text"),
    [
        ("statuses=DONE", "statuses", "it must be one of IN_PROGRESS, COMPLETED, CANCELED"),
        ("statuses=CANCELED&statuses=1", "statuses", "it must be one of"),
        ("status=CANCELED&status=COMPLETED", "status", "more than once"),
        ("created_by=a&created_by=b", "created_by", "more than once"),
        ("target_all=1", "target_all", "true or false"),
        ("selector=team%3D", "selector", "at character 6, expected a value"),
        ("created_from=yesterday", "created_from", "must be an RFC 3339 time"),
        ("created_from=2026-01-01T00:00:00+00:00", "created_from", "encode + as %2B"),
        ("created_from=2026-01-01T00:00:00Z&created_until=2026-01-01", "created_until", "RFC 3339"),
    ],
)
async def test_list_is_rejected_when_a_filter_is_invalid(
    rest: RestClient, query: str, field: str, text: str
) -> None:
    response = await rest.send("GET", f"{JOBS}?{query}")

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    (violation,) = error["field_violations"]
    assert violation["field"] == field
    assert text in violation["description"]


async def test_list_is_rejected_when_two_target_filters_are_set(rest: RestClient) -> None:
    response = await rest.send("GET", f"{JOBS}?target_group_id=north&target_all=false")

    error = assert_error(response, 400, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert error["detail"].startswith("target_all and target_group_id must not be set together")
    assert len(error["field_violations"]) == 2
