"""A real Prometheus scrapes the server and evaluates the alerts."""

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.database import Database
from tests.support.metrics import METRICS_ON
from tests.support.processes import running_process, skip_without
from tests.support.proxy import running_proxy
from tests.support.server import reserved_address, running_server
from tests.support.waiting import TIMEOUT, wait_until, wait_until_equal

pytestmark = pytest.mark.slow

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


@asynccontextmanager
async def running_prometheus(folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus, which scrapes the target five times a second; yields a client of it."""
    program = shutil.which("prometheus")
    if program is None:
        skip_without("prometheus")
    # Alerts that fire as soon as their expression is true.
    rules = [line for line in ALERTS.read_text().splitlines() if "  for: " not in line]
    (folder / "alerts.yml").write_text("\n".join(rules))
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\n"
        "rule_files: [alerts.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: jobs-grpc, static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    with reserved_address() as address, (folder / "log").open("w") as log:
        command = (
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        )
        async with (
            running_process(*command, stop=signal.SIGTERM, stderr=log),
            httpx.AsyncClient(base_url=f"http://{address}", timeout=TIMEOUT) as http,
        ):
            yield http


async def query(http: httpx.AsyncClient, expression: str) -> dict[str, float]:
    """Return the value of each series, by the values of its labels; {} until Prometheus serves."""
    try:
        response = await http.get("/api/v1/query", params={"query": expression})
    except httpx.TransportError:
        return {}
    if response.status_code == 503:
        return {}
    body: dict[str, Any] = response.json()
    assert body["status"] == "success", body
    return {
        ",".join(series["metric"].values()): float(series["value"][1])
        for series in body["data"]["result"]
    }


async def test_prometheus_scrapes_the_server_and_alerts(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, ["pump"])
    async with (
        running_proxy(database.request_dsn) as proxy,
        running_server(proxy.dsn, **METRICS_ON) as server,
        running_prometheus(tmp_path, server.app.metrics_address or "") as http,
    ):
        operator = server.operator(tenant)
        await operator.create(job_id="j", target_all=True)
        for _ in range(20):
            await operator.get("j")
        counts = 'sum by (grpc_code) (grpc_server_handled_total{grpc_method="GetJob"}) > 0'
        await wait_until_equal(lambda: query(http, counts), {"OK": 20})
        # On a busy machine, a scrape can take longer than its timeout.
        is_up = "sum by (__name__) ({__name__=~'up|jobs_database_up'})"
        await wait_until_equal(lambda: query(http, is_up), {"up": 1, "jobs_database_up": 1})
        types = (await http.get("/api/v1/metadata")).json()["data"]
        assert types["grpc_server_handling_seconds"][0]["type"] == "histogram"
        assert types["jobs_refused_calls_total"][0]["type"] == "counter"

        async def alerted() -> bool:
            firing = await query(http, 'sum by (alertname) (ALERTS{alertstate="firing"})')
            return "JobsDatabaseUnavailable" in firing

        assert not await alerted()
        proxy.freeze()
        await wait_until(alerted)
        proxy.thaw()
