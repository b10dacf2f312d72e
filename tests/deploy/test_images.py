"""The Dockerfiles copy files of their build contexts, and the images run as an ordinary user.

CI builds the images, limits their size and starts them.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("gateway", "server")


def dockerfile(name: str) -> str:
    """The text of a Dockerfile, each instruction on one line."""
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
