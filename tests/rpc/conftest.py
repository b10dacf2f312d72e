"""Fixtures: the audit log."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from jobs_grpc.observability import logs


@pytest.fixture
def audit_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """A function that returns the lines of the audit log so far, as JSON."""
    caplog.set_level(logging.INFO, "jobs_grpc.audit")
    as_json = logs.JsonFormatter()
    return lambda: [as_json.format(r) for r in caplog.records if r.name == "jobs_grpc.audit"]


@pytest.fixture
def audit_log(audit_lines: Callable[[], list[str]]) -> Callable[[], list[dict[str, Any]]]:
    """A function that returns the fields of the lines of the audit log so far."""
    return lambda: [json.loads(line) for line in audit_lines()]
