"""Error responses: status, reason, and what they must not reveal."""

import socket
from typing import Any

import httpx

from tests.gateway.support import RestClient, assert_error, running_gateway
from tests.support.database import Database
from tests.support.waiting import TIMEOUT

INVALID_ARGUMENT = (400, "INVALID_ARGUMENT")
JOBS = "/customer/jobs"


async def test_error_truncates_what_it_quotes_from_the_request(rest: RestClient) -> None:
    long = "x" * 20_000
    for method, path, body in (
        ("POST", "", b'{"%s": 1}' % long.encode()),
        ("GET", f"?{long}=1", None),
        ("GET", f"?status={long}", None),
    ):
        response = await rest.send(method, JOBS + path, body)
        error = assert_error(response, *INVALID_ARGUMENT, "INVALID_FIELD")
        assert "xxx…" in error["detail"]
        assert len(response.text) < 1_500


async def test_error_hides_the_server_address_when_server_is_down(
    gateway_binary: Any, rest: RestClient
) -> None:
    with socket.socket() as bound:  # bound but not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        upstream = f"127.0.0.1:{bound.getsockname()[1]}"
        async with (
            running_gateway(gateway_binary, upstream) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
        ):
            for path in (JOBS, "/healthz"):
                response = await RestClient(http, rest.tenant).send("GET", path)
                detail = "The service is unavailable; retry later"
                assert_error(response, 503, "UNAVAILABLE", "SERVICE_UNAVAILABLE", detail)
                assert "127.0.0.1" not in response.text + str(response.headers)
            # gRPC's message contains the address; only the log has it.
            line = await gateway.wait_for_log("upstream call failed")
            assert upstream in line["error"]


async def test_error_has_a_fixed_detail_when_the_service_fails_unexpectedly(
    rest: RestClient, database: Database
) -> None:
    await database.owner.execute("ALTER FUNCTION jobs.list_jobs RENAME TO list_jobs_renamed")
    try:
        response = await rest.send("GET", JOBS)
    finally:
        await database.owner.execute("ALTER FUNCTION jobs.list_jobs_renamed RENAME TO list_jobs")
    assert_error(response, 500, "INTERNAL", "INTERNAL", "Internal error")
