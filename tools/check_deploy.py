"""Lint and render everything in deploy/ and .github/: `make check-deploy`.

Prints one line per check. If its tool is not installed, a check is skipped; in CI it fails.
Exits with 1 if a check fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
# The oldest version that the chart supports, and the newest that kubernetes-validate knows.
KUBERNETES_VERSIONS = ("1.30.0", "1.37.0")
# kubernetes-validate has no schemas of the Prometheus operator.
_WITHOUT_SCHEMA = "ServiceMonitor"
# The exposure of a unit, from 0 to 100: about 12, for the host's network and root directory.
_MAX_SYSTEMD_EXPOSURE = "15"

# Takes the place of the key file that jwt_filter.yaml names. From RFC 8037.
_PUBLIC_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}

# The environment that `make check-deploy` creates.
TOOLS = Path(__file__).parents[1] / ".venv-deploy"


class CheckFailed(Exception):
    """A check failed; the message is the tool's output."""


class ToolMissing(Exception):
    """This machine lacks the tool that the message names."""


def run_tool(*command: str | Path, **environ: str) -> str:
    """Run a tool and return its output. Raises CheckFailed if it fails."""
    result = subprocess.run(  # noqa: S603
        command,
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = result.stdout.splitlines()
        raise CheckFailed("\n".join(line for line in lines if not line.startswith("INFO")))
    return result.stdout


def helm(*arguments: str | Path) -> str:
    """Run helm."""
    return run_tool(go_tool(HELM), *arguments)


def go_tool(package: str) -> Path:
    """Return the program of a Go package at a version, which is built when it is missing."""
    name, _, version = package.rpartition("/")[2].partition("@")
    folder = TOOLS / f"{name}-{version}"
    if not (folder / name).exists():
        run_tool(_need("go"), "install", package, GOBIN=str(folder))
    return folder / name


def check_dockerfiles(root: Path) -> None:
    """Lint the Dockerfiles."""
    files = sorted((root / "deploy" / "docker").glob("*.Dockerfile"))
    run_tool(TOOLS / "bin" / "hadolint", *files, root / ".clusterfuzzlite" / "Dockerfile")


def check_compose(root: Path) -> None:
    """Render the Compose file, also with the address for devices."""
    environ = {"JOBS_OWNER_PASSWORD": "a", "JOBS_REQUEST_PASSWORD": "b"}
    compose = (TOOLS / "bin" / "docker-compose", "--file", root / "deploy" / "compose.yaml")
    run_tool(*compose, "config", "--quiet", **environ)
    environ["JOBS_DEVICE_TRUST_DOMAIN"] = "acme.example"
    devices = root / "deploy" / "compose.devices.yaml"
    run_tool(*compose, "--file", devices, "config", "--quiet", **environ)


def check_chart(root: Path) -> None:
    """Lint the Helm chart, and check what it renders against the schemas of Kubernetes."""
    chart = root / "deploy" / "helm" / "jobs-grpc"
    examples = sorted((chart / "ci").glob("*-values.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        for version in KUBERNETES_VERSIONS:
            options = ("--kube-version", version)
            helm("lint", "--strict", "--quiet", *options, "--values", examples[0], chart)
            manifests = []
            for values in examples:
                file = Path(folder, f"{version}-{values.name}")
                file.write_text(helm("template", "jobs", chart, *options, "--values", values))
                manifests.append(file)
            _validate(manifests, version)


def _validate(manifests: list[Path], version: str) -> None:
    minor = version.rpartition(".")[0]
    output = run_tool(TOOLS / "bin" / "kubernetes-validate", "--strict", "-k", minor, *manifests)
    problems = [
        line
        for line in output.splitlines()
        if not line.startswith("INFO") and f"schema for kind {_WITHOUT_SCHEMA} " not in line
    ]
    if problems or output.count("INFO") < len(manifests):
        raise CheckFailed("\n".join(problems) or "nothing was rendered")


def check_workflows(root: Path) -> None:
    """Lint the GitHub workflows, also for actions without a digest and needless permissions."""
    workflows = sorted((root / ".github" / "workflows").glob("*.yml"))
    run_tool(go_tool(ACTIONLINT), "-no-color", *workflows)
    run_tool(TOOLS / "bin" / "zizmor", "--offline", "--quiet", "--color=never", root / ".github")


def check_units(root: Path) -> None:
    """Verify the systemd units and their sandboxes."""
    analyze = _need("systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        # The programs of the units need not be installed here.
        units = []
        for unit in sorted((root / "deploy" / "systemd").glob("*.service")):
            text = unit.read_text(encoding="utf-8")
            copy = Path(folder, unit.name)
            copy.write_text(text.replace("/opt/jobs-grpc/bin/", f"{folder}/"), encoding="utf-8")
            units.append(copy)
        for name in ("jobs-grpc", "jobs-gateway"):
            program = Path(folder, name)
            program.touch(mode=0o755)
        # verify reports an unknown setting, but exits with 0.
        if output := run_tool(analyze, "verify", *units):
            raise CheckFailed(output)
        threshold = f"--threshold={_MAX_SYSTEMD_EXPOSURE}"
        run_tool(analyze, "security", "--offline=true", threshold, "--no-pager", *units)


def check_prometheus(root: Path) -> None:
    """Check the configuration of Prometheus, test the alerts, and parse the dashboard's queries."""
    promtool = _need("promtool")
    folder = root / "deploy" / "prometheus"
    run_tool(promtool, "check", "config", folder / "prometheus.yml")
    run_tool(promtool, "test", "rules", folder / "alerts_test.yml")
    with tempfile.TemporaryDirectory() as name:
        rules = Path(name, "dashboard.json")
        queries = dashboard_queries(root / "deploy" / "grafana" / "jobs-grpc.json")
        group = {
            "name": "dashboard",
            "rules": [{"record": "query", "expr": query} for query in queries],
        }
        # JSON is YAML as well. The rules are parsed, not evaluated; they all have the same name.
        rules.write_text(json.dumps({"groups": [group]}), encoding="utf-8")
        run_tool(promtool, "check", "rules", "--lint=none", rules)


def check_cells(root: Path) -> None:
    """Check the configuration of Envoy, also whether the cell of each tenant exists."""
    folder = root / "deploy" / "cells"
    named = set(re.findall(r"cluster: ([\w.-]+)", (folder / "tenants.yaml").read_text("utf-8")))
    config, cells, tenants, token_filter = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        for name in ("envoy.yaml", "cells.yaml", "tenants.yaml", "jwt_filter.yaml")
    )
    if unknown := named - {cell["name"] for cell in cells["resources"]}:
        raise CheckFailed(f"tenants.yaml: unknown cells: {', '.join(sorted(unknown))}")
    # Envoy validates what the other files contain only as a part of its own file.
    del config["dynamic_resources"]
    config["static_resources"]["clusters"] = [_without_type(c) for c in cells["resources"]]
    listener = config["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    (routes,) = tenants["resources"]
    manager["route_config"] = _without_type(routes)
    (provider,) = token_filter["typed_config"]["providers"].values()
    provider["local_jwks"] = {"inline_string": json.dumps({"keys": [_PUBLIC_KEY]})}
    manager["http_filters"].insert(0, token_filter)
    with tempfile.TemporaryDirectory() as name:
        merged = Path(name, "envoy.json")
        merged.write_text(json.dumps(config), encoding="utf-8")
        options = ("--mode", "validate", "--log-level", "error", "--config-path", merged)
        run_tool(TOOLS / "bin" / "envoy", *options)


def _without_type(resource: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in resource.items() if key != "@type"}


def dashboard_queries(dashboard: Path) -> list[str]:
    """Return the queries of a Grafana dashboard, with values for Grafana's variables."""
    panels = json.loads(dashboard.read_text(encoding="utf-8"))["panels"]
    return [with_values(target["expr"]) for panel in panels for target in panel.get("targets", ())]


def with_values(query: str) -> str:
    """Return a query of the dashboard with values for Grafana's variables."""
    values = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}
    for variable, value in values.items():
        query = query.replace(variable, value)
    return query


CHECKS: tuple[Callable[[Path], None], ...] = (
    check_dockerfiles,
    check_compose,
    check_chart,
    check_workflows,
    check_units,
    check_prometheus,
    check_cells,
)


def main() -> int:
    """Run the checks on the current folder; return the exit code."""
    failed = False
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        try:
            check(Path.cwd())
            print(f"{name}: ok")
        except ToolMissing as e:
            failed |= bool(os.environ.get("CI"))
            print(f"{name}: skipped, {e} is not installed", flush=True)
        except CheckFailed as e:
            failed = True
            print(f"{name}: failed\n{e}", flush=True)
    return 1 if failed else 0


def _need(tool: str) -> str:
    if path := shutil.which(tool):
        return path
    raise ToolMissing(tool)


if __name__ == "__main__":
    sys.exit(main())
