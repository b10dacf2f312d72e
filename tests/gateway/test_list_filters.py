"""Filters of GET /customer/jobs: how a query writes them. tests/doors has what they select."""

import pytest

from tests.gateway.support import RestClient
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
