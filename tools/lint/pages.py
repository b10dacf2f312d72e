"""Rules for the Markdown pages: their form, and that what they name exists."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath
from posixpath import normpath

from jobs_grpc.db.tenant_tables import TENANT_TABLES
from tools.lint.sql import SQL
from tools.lint.tree import Problem, Tree, line_of, numbered

_FOLDERS = ("", "docs/**/", "bench/**/", "deploy/**/", ".github/**/")
_MAX_LENGTH = 120
_MAX_LINES = 250
# Has wide tables.
_WIDE = "docs/reference/errors.md"

_NAMED_PATH = re.compile(r"`((?:jobs_grpc|protos|gateway|tests|docs|tools)/[\w/.-]*)`")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def check(tree: Tree) -> Iterator[Problem]:
    """Check all pages, and the workflows that call make."""
    sql = "".join(tree.text(path) for path in tree.files(f"{SQL}/**/*.sql"))
    targets = set(re.findall(r"^([a-z][a-z-]*):", tree.text("Makefile"), re.MULTILINE))
    for path in pages(tree):
        text = tree.text(path)
        yield from _lengths(path, text)
        yield from _names(tree, path, text, sql)
        yield from _links(tree, path, text)
    for path in (*pages(tree), *tree.files(".ci/run", ".github/workflows/*.yml")):
        for line, command in commands(path, tree.text(path)):
            for target in _targets(command):
                if target not in targets:
                    yield Problem(path, line, "make", f"the Makefile has no target {target}")
    yield from _indexes(tree)
    yield from _tables(tree, sql)
    yield from _extras(tree)
    yield from _version(tree)
    yield from _suites(tree)
    for path in ("docs/threat-model.md", *tree.files("docs/threat-model/*.md")):
        yield from _threats(tree, path)


def pages(tree: Tree) -> list[str]:
    """Return the paths of all pages."""
    return tree.files(*(f"{folder}*.md" for folder in _FOLDERS))


def _lengths(path: str, text: str) -> Iterator[Problem]:
    for number, line in numbered(text):
        # A line of one word, such as a URL or the name of a test, cannot be wrapped.
        if path != _WIDE and len(line) > _MAX_LENGTH and " " in line.strip():
            problem = f"has {len(line)} characters: at most {_MAX_LENGTH}"
            yield Problem(path, number, "line-length", problem)
    if path.startswith("docs/") and (count := len(text.splitlines())) > _MAX_LINES:
        problem = f"has {count} lines, at most {_MAX_LINES}: shorten it, or split it by need"
        yield Problem(path, _MAX_LINES + 1, "page-length", problem)


def _names(tree: Tree, path: str, text: str, sql: str) -> Iterator[Problem]:
    for match in _NAMED_PATH.finditer(text):
        # Folders named bin exist only after a build.
        if not tree.exists(match[1]) and "/bin" not in match[1]:
            yield Problem(path, line_of(text, match.start()), "path", f"{match[1]} does not exist")
    for match in re.finditer(r"`jobs\.(\w+)`", text):
        if not re.search(rf"\bjobs\.{match[1]}\b", sql):
            problem = f"no SQL file has jobs.{match[1]}"
            yield Problem(path, line_of(text, match.start()), "sql-object", problem)


def _links(tree: Tree, path: str, text: str) -> Iterator[Problem]:
    for match in re.finditer(r"\]\(([^)\s]+)\)", text):
        if "://" in match[1] or match[1].startswith("mailto:"):
            continue
        file, _, fragment = match[1].partition("#")
        target = normpath(PurePosixPath(path).parent / file) if file else path
        line = line_of(text, match.start())
        if not tree.exists(target):
            yield Problem(path, line, "link", f"{target} does not exist")
        elif fragment and target.endswith(".md") and fragment not in _anchors(tree.text(target)):
            yield Problem(path, line, "link", f"{target} has no heading #{fragment}")


def _anchors(text: str) -> set[str]:
    """Return the fragment of each heading of a page, as GitHub derives it."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def commands(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of a page, or of a script, that begin with `make`, with their lines."""
    pattern = r"^(?:\s+run:)?\s*(make .*)"
    if path.endswith(".md"):
        # In a fence, and between backquotes outside of fences, possibly over two lines.
        for fence in _FENCE.finditer(text):
            for match in re.finditer(r"^(make .*)", fence[0], re.MULTILINE):
                yield line_of(text, fence.start() + match.start()), match[1]
        pattern = r"`(make [^`]+)`"
        text = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    for match in re.finditer(pattern, text, re.MULTILINE):
        yield line_of(text, match.start()), " ".join(match[1].split())


