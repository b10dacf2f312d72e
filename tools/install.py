"""Installs the packages of a lock file with the pip of this Python, and shows the progress."""

import re
import subprocess
import sys
from pathlib import Path


def main(lock: str) -> int:
    """Install, and return the exit code of pip. Its output is only shown if it fails."""
    packages = re.compile(r"^[\w.-]+(?:\[[\w,-]+\])?==", re.MULTILINE)
    total = len(packages.findall(Path(lock).read_text("utf-8")))
    command = ["-m", "pip", "install", "--disable-pip-version-check", "--require-hashes"]
    pip = subprocess.Popen(  # noqa: S603 - pip
        [sys.executable, *command, "--progress-bar=off", "-r", lock],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert pip.stdout is not None  # noqa: S101 - for the type checker
    seen, output = 0, list[str]()
    for line in pip.stdout:
        output.append(line)
        # Packages for other platforms are ignored.
        if package := re.match(r"(?:Collecting|Ignoring) ([\w.-]+)", line):
            seen += 1
            _show(f"{seen} of {total} packages: {package[1]}")
        elif line.startswith("Installing collected packages"):
            _show("installing the packages …")
    _show("")
    if code := pip.wait():
        print("".join(output), end="", file=sys.stderr)
    return code


def _show(text: str) -> None:
    """Replace the line on the terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
