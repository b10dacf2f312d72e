"""tools/check_release.py rejects a release that is not ready."""

import pytest

from tools.check_release import find_problems

RELEASED = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-25\n\n### Added\n\n- A call.\n"


def problems(
    *,
    tree_status: str = "",
    version: str = "1.2.0",
    changelog: str = RELEASED,
    chart: str = "version: 1.2.0\nappVersion: 1.2.0\n",
    baseline: bytes = b"contract",
    openapi_baseline: str = "document",
) -> list[str]:
    return find_problems(
        tree_status=tree_status,
        version=version,
        changelog=changelog,
        chart=chart,
        contract=b"contract",
        baseline=baseline,
        openapi="document",
        openapi_baseline=openapi_baseline,
    )


def test_release_is_accepted_when_everything_agrees() -> None:
    assert problems() == []
    assert problems(changelog=RELEASED.replace("## [Unreleased]\n\n", "")) == []


def test_release_is_rejected_when_working_tree_has_changes() -> None:
    assert problems(tree_status=" M README.md\n") == [
        "the working tree has changes: commit or stash them"
    ]


@pytest.mark.parametrize(
    "changelog",
    [
        "# Changelog\n\n## [Unreleased]\n\n- A call.\n",
        RELEASED.replace("## [Unreleased]\n", "## [Unreleased]\n\n- Another call.\n"),
    ],
)
def test_release_is_rejected_when_changelog_has_unreleased_entries(changelog: str) -> None:
    (problem,) = problems(changelog=changelog)
    assert "move them under `## [1.2.0] - YYYY-MM-DD`" in problem


@pytest.mark.parametrize(
    ("changelog", "newest"), [(RELEASED.replace("1.2.0", "1.1.0"), "1.1.0"), ("", "none")]
)
def test_release_is_rejected_when_changelog_has_another_version(
    changelog: str, newest: str
) -> None:
    (problem,) = problems(changelog=changelog)
    assert f"the newest section of CHANGELOG.md is {newest}" in problem


def test_release_is_rejected_when_the_baseline_differs_from_the_contract() -> None:
    for older in (problems(baseline=b"older"), problems(openapi_baseline="older")):
        (problem,) = older
        assert "run `make baseline`" in problem


@pytest.mark.parametrize(
    "chart", ["version: 1.2.0\nappVersion: 1.1.0\n", "version: 1.1.0\nappVersion: 1.2.0\n"]
)
def test_release_is_rejected_when_the_chart_has_another_version(chart: str) -> None:
    (problem,) = problems(chart=chart)
    assert "set version and appVersion to 1.2.0" in problem


def test_release_is_rejected_when_the_changelog_has_no_date() -> None:
    (problem,) = problems(changelog=RELEASED.replace(" - 2026-11-25", ""))
    assert "write the date of the release: `## [1.2.0] - YYYY-MM-DD`" in problem


def test_all_problems_are_reported_together() -> None:
    assert len(problems(tree_status="?? x\n", version="1.3.0", baseline=b"")) == 4
