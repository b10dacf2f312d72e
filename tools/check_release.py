"""Check that the repository is ready for a release: `make release` runs this first.

Prints one line per problem, with what to do, and exits with 1 if there is any.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

_HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)

_CHART_VERSION = re.compile(r"^(?:version|appVersion): (.+)$", re.MULTILINE)


def find_problems(
    *,
    tree_status: str,
    version: str,
    changelog: str,
    chart: str,
    contract: bytes,
    baseline: bytes,
    openapi: str,
    openapi_baseline: str,
) -> list[str]:
    """Return one line per reason not to release.

    `tree_status` is the output of `git status --porcelain`; `chart` is the text of Chart.yaml;
    `contract` and `baseline` are the current and the released contract as serialized images;
    `openapi` and `openapi_baseline` are the current and the released OpenAPI document.
    """
    problems = []
    if tree_status:
        problems.append("the working tree has changes: commit or stash them")
    problems += _changelog_problems(version, changelog)
    if set(_CHART_VERSION.findall(chart)) != {version}:
        problems.append(
            f"deploy/helm/jobs-grpc/Chart.yaml: set version and appVersion to {version}"
        )
    if contract != baseline:
        problems.append("protos/released.txtpb is not the current contract: run `make baseline`")
    if openapi != openapi_baseline:
        problems.append(
            "protos/released.openapi.json is not the current document: run `make baseline`"
        )
    return problems


def _changelog_problems(version: str, changelog: str) -> list[str]:
    # The text before the first heading, then a name, a date or None, and a text for each section.
    _, *sections = _HEADING.split(changelog)
    names, dates, texts = sections[::3], sections[1::3], sections[2::3]
    unreleased = names[:1] == ["Unreleased"] and bool(texts[0].strip())
    released = [name for name in names if name != "Unreleased"]
    if unreleased:
        return [
            f"CHANGELOG.md has unreleased entries: move them under `## [{version}] - YYYY-MM-DD`,"
            " or raise the version in pyproject.toml first"
        ]
    if released[:1] != [version]:
        newest = released[0] if released else "none"
        return [
            f"pyproject.toml has version {version}, but the newest section of CHANGELOG.md is"
            f" {newest}: make them equal"
        ]
    if not dates[names.index(version)]:
        return [f"CHANGELOG.md: write the date of the release: `## [{version}] - YYYY-MM-DD`"]
    return []


def main() -> int:
    """Check the repository in the current folder; return the exit code."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    problems = find_problems(
        tree_status=_output("git", "status", "--porcelain").decode(),
        version=project["version"],
        changelog=Path("CHANGELOG.md").read_text(encoding="utf-8"),
        chart=Path("deploy/helm/jobs-grpc/Chart.yaml").read_text(encoding="utf-8"),
        contract=_image(),
        baseline=_image("protos/released.txtpb"),
        openapi=Path("gateway/gen/openapi.json").read_text(encoding="utf-8"),
        openapi_baseline=Path("protos/released.openapi.json").read_text(encoding="utf-8"),
    )
    for problem in problems:
        print(f"cannot release: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _image(*source: str) -> bytes:
    """Return a contract as a serialized image: of `source`, or of the files in protos/."""
    buf = str(Path(sys.executable).with_name("buf"))
    return _output(buf, "build", *source, "--exclude-source-info", "--output", "-#format=binpb")


def _output(*command: str) -> bytes:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
