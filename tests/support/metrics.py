"""Reads Prometheus metrics."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import TIMEOUT, read_until

METRICS_ON = {"JOBS_METRICS_LISTEN": "127.0.0.1:0"}
"""The setting that turns metrics on, on a free port."""


@dataclass(frozen=True)
class Scrape:
    families: dict[str, Metric]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with a name that have these labels; 0 if none has."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        return {
            sample.labels[label]
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name
        }

    def calls(self, name: str, method: str, **labels: str) -> float:
        """Return a value of grpc_server_{name} for a method."""
        return self.value(f"grpc_server_{name}", grpc_method=method, **labels)


def parse(text: str) -> Scrape:
    return Scrape({family.name: family for family in text_string_to_metric_families(text)})


async def scrape(address: str | None) -> Scrape:
    # Without TLS, it needs no CA certificates: reading them takes longer than the scrape.
    async with httpx.AsyncClient(timeout=TIMEOUT, verify=False) as http:  # noqa: S501
        response = await http.get(f"http://{address}/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(response.text)


async def scrape_until(address: str | None, condition: Callable[[Scrape], bool]) -> Scrape:
    return await read_until(lambda: scrape(address), condition)


async def scrape_until_idle(address: str | None) -> Scrape:
    """Read the metrics when all calls have ended, which is shortly after clients know it."""
    started, handled = "grpc_server_started_total", "grpc_server_handled_total"
    return await scrape_until(address, lambda read: read.value(started) == read.value(handled))
