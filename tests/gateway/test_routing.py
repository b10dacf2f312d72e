"""Paths and methods without a route: 404 and 405."""

import pytest

from tests.gateway.support import RestClient, assert_error

JOBS = "/customer/jobs"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", JOBS, "GET, POST"),
        ("DELETE", JOBS, "GET, POST"),
        ("OPTIONS", JOBS, "GET, POST"),
        ("POST", f"{JOBS}/a", "DELETE, GET, PATCH"),
        ("PUT", f"{JOBS}/a", "DELETE, GET, PATCH"),
        ("POST", f"{JOBS}/a/executions", "GET"),
        ("POST", f"{JOBS}/a:stop", "DELETE, GET, PATCH"),
        ("PUT", f"{JOBS}/a:retry", "DELETE, GET, PATCH, POST"),
        ("GET", f"{JOBS}/a/executions/d1", "DELETE"),
        ("DELETE", f"{JOBS}/a/executions/d1/attempts", "GET"),
        ("POST", "/customer/devices/d1/executions", "GET"),
        ("POST", "/device/v1/jobs", "GET"),
        ("GET", "/device/v1/jobs:startNext", "POST"),
        ("POST", "/device/v1/jobs/a", "GET, PATCH"),
        ("PUT", "/device/v1/jobs/a:start", "GET, PATCH, POST"),
        ("POST", "/healthz", "GET"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
async def test_request_is_rejected_with_405_when_method_is_not_allowed(
    rest: RestClient, method: str, path: str, allow: str
) -> None:
    response = await rest.send(method, path)

    assert_error(response, 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    ["/", "/customer", f"{JOBS}/", f"/{JOBS}", f"{JOBS}/a/", f"{JOBS}/a/b", f"{JOBS}/a%2Fb",
     f"{JOBS}/a%2Fexecutions", "/customer%2fjobs",
     f"{JOBS}/a/executions/d1/", f"{JOBS}/a%2Fb:retry", f"{JOBS}/a/executions/",
     "/customer/devices", "/customer/devices/d1", "/device/v1", "/device/v1/jobs/a/executions",
     "/fleet.jobs.v1.JobService/ListJobs", "/metrics",
     "/docs/none", "/debug/pprof"],
)  # fmt: skip
async def test_request_is_rejected_with_404_when_path_is_unknown(
    rest: RestClient, path: str
) -> None:
    assert_error(await rest.send("GET", path), 404, "NOT_FOUND", "ROUTE_NOT_FOUND")
