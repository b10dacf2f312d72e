"""What the doctor finds about webhooks."""

import os
from pathlib import Path

import pytest

from tests.doctor.conftest import Doctor
from tests.support.database import Database
from tests.support.webhooks import write_keys
from tests.webhooks.support import add_webhook

pytestmark = pytest.mark.slow

URL = "https://hooks.example/secret-path"


@pytest.fixture
def keys(folder: Path) -> dict[str, str]:
    """The setting of a file with one master key."""
    return {"JOBS_WEBHOOK_KEYS_FILE": str(write_keys(folder / "webhooks.keys", "k1"))}


async def test_doctor_accepts_a_server_without_webhooks(doctor: Doctor) -> None:
    [found] = await doctor("webhooks")
    assert (found.status, found.detail) == ("OK", "enabled: 0; retrying: 0")
    [found] = await doctor("webhooks", JOBS_OWNER_DATABASE_URL="")
    assert (found.status, found.detail) == ("OK", "this server sends no webhooks")


async def test_doctor_reports_a_file_of_keys_that_is_not_usable(
    doctor: Doctor, folder: Path, keys: dict[str, str]
) -> None:
    [found] = await doctor("webhooks", JOBS_WEBHOOK_KEYS_FILE=str(folder / "missing"))
    assert found.status == "ERROR"
    assert "JOBS_WEBHOOK_KEYS_FILE is not usable" in found.detail
    os.chmod(keys["JOBS_WEBHOOK_KEYS_FILE"], 0o644)  # noqa: PTH101
    [found] = await doctor("webhooks", **keys)
    assert found.status == "ERROR"
    assert "every user can access" in found.detail


async def test_doctor_reports_webhooks_without_their_key(
    doctor: Doctor, fresh: Database, keys: dict[str, str]
) -> None:
    await add_webhook(fresh, "acme", URL, works=True)
    [found] = await doctor("webhooks")
    assert found.status == "ERROR"
    assert found.detail == "JOBS_WEBHOOK_KEYS_FILE is not set, and 1 webhooks are enabled"
    [found] = await doctor("webhooks", **keys)
    assert (found.status, found.detail) == ("OK", "enabled: 1; retrying: 0")
    await add_webhook(fresh, "acme", URL, works=True, key_id="old")
    [found] = await doctor("webhooks", **keys)
    assert found.status == "ERROR"
    assert found.detail == "JOBS_WEBHOOK_KEYS_FILE lacks the master key of 1 webhooks"


async def test_doctor_warns_of_a_server_without_the_owner(
    doctor: Doctor, keys: dict[str, str]
) -> None:
    [found] = await doctor("webhooks", JOBS_OWNER_DATABASE_URL="", **keys)
    assert found.status == "WARNING"
    assert "sends no webhooks" in found.detail


async def test_doctor_reports_webhooks_that_fail(
    doctor: Doctor, fresh: Database, keys: dict[str, str]
) -> None:
    failing = await add_webhook(fresh, "acme", URL)
    await fresh.owner.execute("UPDATE jobs.webhooks SET failure_count = 1, last_error = 'TIMEOUT'")
    [found] = await doctor("webhooks", **keys)
    assert found.status == "ERROR"
    assert found.detail == "enabled: 0; retrying: 1; no endpoint can be reached"
    assert found.remedy.endswith("the settings allow public addresses; https; ports 443")
    allowed = {"JOBS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "JOBS_WEBHOOK_ALLOW_HTTP": "true"}
    [found] = await doctor("webhooks", **keys, **allowed)
    assert "allow public addresses and 127.0.0.0/8; https and http; ports" in found.remedy

    await add_webhook(fresh, "acme", URL, works=True)
    [found] = await doctor("webhooks", **keys)
    assert (found.status, found.detail) == ("WARNING", "enabled: 1; retrying: 1")

    await fresh.owner.execute(
        "UPDATE jobs.webhooks SET enabled = false, disabled_cause = 'RETRIES_EXHAUSTED'"
        " WHERE webhook_id = $1",
        failing,
    )
    [found] = await doctor("webhooks", **keys)
    assert found.status == "WARNING"
    assert found.detail == "enabled: 1; retrying: 0; disabled after failures: 1"
    assert "secret-path" not in f"{found}"
