"""The dashboard and the alerts use metrics that exist, and each alert has its remedy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.check_deploy import dashboard_queries

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
RUNBOOK = (ROOT / "docs" / "operations" / "alerts.md").read_text(encoding="utf-8")
DASHBOARD = ROOT / "deploy" / "grafana" / "jobs-grpc.json"

# Of Prometheus itself, and of the gateway.
OTHER_METRICS = {"up", "jobs_gateway_request_duration_seconds"}


def rules() -> list[dict[str, Any]]:
    """Return the alert rules."""
    file = ROOT / "deploy" / "prometheus" / "alerts.yml"
    (group,) = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def metrics_of(query: str) -> set[str]:
    """Return the metrics of a query, without the suffixes of histograms."""
    names = re.findall(r"\b((?:jobs|grpc|process)_\w+|up)\b(?=[{\[ )]|$)", query, re.MULTILINE)
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


@pytest.mark.parametrize("query", [*dashboard_queries(DASHBOARD), *(r["expr"] for r in rules())])
def test_queries_name_metrics_that_exist(query: str) -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", REFERENCE, re.MULTILINE)) | OTHER_METRICS

    metrics = {name for name in metrics_of(query) if name not in ("grpc_method", "grpc_code")}
    assert metrics
    assert metrics <= listed


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alert_links_to_its_remedy(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    assert page.endswith("/docs/operations/alerts.md")
    assert anchor == rule["alert"].lower()
    (remedy,) = re.findall(rf"^#### {rule['alert']}\n\n(.+)", RUNBOOK, re.MULTILINE)
    assert len(remedy) > 40


def test_runbook_describes_no_other_alert() -> None:
    described = re.findall(r"^#### (Jobs\w+)$", RUNBOOK, re.MULTILINE)

    assert described == [rule["alert"] for rule in rules()]