def _targets(command: str) -> Iterator[str]:
    for word in shlex.split(command.removesuffix("\\"), comments=True)[1:]:
        # Not an option, a variable or a file.
        if re.fullmatch(r"[a-z][a-z-]*", word):
            yield word


def _indexes(tree: Tree) -> Iterator[Problem]:
    for folder in ("docs", "docs/decisions"):
        index = tree.text(f"{folder}/README.md")
        for path in tree.files(f"{folder}/**/*.md"):
            is_of_decisions = path.startswith("docs/decisions/") and folder == "docs"
            name = path.removeprefix(f"{folder}/")
            if name != "README.md" and not is_of_decisions and f"]({name})" not in index:
                yield Problem(f"{folder}/README.md", 1, "index", f"does not list {path}")


def _tables(tree: Tree, sql: str) -> Iterator[Problem]:
    path, head = "docs/architecture.md", "| table or view | content |\n"
    text = tree.text(path)
    first_cells = "".join(re.findall(r"^\| (.+?) \|", text.partition(head)[2], re.MULTILINE))
    listed = set(re.findall(r"`((?:jobs|public)\.\w+)`", first_cells))
    views = re.findall(r"^CREATE OR REPLACE VIEW (\S+)", sql, re.MULTILINE)
    for name in sorted(listed ^ {*TENANT_TABLES, *views}):
        problem = f"{name} is no table or view" if name in listed else f"does not list {name}"
        yield Problem(path, line_of(text, text.index(head)), "tables", problem)


def _extras(tree: Tree) -> Iterator[Problem]:
    path = "docs/decisions/dependencies.md"
    listed = set(re.findall(r"^\| `(\w+)` \|", tree.text(path), re.MULTILINE))
    project = tomllib.loads(tree.text("pyproject.toml"))["project"]
    for name in sorted(listed ^ project["optional-dependencies"].keys()):
        problem = f"the extra {name} is only " + ("here" if name in listed else "in pyproject.toml")
        yield Problem(path, 1, "extras", problem)


def _version(tree: Tree) -> Iterator[Problem]:
    version = tomllib.loads(tree.text("pyproject.toml"))["project"]["version"]
    for name in (
        f"pip install 'jobs_grpc-{version}-py3-none-any.whl[cli,embedded,webhooks]'",
        f"jobs-gateway-{version}-linux-amd64",
    ):
        if name not in tree.text("README.md"):
            yield Problem("README.md", 1, "version", f"does not have {name}")


def _suites(tree: Tree) -> Iterator[Problem]:
    """A table says what each folder of tests notices."""
    path, head = "CONTRIBUTING.md", "| suite | what it catches |\n"
    text = tree.text(path)
    listed = set(re.findall(r"^\| `(tests/\w+)` \|", text, re.MULTILINE))
    folders = {path.rpartition("/")[0] for path in tree.files("tests/*/test_*.py")}
    for name in sorted(folders ^ listed):
        problem = f"{name} has no tests" if name in listed else f"does not list {name}"
        yield Problem(path, line_of(text, text.index(head)), "suite", problem)


def _threats(tree: Tree, path: str) -> Iterator[Problem]:
    """Each threat ends with the tests that show its prevention."""
    text = tree.text(path).partition("\n## Not prevented")[0]
    threats = re.sub(r"(?m)^## .*$", "", text)
    for match in re.finditer(r"\n- \*\*(.+?)(?=\n- \*\*|\Z)", threats, re.DOTALL):
        # The tests begin a line after the last sentence.
        tests = "`" + match[1].rpartition(".\n  `")[2]
        named = [
            (f"tests/{file}", f"def {test}")
            for file, test in re.findall(r"`((?:\w+/)?test_\w+\.py)(?:::(test_\w+))?`", tests)
        ]
        named += [
            (file, f"func {test}(")
            for file, test in re.findall(r"`(gateway/[\w/]+_test\.go)::(Test\w+)`", tests)
        ]
        line = line_of(threats, match.start() + 1)
        if not named or len(named) != tests.count("`") / 2:
            yield Problem(path, line, "threat", "does not end with the tests that prevent it")
        for file, test in named:
            if not tree.exists(file) or test not in tree.text(file):
                yield Problem(path, line, "threat", f"{file} has no {test}")
