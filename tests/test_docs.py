"""The pages name existing calls, paths, SQL objects and links."""

import re
import tomllib
from pathlib import Path

import pytest

from jobs_grpc.db.tenant_tables import TENANT_TABLES
from tools import calls_reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CALLS = (DOCS / "reference" / "calls.md").read_text(encoding="utf-8")
SQL = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("jobs_grpc/db/sql/**/*.sql"))
PAGES = sorted(
    path
    for folder in ("", "docs/**/", "bench/**/", "deploy/**/", ".github/**/")
    for path in ROOT.glob(f"{folder}*.md")
)


def _plain(text: str) -> str:
    """Return `text` without the Markdown of links and code."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def test_calls_page_has_the_declared_roles_of_every_call() -> None:
    assert calls_reference.updated(CALLS) == CALLS, "run `make calls-reference`"


def test_index_lists_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")

    for page in DOCS.glob("**/*.md"):
        if page.name != "README.md" and page.parent.name != "decisions":
            assert f"]({page.relative_to(DOCS)})" in index, page


def test_decisions_index_lists_every_decision() -> None:
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")

    for page in DOCS.glob("decisions/*.md"):
        assert f"]({page.name})" in index or page.name == "README.md", page


def test_dependencies_page_lists_every_extra() -> None:
    page = (DOCS / "decisions" / "dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(project["optional-dependencies"])


def test_architecture_lists_every_table_and_view() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    _, _, rows = text.partition("| table or view | content |\n")

    first_cells = "".join(re.findall(r"^\| (.+?) \|", rows, re.MULTILINE))
    listed = re.findall(r"`((?:jobs|public)\.\w+)`", first_cells)

    views = re.findall(r"^CREATE OR REPLACE VIEW (\S+)", SQL, re.MULTILINE)
    assert sorted(listed) == sorted((*TENANT_TABLES, *views))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_existing_paths_and_sql_objects(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    for path in re.findall(r"`((?:jobs_grpc|protos|gateway|tests|docs|tools)/[\w/.-]*)`", text):
        # Folders named bin exist only after a build.
        assert (ROOT / path).exists() or "/bin" in path, path
    for name in re.findall(r"`jobs\.(\w+)`", text):
        assert re.search(rf"\bjobs\.{name}\b", SQL), name


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "errors.md"],  # has wide tables
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_lines_have_at_most_120_characters(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()

    # A line of one word, such as a URL or the name of a test, cannot be wrapped.
    assert [line for line in lines if len(line) > 120 and " " in line.strip()] == []


def test_pages_have_at_most_250_lines() -> None:
    lengths = {
        page: len(page.read_text(encoding="utf-8").splitlines()) for page in DOCS.rglob("*.md")
    }

    # Shorten a longer page; if it serves several needs, split it.
    assert {page: length for page, length in lengths.items() if length > 250} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link or link.startswith("mailto:"):
            continue
        file, _, fragment = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if fragment and target.suffix == ".md":
            assert fragment in _anchors(target), link


def _anchors(page: Path) -> set[str]:
    """Return the fragment of each heading of a page, as GitHub derives it."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", _plain(heading).lower()).replace(" ", "-") for heading in headings
    }
