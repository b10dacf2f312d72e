"""The access log and the Prometheus metrics of the gateway."""

import httpx

from tests.gateway.support import Gateway, RestClient
from tests.support.waiting import TIMEOUT, read_until

JOBS = "/customer/jobs"


async def test_request_is_logged_as_one_json_line(gateway: Gateway, rest: RestClient) -> None:
    headers = [("X-Request-Id", f"log-{rest.tenant}"), ("User-Agent", "tests")]
    await rest.send("GET", f"{JOBS}/none?executions_limit=1", headers=headers)

    line = await gateway.wait_for_log("request", request_id=f"log-{rest.tenant}")

    assert line["level"] == "INFO"
    assert {key: line[key] for key in ("method", "path", "route", "status", "tenant")} == {
        "method": "GET",
        "path": f"{JOBS}/none",
        "route": "/customer/jobs/{job_id}",
        "status": 404,
        "tenant": rest.tenant,
    }
    assert line["bytes"] > 0
    assert line["ms"] > 0


async def test_metrics_are_served_on_their_own_listener(gateway: Gateway, rest: RestClient) -> None:
    await rest.send("GET", f"{JOBS}/none")
    await rest.send("BREW", "/coffee")

    async with httpx.AsyncClient(base_url=gateway.metrics_url, timeout=TIMEOUT) as http:
        # The gauge falls shortly after the client has the response.
        idle = "jobs_gateway_requests_in_flight 0"
        text = (await read_until(lambda: http.get("/metrics"), lambda r: idle in r.text)).text
        assert (await http.get(JOBS)).status_code == 404

    for labels in (
        'method="GET",route="/customer/jobs/{job_id}",status="404"',
        'method="other",route="none",status="404"',
    ):
        assert f"jobs_gateway_request_duration_seconds_count{{{labels}}}" in text
    assert "go_goroutines" in text
    assert rest.tenant not in text
