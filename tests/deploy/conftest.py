"""Fixtures: the tools of `make check-deploy`, and the gateway."""

import pytest

from tests.gateway.conftest import gateway_binary
from tests.support.processes import skip_without
from tools.check_deploy import TOOLS

__all__ = ["gateway_binary"]


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip a test without the tools of `make check-deploy`, or fail it in CI."""
    if not TOOLS.exists():
        skip_without("what `make check-deploy` installs")
