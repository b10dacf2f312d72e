"""Query parameters that the gateway or the server rejects."""

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

INVALID_ARGUMENT = (400, "INVALID_ARGUMENT")
JOBS = "/customer/jobs"


@pytest.mark.parametrize(
    ("query", "field", "text"),
    [
        ("status=DONE", "status", "it must be one of IN_PROGRESS"),
        ("status=in_progress", "status", "it must be one of"),
        ("status=1", "status", "it must be one of"),
        ("limit=0", "limit", "from 1 to 200"),
        ("limit=201", "limit", "from 1 to 200"),
        ("limit=many", "limit", "32-bit integer"),
        ("limit=10.0", "limit", "32-bit integer"),
        ("limit=%2B10", "limit", "32-bit integer"),
        ("limit=010", "limit", "32-bit integer"),
        ("limit=99999999999", "limit", "32-bit integer"),
        ("limit=1&limit=2", "limit", "more than once"),
        ("offset=-1", "offset", "0 or more"),
        ("stauts=COMPLETED", "stauts", "unknown parameter"),
        ("pageToken=a", "pageToken", "unknown parameter"),
    ],
)
async def test_query_is_rejected_when_a_parameter_is_invalid(
    rest: RestClient, query: str, field: str, text: str
) -> None:
    error = assert_error(
        await rest.send("GET", f"{JOBS}?{query}"), *INVALID_ARGUMENT, "INVALID_FIELD"
    )

    (violation,) = error["field_violations"]
    assert violation["field"] == field
    assert text in violation["description"]


async def test_query_is_rejected_when_the_route_has_no_parameters(
    database: Database, rest: RestClient
) -> None:
    """If an unknown dry_run were ignored, the request would cancel the job."""
    await database.add_devices(rest.tenant, 1)
    response = await rest.send("POST", f"{JOBS}?dry_run=true", {"target_all": True})
    assert_error(response, *INVALID_ARGUMENT, "INVALID_FIELD", 'unknown parameter "dry_run"')
    await rest.create(job_id="a", target_all=True)
    for query, name in (
        ("dry_run=true", "dry_run"),
        ("reason=x", "reason"),
        ("job_id=b", "job_id"),
    ):
        response = await rest.send("DELETE", f"{JOBS}/a?{query}")
        assert_error(response, *INVALID_ARGUMENT, "INVALID_FIELD", f'unknown parameter "{name}"')
    assert [job["status"] for job in await rest.get()] == ["IN_PROGRESS"]
