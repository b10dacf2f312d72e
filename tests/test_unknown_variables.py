"""Misspelled environment variables are reported at the start."""

import re
from pathlib import Path

import pytest

from jobs_grpc.config.reference import all_settings
from jobs_grpc.config.unknown import OTHER_VARIABLES, unknown_variables

ROOT = Path(__file__).parents[1]


def test_unknown_variable_is_reported_with_the_nearest_name() -> None:
    environ = {"JOBS_MAX_TARGET": "5", "JOBS_LOGLEVEL": "x", "JOBS_XYZ": "secret", "PATH": "/bin"}

    assert list(unknown_variables(environ)) == [
        "the environment variable JOBS_LOGLEVEL is unknown and has no effect;"
        " did you mean JOBS_LOG_LEVEL?",
        "the environment variable JOBS_MAX_TARGET is unknown and has no effect;"
        " did you mean JOBS_MAX_TARGETS?",
        "the environment variable JOBS_XYZ is unknown and has no effect",
    ]


def test_known_variables_and_those_of_the_gateway_are_not_reported() -> None:
    names = [setting.variable for setting in all_settings()]

    assert not list(unknown_variables(dict.fromkeys([*names, *OTHER_VARIABLES], "x")))
    assert not list(unknown_variables({"JOBS_GATEWAY_LISTEN": "x", "JOBS_GATEWAY_X": "x"}))


def test_every_variable_that_the_package_names_is_known() -> None:
    files = [*ROOT.glob("jobs_grpc/cli/*.py"), *ROOT.glob("jobs_grpc/dev/**/*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    names = set(re.findall(r"\bJOBS_[A-Z][A-Z_]*[A-Z]\b", text))

    assert "JOBS_TOKEN" in names
    assert not list(unknown_variables(dict.fromkeys(names, "x")))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JOBS_GRPC_SERVICE_HOST", "10.0.0.1"),
        ("JOBS_GRPC_SERVICE_PORT", "50051"),
        ("JOBS_GRPC_SERVICE_PORT_GRPC", "50051"),
        ("JOBS_GRPC_PORT", "tcp://10.0.0.1:50051"),
        ("JOBS_PORT", "tcp://10.0.0.1:50051"),
        ("JOBS_GRPC_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("JOBS_GRPC_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("JOBS_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_variables_that_kubernetes_sets_are_not_reported(name: str, value: str) -> None:
    assert not list(unknown_variables({name: value}))


def test_port_is_reported_when_kubernetes_did_not_set_it() -> None:
    assert list(unknown_variables({"JOBS_PORT": "50051"}))
