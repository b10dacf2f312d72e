"""What the doctor finds about webhooks."""

import os
from pathlib import Path

import pytest

from tests.doctor.conftest import Doctor
from tests.support.webhooks import write_keys
from tests.webhooks.support import add_webhook

pytestmark = pytest.mark.slow

URL = "https://hooks.example/secret-path"
FILE = "JOBS_WEBHOOK_KEYS_FILE"


@pytest.fixture
def keys(folder: Path) -> dict[str, str]:
    """The setting of a file with one master key."""
    return {FILE: str(write_keys(folder / "webhooks.keys", "k1"))}


async def test_doctor_accepts_a_server_without_webhooks(doctor: Doctor) -> None:
    await doctor.expect("webhooks", "OK", "enabled: 0; retrying: 0")
    detail = "this server sends no webhooks"
    await doctor.expect("webhooks", "OK", detail, JOBS_OWNER_DATABASE_URL="")


async def test_doctor_reports_a_file_of_keys_that_is_not_usable(
    doctor: Doctor, folder: Path, keys: dict[str, str]
) -> None:
    missing = {FILE: str(folder / "missing")}
    await doctor.expect("webhooks", "ERROR", f"*{FILE} is not usable*", **missing)
    os.chmod(keys[FILE], 0o644)  # noqa: PTH101
    await doctor.expect("webhooks", "ERROR", "*every user can access*", **keys)


async def test_doctor_reports_webhooks_without_their_key(
    fresh: Doctor, keys: dict[str, str]
) -> None:
    await add_webhook(fresh.database, "acme", URL, works=True)
    await fresh.expect("webhooks", "ERROR", f"{FILE} is not set, and 1 webhooks are enabled")
    await fresh.expect("webhooks", "OK", "enabled: 1; retrying: 0", **keys)
    await add_webhook(fresh.database, "acme", URL, works=True, key_id="old")
    detail = f"{FILE} lacks the master key of 1 webhooks"
    await fresh.expect("webhooks", "ERROR", detail, **keys)


async def test_doctor_warns_of_a_server_without_the_owner(
    doctor: Doctor, keys: dict[str, str]
) -> None:
    detail = "*sends no webhooks*"
    await doctor.expect("webhooks", "WARNING", detail, JOBS_OWNER_DATABASE_URL="", **keys)


async def test_doctor_reports_webhooks_that_fail(fresh: Doctor, keys: dict[str, str]) -> None:
    failing = await add_webhook(fresh.database, "acme", URL)
    await fresh.owner.execute("UPDATE jobs.webhooks SET failure_count = 1, last_error = 'TIMEOUT'")
    detail = "enabled: 0; retrying: 1; no endpoint can be reached"
    remedy = "*the settings allow public addresses; https; ports 443"
    await fresh.expect("webhooks", "ERROR", detail, remedy, **keys)
    allowed = {"JOBS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "JOBS_WEBHOOK_ALLOW_HTTP": "true"}
    remedy = "*allow public addresses and 127.0.0.0/8; https and http; ports*"
    await fresh.expect("webhooks", "ERROR", detail, remedy, **keys, **allowed)

    await add_webhook(fresh.database, "acme", URL, works=True)
    await fresh.expect("webhooks", "WARNING", "enabled: 1; retrying: 1", **keys)

    await fresh.owner.execute(
        "UPDATE jobs.webhooks SET enabled = false, disabled_cause = 'RETRIES_EXHAUSTED'"
        " WHERE webhook_id = $1",
        failing,
    )
    detail = "enabled: 1; retrying: 0; disabled after failures: 1"
    found = await fresh.expect("webhooks", "WARNING", detail, **keys)
    assert "secret-path" not in f"{found}"
