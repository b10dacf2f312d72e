"""HEAD, slashes at the end of a path, and paths and methods without a route: 404 and 405."""

import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", JOBS, "GET, HEAD, POST"),
        ("DELETE", JOBS, "GET, HEAD, POST"),
        ("OPTIONS", JOBS, "GET, HEAD, POST"),
        ("POST", f"{JOBS}/a", "DELETE, GET, HEAD, PATCH"),
        ("PUT", f"{JOBS}/a", "DELETE, GET, HEAD, PATCH"),
        ("POST", f"{JOBS}/a/executions", "GET, HEAD"),
        ("POST", f"{JOBS}/a:stop", "DELETE, GET, HEAD, PATCH"),
        ("PUT", f"{JOBS}/a:retry", "POST"),
        ("GET", f"{JOBS}/a:retry", "POST"),
        ("DELETE", f"{JOBS}/a:delete", "POST"),
        ("GET", f"{JOBS}/a/executions/d1", "DELETE"),
        ("DELETE", f"{JOBS}/a/executions/d1/attempts", "GET, HEAD"),
        ("POST", "/customer/devices/d1/executions", "GET, HEAD"),
        ("POST", "/device/v1/jobs", "GET, HEAD"),
        ("GET", "/device/v1/jobs:startNext", "POST"),
        ("HEAD", "/device/v1/jobs:startNext", "POST"),
        ("POST", "/device/v1/jobs/a", "GET, HEAD, PATCH"),
        ("PUT", "/device/v1/jobs/a:start", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ],
)
async def test_request_is_rejected_with_405_when_method_is_not_allowed(
    rest: RestClient, method: str, path: str, allow: str
) -> None:
    response = await rest.send(method, path)

    if method != "HEAD":
        assert_error(response, 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")
    assert response.status_code == 405
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    ["/customer", "/customer/", f"/{JOBS}", f"{JOBS}/a/b", f"{JOBS}/a%2Fb",
     f"{JOBS}/a%2Fexecutions", "/customer%2fjobs", f"{JOBS}%2f", f"{JOBS}/a%2Fb:retry",
     "/customer/devices", "/customer/devices/d1", "/device/v1", "/device/v1/jobs/a/executions",
     "/fleet.jobs.v1.JobService/ListJobs", "/metrics",
     "/docs/none", "/docs/none/", "/debug/pprof"],
)  # fmt: skip
async def test_request_is_rejected_with_404_when_path_is_unknown(
    rest: RestClient, path: str
) -> None:
    assert_error(await rest.send("GET", path), 404, "NOT_FOUND", "ROUTE_NOT_FOUND")


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/healthz", JOBS, f"{JOBS}/a", f"{JOBS}/none"]
)
async def test_head_returns_the_status_and_headers_of_get(
    rest: RestClient, database: Database, path: str
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)

    get = await rest.send("GET", path)
    head = await rest.send("HEAD", path)

    assert head.status_code == get.status_code
    for name in ("content-type", "content-length"):
        assert head.headers.get(name) == get.headers.get(name)
    assert not head.content


@pytest.mark.parametrize(
    ("path", "location"),
    [
        (f"{JOBS}/", JOBS),
        (f"{JOBS}//?limit=5", f"{JOBS}?limit=5"),
        (f"{JOBS}/a%3Aretry/", f"{JOBS}/a%3Aretry"),
        (f"{JOBS}/a:retry/", f"{JOBS}/a:retry"),
        (f"{JOBS}/a/executions/d%2F1/", f"{JOBS}/a/executions/d%2F1"),
        ("/docs/", "/docs"),
    ],
)
async def test_path_with_a_slash_at_the_end_is_redirected(
    rest: RestClient, path: str, location: str
) -> None:
    for method in ("GET", "POST"):
        response = await rest.send(method, path, {} if method == "POST" else None)

        assert (response.status_code, response.headers["location"]) == (308, location)


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


@pytest.mark.parametrize("stage", ["x", "1.5", "99999999999", "%20"])
async def test_path_parameter_is_rejected_by_its_name_when_it_is_not_a_number(
    rest: RestClient, stage: str
) -> None:
    response = await rest.send("POST", f"{JOBS}/a/stages/{stage}:approve")

    error = assert_error(
        response,
        400,
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "stage must be a 32-bit integer, without a plus sign and leading zeros",
    )
    assert [violation["field"] for violation in error["field_violations"]] == ["stage"]
