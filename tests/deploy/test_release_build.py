"""`make release` in a clone whose version, changelog, chart and contract agree."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.support import require_go
from tools.check_deploy import TOOLS

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).with_name("buf")

pytestmark = pytest.mark.slow


def release(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build a release in a clone, for one platform only."""
    return subprocess.run(
        [sys.executable, "-m", "tools.release", "--platform", "linux/amd64"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)  # noqa: S603, S607


@pytest.mark.timeout(600)
def test_release_builds_only_when_everything_agrees(tools: None, tmp_path: Path) -> None:
    require_go()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(clone))
    (clone / ".venv-deploy").symlink_to(TOOLS)
    (clone / ".git" / "info" / "exclude").write_text(".venv-deploy\n")
    for file in ("pyproject.toml", "deploy/helm/jobs-grpc/Chart.yaml"):
        path = clone / file
        path.write_text(
            re.sub(r'(?m)^((?:v|appV)ersion(?: = "|: ))[\d.]+', r"\g<1>9.8.7", path.read_text())
        )
    subprocess.run(  # noqa: S603
        [BUF, "build", "--exclude-source-info", "--output", "protos/released.txtpb"],
        cwd=clone,
        check=True,
    )
    openapi = clone / "gateway" / "gen" / "openapi.json"
    shutil.copy(openapi, clone / "protos" / "released.openapi.json")
    git(clone, "commit", "--quiet", "--all", "--allow-empty", "--message", "Prepare 9.8.7")

    rejected = release(clone)
    assert (rejected.returncode, rejected.stdout) == (1, "")
    assert rejected.stderr.startswith("cannot release: ")
    assert "CHANGELOG.md" in rejected.stderr
    assert not (clone / "dist").exists()

    changelog = clone / "CHANGELOG.md"
    section = "## [9.8.7] - 2026-01-01"
    text = re.sub(r"(?m)^## \[.+$", section, changelog.read_text(), count=1)
    changelog.write_text(text)
    git(clone, "commit", "--quiet", "--all", "--message", "Release 9.8.7")
    built = release(clone)
    assert built.returncode == 0, built.stderr

    dist = clone / "dist"
    gateway = "jobs-gateway-9.8.7-linux-amd64"
    names = {
        "jobs_grpc-9.8.7-py3-none-any.whl",
        "jobs_grpc-9.8.7.tar.gz",
        "jobs_grpc-9.8.7.cdx.json",
        "jobs-console-9.8.7.cdx.json",
    }
    names |= {gateway, f"{gateway}.cdx.json"}
    assert {path.name for path in dist.iterdir()} == names | {"SHA256SUMS"}
    lines = (line.split("  ") for line in (dist / "SHA256SUMS").read_text().splitlines())
    sums = {name: checksum for checksum, name in lines}
    assert sums == {name: hashlib.sha256((dist / name).read_bytes()).hexdigest() for name in names}
    assert subprocess.check_output([dist / gateway, "--version"], text=True) == "9.8.7\n"  # noqa: S603
    assert {"grpcio", "asyncpg", "cryptography"} <= components(dist / "jobs_grpc-9.8.7.cdx.json")
    assert "google.golang.org/grpc" in components(dist / f"{gateway}.cdx.json")
    assert "preact" in components(dist / "jobs-console-9.8.7.cdx.json")


def components(sbom: Path) -> set[str]:
    """Return the names in an SBOM of version 9.8.7."""
    document = json.loads(sbom.read_text())
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["version"] in {"9.8.7", "v9.8.7"}
    return {component["name"] for component in document["components"]}
