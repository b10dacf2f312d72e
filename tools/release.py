"""Build a release into dist/: `make release` runs this.

Checks first that the repository is ready (tools/check_release.py). Then builds the wheel, the
source distribution, the gateway's programs, SBOMs (CycloneDX) of the wheel, of each program and of
the console that the programs contain, and SHA256SUMS.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tools import check_release
from tools.check_deploy import TOOLS, go_tool

PLATFORMS = ("linux/amd64", "linux/arm64", "darwin/arm64", "windows/amd64")

_CYCLONEDX_GOMOD = "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0"
_DIST = Path("dist")


def main() -> int:
    """Build the release of the current folder; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--platform", action="append", choices=PLATFORMS, help="default: all four")
    args = parser.parse_args()
    if code := check_release.main():
        return code
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    shutil.rmtree(_DIST, ignore_errors=True)
    # The files of a release depend on its commit only, not on the time of the build.
    commit_time = _output("git", "log", "-1", "--format=%ct").strip()
    os.environ["SOURCE_DATE_EPOCH"] = commit_time
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", _DIST)
    _describe_wheel(version)
    for platform in args.platform or PLATFORMS:
        _build_gateway(version, *platform.split("/"))
    _describe_console(version)
    files = sorted(path for path in _DIST.iterdir() if path.is_file())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (_DIST / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    print("".join(f"{path}\n" for path in sorted(_DIST.iterdir())), end="")
    return 0


def _describe_wheel(version: str) -> None:
    """Write the SBOM of the wheel as the server's image installs it."""
    (wheel,) = _DIST.glob("*.whl")
    with tempfile.TemporaryDirectory() as folder:
        _run(sys.executable, "-m", "venv", "--without-pip", folder)
        python = Path(folder, "bin", "python")
        install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        _run(*install, "--require-hashes", "--requirement", "requirements/server.lock")
        _run(*install, "--no-deps", wheel)
        _run(
            *(TOOLS / "bin" / "cyclonedx-py", "environment", "--output-reproducible"),
            *("--pyproject", "pyproject.toml", "--mc-type", "application"),
            *("--output-file", _DIST / f"jobs_grpc-{version}.cdx.json", python),
        )


def _describe_console(version: str) -> None:
    """Write the SBOM of the packages in the scripts of the console, from its lock file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "jobs-console")  # npm names the SBOM after the folder
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(Path("console", name), folder)
        _output(
            "npm", "version", version, "--no-git-tag-version", "--allow-same-version", cwd=folder
        )
        command = ("npm", "sbom", "--sbom-format", "cyclonedx", "--package-lock-only")
        sbom = json.loads(_output(*command, "--omit", "dev", cwd=folder))
    # These would differ with each build.
    del sbom["serialNumber"], sbom["metadata"]["timestamp"]
    text = json.dumps(sbom, indent=2) + "\n"
    (_DIST / f"jobs-console-{version}.cdx.json").write_text(text, encoding="utf-8")


def _build_gateway(version: str, system: str, machine: str) -> None:
    name = f"jobs-gateway-{version}-{system}-{machine}"
    program = (_DIST / f"{name}{'.exe' if system == 'windows' else ''}").absolute()
    _run(
        *("go", "build", "-trimpath", "-o", program),
        *(f"-ldflags=-s -w -X main.version={version}", "."),
        cwd="gateway",
        CGO_ENABLED="0",
        GOOS=system,
        GOARCH=machine,
    )
    _run(
        *(go_tool(_CYCLONEDX_GOMOD), "bin", "-json", "-version", f"v{version}"),
        *("-output", _DIST / f"{name}.cdx.json", program),
    )


def _run(*command: str | Path, cwd: str | None = None, **environ: str) -> None:
    subprocess.run(command, check=True, cwd=cwd, env=os.environ | environ)  # noqa: S603


def _output(*command: str, cwd: Path | str | None = None) -> str:
    return subprocess.check_output(command, cwd=cwd, text=True)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
