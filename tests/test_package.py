"""The package that `pip install .` installs."""

import itertools
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.postgres import new_data_dir

ROOT = Path(__file__).parents[1]

_VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

_PROBE = """
import buf.validate.validate_pb2, fleet.jobs.v1.jobs_pb2, jobs_grpc.server.app
from jobs_grpc.db import schema
print(jobs_grpc.__file__)
print(fleet.jobs.v1.jobs_pb2.__file__)
assert schema.migrations() and schema.code() and schema.read_sql("grants.sql")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package from the source tree into a folder."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--root-user-action=ignore"]
    subprocess.run([*pip, *offline, "--target", str(target), str(ROOT)], check=True)  # noqa: S603
    return target


def test_package_contains_generated_modules_and_sql(installed: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(installed)}
    probe = [sys.executable, "-c", _PROBE]
    output = subprocess.check_output(probe, env=environ, cwd=installed, text=True)  # noqa: S603

    assert all(line.startswith(str(installed)) for line in output.splitlines())


def test_package_contains_the_contract_next_to_its_generated_code(installed: Path) -> None:
    contract = sorted((ROOT / "protos").glob("**/*.proto"))

    assert len(contract) == 7
    for proto in contract:
        packaged = installed / proto.relative_to(ROOT / "protos")
        assert packaged.read_bytes() == proto.read_bytes()
    assert (installed / "fleet" / "jobs" / "v1" / "descriptors.binpb").exists()


def test_installed_command_prints_its_version(installed: Path) -> None:
    environ = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, str(installed / "bin" / "jobs-grpc"), "--version"]
    output = subprocess.check_output(command, env=environ, cwd=installed, text=True)  # noqa: S603

    assert output == f"{_VERSION}\n"


@pytest.mark.slow
def test_installed_command_runs_the_demo_fleet(installed: Path) -> None:
    program = str(installed / "bin" / "jobs-grpc")
    environ = {k: v for k, v in os.environ.items() if not k.startswith("JOBS_")}
    environ |= {"PYTHONPATH": str(installed), "PATH": f"{installed / 'bin'}:{environ['PATH']}"}
    listen = {"JOBS_LISTEN": "127.0.0.1:0", "JOBS_METRICS_LISTEN": ""}
    with (
        new_data_dir() as data_dir,
        subprocess.Popen(  # noqa: S603
            [sys.executable, program, "dev"],
            env=environ | listen | {"JOBS_DATA_DIR": str(data_dir)},
            cwd=installed,
            stdout=subprocess.PIPE,
            text=True,
        ) as dev,
    ):
        try:
            assert dev.stdout
            lines = itertools.takewhile(lambda line: "Press Ctrl-C" not in line, dev.stdout)
            (create,) = re.findall(r"^  jobs-grpc (create .*)$", "".join(lines), re.MULTILINE)
            command = [sys.executable, program, *create.split()]
            output = subprocess.check_output(command, env=environ, cwd=installed, text=True)  # noqa: S603
        finally:
            dev.send_signal(signal.SIGTERM)
    assert output.startswith("created try-1 for 1,000 devices")
    assert dev.returncode == 0


def test_package_is_typed_and_installs_nothing_else(installed: Path) -> None:
    assert (installed / "jobs_grpc" / "py.typed").exists()
    assert (installed / "fleet" / "jobs" / "v1" / "py.typed").exists()
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"jobs_grpc", "fleet", "buf", "bin"}
