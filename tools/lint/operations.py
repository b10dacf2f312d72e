"""Rules for alerts, the dashboard and the checks of doctor: the pages of operations list them."""

import re
from collections.abc import Iterator

import yaml

from tools.check_deploy import dashboard_queries
from tools.lint.tree import Problem, Tree, line_of

_ALERTS = "deploy/prometheus/alerts.yml"
_DASHBOARD = "deploy/grafana/jobs-grpc.json"
_RUNBOOK = "docs/operations/alerts.md"
_DOCTOR = "docs/operations.md"

# Of Prometheus itself, and of the gateway.
_OTHER_METRICS = {"up", "jobs_gateway_request_duration_seconds"}
_LABELS = {"grpc_method", "grpc_code"}


def check(tree: Tree) -> Iterator[Problem]:
    """Check what operators read."""
    alerts = tree.text(_ALERTS)
    rules = [rule for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    queries = [(_DASHBOARD, 1, query) for query in dashboard_queries(tree.root / _DASHBOARD)]
    for rule in rules:
        line = line_of(alerts, alerts.index(f"alert: {rule['alert']}\n"))
        queries.append((_ALERTS, line, rule["expr"]))
        link = f"/{_RUNBOOK}#{rule['alert'].lower()}"
        if not rule["annotations"]["runbook_url"].endswith(link):
            yield Problem(_ALERTS, line, "alert", f"runbook_url must end with {link}")
    listed = set(
        re.findall(r"^\| `(\w+)` \|", tree.text("docs/reference/metrics.md"), re.MULTILINE)
    )
    for path, line, query in queries:
        metrics = _metrics_of(query)
        for metric in sorted(metrics - listed - _OTHER_METRICS) or ([] if metrics else [query]):
            yield Problem(path, line, "metric", f"docs/reference/metrics.md does not list {metric}")
    described = re.findall(r"^#### (Jobs\w+)\n\n(?=.{41})", tree.text(_RUNBOOK), re.MULTILINE)
    if described != [rule["alert"] for rule in rules]:
        problem = f"does not describe the alerts of {_ALERTS} in their order"
        yield Problem(_RUNBOOK, 1, "alert", problem)
    yield from _doctor(tree)


def _metrics_of(query: str) -> set[str]:
    """Return the metrics of a query, without the suffixes of histograms."""
    names = re.findall(r"\b((?:jobs|grpc|process)_\w+|up)\b(?=[{\[ )]|$)", query, re.MULTILINE)
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names} - _LABELS


def _doctor(tree: Tree) -> Iterator[Problem]:
    code = "".join(tree.text(path) for path in tree.files("jobs_grpc/doctor/*.py"))
    names = {
        *re.findall(r'Finding\(\s*"([a-z-]+)"', code),
        *re.findall(r'^_\w+ = "([a-z-]+)"$', code, re.MULTILINE),
    }
    text = tree.text(_DOCTOR)
    start = text.index("\n## Doctor\n")
    listed = set(
        re.findall(r"^- `([\w-]+)`:", text[start + 1 :].partition("\n## ")[0], re.MULTILINE)
    )
    for name in sorted(listed ^ names):
        problem = f"{name} is no check" if name in listed else f"does not list the check {name}"
        yield Problem(_DOCTOR, line_of(text, start + 1), "doctor", problem)
