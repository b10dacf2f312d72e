"""The limit on open files: raised as far as possible, and logged if it is low."""

import logging
import resource

import pytest

from jobs_grpc.server.open_files import raise_open_file_limit


def test_open_file_limit_is_raised_to_the_hard_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))

    raise_open_file_limit()

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_open_file_limit_is_logged_when_it_is_low(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (300, 300))

    raise_open_file_limit()

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("at most 300 files can be open")
    assert "ulimit -n" in record.message
