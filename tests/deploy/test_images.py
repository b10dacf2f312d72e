"""The Dockerfiles copy files of their build contexts, and the images run as an ordinary user.

CI builds the images, limits their size, starts them with the Compose file and calls them.
"""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NAMES = ("gateway", "server")


def dockerfile(name: str) -> str:
    path = ROOT / "deploy" / "docker" / f"{name}.Dockerfile"
    return re.sub(r"\\\n\s*", "", path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_copied_files_are_in_the_build_context(name: str) -> None:
    ignore = ROOT / "deploy" / "docker" / f"{name}.Dockerfile.dockerignore"
    context = {line[1:] for line in ignore.read_text().split() if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(name), re.MULTILINE)

    copied = {source for sources in copies for source in sources.split()}

    assert copied == context
    assert [source for source in copied if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_image_runs_as_an_ordinary_user_and_is_labeled(name: str) -> None:
    *_, last_stage = re.split(r"^FROM ", dockerfile(name), flags=re.MULTILINE)

    assert re.search(r"^USER 65532:65532$", last_stage, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*CMD ", last_stage, re.MULTILINE)
    labels = re.findall(r"org\.opencontainers\.image\.(\w+)=", last_stage)
    assert set(labels) == {"title", "description", "licenses", "source", "version", "revision"}


def test_ci_starts_the_images_with_a_read_only_file_system() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = "\n".join(step.get("run", "") for step in workflow["jobs"]["images"]["steps"])

    assert {name: compose["services"][name]["read_only"] for name in ("server", "gateway")} == {
        "server": True,
        "gateway": True,
    }
    # The gateway starts after the server.
    assert "docker compose up --no-build --wait --wait-timeout 120 gateway" in steps
    assert "/healthz" in steps
    assert "jobs-grpc health" in steps
