"""Installs the packages of a lock file into an environment: `install.py LOCK ENVIRONMENT`.

Run it with the Python of .venv. uv installs in a third of pip's CPU time. pip installs uv, and also
the packages if uv can't: uv does not read the configuration of pip, such as an index.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

_UV = Path(sys.executable).with_name("uv")


def main(lock: str, environment: str) -> int:
    """Install, and return the exit code of the last command."""
    python = Path(environment, "bin", "python")
    if not _UV.exists() and (code := _install_uv()):
        return code
    uv: list[str | Path] = [
        _UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
    ]
    options = ["--require-hashes", "--requirement", lock]
    if _run(*uv, *options) == 0:
        return 0
    print("uv failed; installing with pip …", file=sys.stderr)
    return _pip("--python", python, "install", *options)


def _install_uv() -> int:
    """Install the version of uv that dev.lock names."""
    text = Path("requirements/dev.lock").read_text("utf-8")
    entry = re.search(r"^uv==.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    assert entry is not None  # noqa: S101 - for the type checker
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(entry[0])
        file.flush()
        return _pip("install", "--require-hashes", "--requirement", file.name)


def _pip(*arguments: str | Path) -> int:
    return _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str | Path) -> int:
    return subprocess.run(command, check=False).returncode  # noqa: S603 - pip or uv


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
