"""The defaults of the server and of its clients fit each other."""

import argparse
import re
from pathlib import Path

from jobs_grpc.cli import command
from jobs_grpc.config.reference import all_settings

REFERENCE = Path(__file__).parents[1] / "docs/reference"


def test_clients_wait_longer_than_the_server_by_default() -> None:
    """So they receive an error that names the setting, and not DEADLINE_EXCEEDED of their own."""
    defaults = {setting.variable: setting.default for setting in all_settings()}
    server_timeout = sum(
        float(str(defaults[name])) for name in ("JOBS_POOL_TIMEOUT", "JOBS_QUERY_TIMEOUT")
    )
    gateway = re.search(
        r"`JOBS_GATEWAY_REQUEST_TIMEOUT`: [^`]*\(default (\d+)\)",
        (REFERENCE / "gateway-settings.md").read_text(encoding="utf-8"),
    )
    assert gateway

    assert float(gateway[1]) > server_timeout
    options = argparse.ArgumentParser()
    command._add_connection_options(options, options)
    assert options.get_default("timeout") > server_timeout
