"""HEAD, and slashes at the end of a path. transcripts/paths.txt has 404, 405 and redirects."""

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


async def test_head_of_a_route_without_get_is_rejected(rest: RestClient) -> None:
    response = await rest.send("HEAD", "/device/v1/jobs:startNext")

    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/healthz", JOBS, f"{JOBS}/a", f"{JOBS}/none"]
)
@pytest.mark.usefixtures("job")
async def test_head_returns_the_status_and_headers_of_get(rest: RestClient, path: str) -> None:
    get = await rest.send("GET", path)
    head = await rest.send("HEAD", path)

    assert head.status_code == get.status_code
    for name in ("content-type", "content-length"):
        assert head.headers.get(name) == get.headers.get(name)
    assert not head.content


@pytest.mark.parametrize("path", [f"{JOBS}/a/", f"{JOBS}//", f"{JOBS}/a/executions/d1/"])
async def test_request_that_changes_a_resource_is_not_redirected(
    rest: RestClient, database: Database, path: str
) -> None:
    """Clients resolve the path of the device `..` to that of its job, with a slash at its end."""
    await database.add_devices(rest.tenant, 2)
    await rest.create(job_id="a", target_all=True)

    for method in ("DELETE", "PATCH"):
        response = await rest.send(method, path, {}, follow_redirects=True)
        error = assert_error(response, 404, "NOT_FOUND", "ROUTE_NOT_FOUND")
        assert "without" not in error["detail"], "that path cancels the job"

    assert (await rest.get("/a"))["execution_counts"]["queued"] == 2


async def test_redirected_request_keeps_its_method_and_body(
    rest: RestClient, database: Database
) -> None:
    await database.add_devices(rest.tenant, 1)
    body = {"document_type": "reboot", "target_all": True, "job_id": "a"}

    response = await rest.send("POST", f"{JOBS}/", body, follow_redirects=True)

    assert (response.status_code, response.json()["job_id"]) == (201, "a")
