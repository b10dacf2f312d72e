"""The start of a server with and without master keys."""

import importlib.util
import os
from pathlib import Path

import pytest

from jobs_grpc.config import Config, ConfigError
from jobs_grpc.server.insecure_settings import insecure_settings
from jobs_grpc.server.webhook_delivery import webhook_delivery
from tests.support.webhooks import RecordingSender, write_keys


def config(**variables: str) -> Config:
    return Config.from_env({"JOBS_DATABASE_URL": "postgresql://u@h/d", **variables})


def config_with(keys: Path) -> Config:
    """Return a configuration with a file of master keys."""
    return config(JOBS_WEBHOOK_KEYS_FILE=os.fspath(keys))


async def test_there_is_no_delivery_without_master_keys() -> None:
    async with webhook_delivery(config().events) as delivery:
        assert delivery is None


async def test_delivery_has_the_keys_of_the_file(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys", "k1")

    async with webhook_delivery(config_with(keys).events, RecordingSender()) as delivery:
        assert delivery
        assert delivery.keys.current().newest_id == "k1"


@pytest.mark.parametrize("content", [None, "", "k1 short\n"], ids=["missing", "empty", "malformed"])
async def test_server_does_not_start_when_the_keys_are_not_usable(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)

    with pytest.raises(ConfigError, match=r"^JOBS_WEBHOOK_KEYS_FILE is not usable: ") as raised:
        async with webhook_delivery(config_with(path).events):
            pass

    assert os.fspath(path) in str(raised.value)


async def test_server_does_not_start_when_the_extra_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = write_keys(tmp_path / "keys", "k1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(ConfigError, match="JOBS_WEBHOOK_KEYS_FILE needs the extra webhooks"):
        async with webhook_delivery(config_with(keys).events):
            pass


def test_http_is_an_insecure_setting() -> None:
    variables = {"JOBS_WEBHOOK_KEYS_FILE": "keys", "JOBS_WEBHOOK_ALLOW_HTTP": "true"}
    beyond = {"JOBS_LISTEN": "0.0.0.0:50051", "JOBS_INSECURE_METADATA": "true"}

    def problems(**settings: str) -> list[str]:
        return [p for p in insecure_settings(config(**settings)) if "WEBHOOK_ALLOW_HTTP" in p]

    assert problems(**variables, **beyond)
    # On loopback, somebody tries the server.
    assert not problems(**variables)
