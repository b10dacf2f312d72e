"""`make check-deploy` notices a mistake in each kind of file."""

import shutil
from pathlib import Path

import pytest

from tests.support.processes import skip_without
from tools import check_deploy
from tools.check_deploy import CheckFailed

ROOT = Path(__file__).parents[2]
CHART = "deploy/helm/jobs-grpc"

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(tools: None, tmp_path: Path) -> Path:
    for folder in ("deploy", ".clusterfuzzlite", ".github"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize(
    ("check", "file", "text", "replacement", "message"),
    [
        ("dockerfiles", "deploy/docker/server.Dockerfile", "WORKDIR /", "WORKDIR ", "DL3000"),
        ("compose", "deploy/compose.yaml", "stop_grace_period", "grace", "grace"),
        ("compose", "deploy/compose.yaml", "[services]", "[other]", "undefined network"),
        ("chart", f"{CHART}/templates/server.yaml", "containerPort", "port", "containerPort"),
        ("chart", f"{CHART}/templates/server.yaml", "kind: Service", "kind: Servis", "Servis"),
        ("chart", f"{CHART}/values.yaml", "replicas: 2", "replicas: two", "replicas"),
        ("dockerfiles", ".clusterfuzzlite/Dockerfile", "WORKDIR $", "WORKDIR ", "DL3000"),
        ("workflows", ".github/workflows/ci.yml", "matrix.python ", "matrix.piton ", "piton"),
        ("workflows", ".github/workflows/ci.yml", "checkout@", "checkout@v7 # ", "unpinned-uses"),
        ("units", "deploy/systemd/jobs-grpc.service", "ProtectHome", "ProtectHose", "ProtectHose"),
        ("units", "deploy/systemd/jobs-grpc.service", "bin/jobs-grpc", "bin/jobs", "executable"),
        ("units", "deploy/systemd/jobs-gateway.service", "SystemCallFilter=", "#", "exposure"),
        ("prometheus", "deploy/prometheus/prometheus.yml", "targets", "target", "target"),
        ("prometheus", "deploy/prometheus/alerts.yml", "for: 2m", "for: 9m", "JobsServerDown"),
        (
            "prometheus",
            "deploy/prometheus/alerts.yml",
            "> 300",
            "> 30000",
            "JobsMaintenanceOverdue",
        ),
        (
            "prometheus",
            "deploy/grafana/jobs-grpc.json",
            "sum(jobs_serving",
            "sum((jobs_serving",
            "parse",
        ),
        ("cells", "deploy/cells/envoy.yaml", "stream_idle_timeout", "idle", "idle"),
        ("cells", "deploy/cells/cells.yaml", "grpc_health_check", "grpc", "grpc"),
        ("cells", "deploy/cells/tenants.yaml", "{cluster: cell-2", "{cluster: cell-3", "cell-3"),
        ("cells", "deploy/cells/jwt_filter.yaml", "audiences", "audience", "audience"),
    ],
)
def test_check_fails_when_file_is_wrong(
    copy: Path, check: str, file: str, text: str, replacement: str, message: str
) -> None:
    path = copy / file
    broken = path.read_text().replace(text, replacement)
    assert broken != path.read_text()
    path.write_text(broken)
    if check == "prometheus" and not shutil.which("promtool"):
        skip_without("prometheus")

    with pytest.raises(CheckFailed, match=message):
        getattr(check_deploy, f"check_{check}")(copy)


def test_chart_is_not_accepted_when_it_renders_nothing(copy: Path) -> None:
    for template in (copy / CHART / "templates").glob("*.yaml"):
        template.unlink()

    with pytest.raises(CheckFailed):
        check_deploy.check_chart(copy)
