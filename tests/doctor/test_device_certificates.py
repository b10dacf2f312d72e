"""What the doctor finds about JOBS_DEVICE_LISTEN: certificates, and tenants without authority."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.doctor.conftest import Doctor
from tests.support.device_certificates import device_settings, tenant_settings
from tests.support.identities import Authority

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)


async def test_doctor_reports_when_certificates_of_the_address_for_devices_expire(
    doctor: Doctor, tmp_path: Path
) -> None:
    for ends, status, text in (
        (31 * DAY, "OK", "expires at"),
        (29 * DAY, "WARNING", "expires at"),
        (-DAY, "ERROR", "expired at"),
    ):
        settings = device_settings(Authority(-365 * DAY, ends), tmp_path)

        of_server, of_devices = await doctor.findings("device-tls", **settings)

        assert (of_server.status, of_devices.status) == (status, status)
        assert f"{settings['JOBS_DEVICE_TLS_CERT']}: CN=jobs {text} " in of_server.detail
        path = settings["JOBS_DEVICE_CA"]
        expected = f"{path}: CN=authority {text} " if status != "OK" else "are valid; files: 1"
        assert expected in of_devices.detail


async def test_doctor_reports_certificate_without_a_name(doctor: Doctor, tmp_path: Path) -> None:
    authority = Authority()
    settings = device_settings(authority, tmp_path)
    authority.issue("jobs.example").write(tmp_path, "device-server")

    found = await doctor.findings("device-tls", **settings)

    assert [finding.status for finding in found] == ["OK", "WARNING", "OK"]
    assert "has neither a DNS name nor an IP address" in found[1].detail


async def test_doctor_reports_file_that_is_not_named_after_a_tenant(
    doctor: Doctor, tmp_path: Path
) -> None:
    settings = tenant_settings(Authority(), tmp_path, **{"a%2fb": Authority()})

    await doctor.expect("device-tls", "ERROR", "*a%2fb.pem must be named a%2Fb.pem*", **settings)
    await doctor.expect("device-authorities", "SKIPPED", **settings)


async def test_doctor_names_tenants_that_have_devices_and_no_authority(
    fresh: Doctor, tmp_path: Path
) -> None:
    settings = tenant_settings(Authority(), tmp_path, acme=Authority(name="acme"))
    assert await fresh.findings("device-authorities") == []
    await fresh.database.add_devices("acme", ["d1", "d2"])
    await fresh.expect("device-authorities", "OK", **settings)

    await fresh.database.add_devices("zenith", ["d1", "d2"])
    detail = "tenants have devices, but no file in */tenants: zenith"
    await fresh.expect("device-authorities", "WARNING", detail, **settings)
    for number in range(5):
        await fresh.database.add_devices(f"tenant-{number}", ["d1"])
    detail = "*: tenant-0, tenant-1, tenant-2, tenant-3, tenant-4, and more"
    await fresh.expect("device-authorities", "WARNING", detail, **settings)
