"""What the doctor finds on this host: open files, the address, certificates and keys."""

import asyncio
import json
import resource
import socket
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.doctor.conftest import Doctor
from tests.support.database import Database
from tests.support.identities import Authority, channel_credentials, jwks, new_key, private_pem
from tests.support.postgres import Postgres
from tests.support.server import running_server, running_tls_server, starting_server

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

JWT = {
    "JOBS_AUTH": "jwt",
    "JOBS_JWT_ISSUER": "https://login.example",
    "JOBS_JWT_AUDIENCE": "jobs",
}


async def _doctor_process(script: str, environ: dict[str, str]) -> dict[str, dict[str, str]]:
    """Run `jobs-grpc doctor --json` within a shell script, as "$@"; return one finding of each."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", script, "sh"),
        *(sys.executable, "-m", "jobs_grpc.cli", "doctor", "--json"),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return {finding["check"]: finding for finding in json.loads(output)["findings"]}


async def test_doctor_warns_when_few_files_can_be_open(fresh: Database) -> None:
    environ = {"JOBS_DATABASE_URL": fresh.request_dsn, "JOBS_MAX_STREAMS": "5000"}

    few = await _doctor_process('ulimit -n 5073; exec "$@"', environ)
    enough = await _doctor_process('ulimit -n 5074; exec "$@"', environ)

    assert few["open-files"]["status"] == "WARNING"
    assert "may open 5073 files" in few["open-files"]["detail"]
    assert "ulimit -Hn" in few["open-files"]["remedy"]
    assert enough["open-files"]["status"] == "OK"


async def test_doctor_accepts_unlimited_open_files(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (unlimited, unlimited))

    [found] = await doctor("open-files")

    assert (found.status, found.detail.split(",")[0]) == ("OK", "limit unlimited")


async def test_doctor_asks_the_server_that_listens(doctor: Doctor, fresh: Database) -> None:
    async with running_server(fresh.request_dsn) as server:
        [found] = await doctor("address", JOBS_LISTEN=server.address)

    assert (found.status, found.detail) == (
        "OK",
        f"the server on {server.address} reports SERVING",
    )
    [found] = await doctor("address", JOBS_LISTEN=server.address)
    assert (found.status, "is free" in found.detail) == ("OK", True)


async def test_doctor_reports_server_that_does_not_serve(
    cluster: tuple[Postgres, str], doctor: Doctor
) -> None:
    postgres, _ = cluster
    async with (
        postgres.database() as name,
        starting_server(postgres.dsn(name, postgres.role)) as server,
    ):
        [found] = await doctor("address", JOBS_LISTEN=server.address)

    assert (found.status, "reports NOT_SERVING" in found.detail) == ("ERROR", True)
    assert "not serving" in found.remedy


async def test_doctor_reports_address_that_another_program_uses(doctor: Doctor) -> None:
    other = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    host, port = other.sockets[0].getsockname()

    [found] = await doctor("address", JOBS_LISTEN=f"{host}:{port}")

    other.close()
    assert (found.status, "(UNAVAILABLE)" in found.detail) == ("ERROR", True)
    assert "set JOBS_LISTEN to a free address" in found.remedy


async def test_doctor_reports_unix_path_that_another_program_uses(
    doctor: Doctor, tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/socket"
    [found] = await doctor("address", JOBS_LISTEN=path)
    assert (found.status, "is free" in found.detail) == ("OK", True)

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/socket")
        other.listen()
        await asyncio.to_thread(lambda: None)
        closing = asyncio.create_task(_close_connections(other))
        [found] = await doctor("address", JOBS_LISTEN=path)
        closing.cancel()

    assert found.status == "ERROR"


async def _close_connections(listener: socket.socket) -> None:
    listener.setblocking(False)
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.close()


async def test_doctor_does_not_ask_for_health_over_tls(
    doctor: Doctor, fresh: Database, tmp_path: Path
) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    files = {"JOBS_TLS_CERT": certificate, "JOBS_TLS_KEY": key}
    credentials = channel_credentials(authority)
    async with running_tls_server(fresh.request_dsn, credentials, **files) as server:
        [found] = await doctor("address", JOBS_LISTEN=server.address, **files)

    assert (found.status, "is in use" in found.detail) == ("OK", True)


async def test_doctor_warns_about_metadata_of_any_client(doctor: Doctor) -> None:
    [found] = await doctor("authentication", JOBS_INSECURE_METADATA="true")

    assert (found.status, "can act for any tenant" in found.detail) == ("WARNING", True)


async def test_doctor_warns_about_tokens_without_tls(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(jwks(new_key()))
    settings = JWT | {
        "JOBS_JWT_KEYS": f"{tmp_path}/keys",
        "JOBS_TLS_TERMINATED_BY_PROXY": "true",
    }

    [found] = await doctor("authentication", **settings)

    assert (found.status, "unencrypted" in found.detail) == ("WARNING", True)
    [found] = await doctor("tls", **settings)
    assert (found.status, found.detail) == ("OK", "off; a proxy terminates TLS")


async def test_doctor_counts_the_keys_of_tokens(doctor: Doctor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    settings = JWT | {"JOBS_JWT_KEYS": str(keys)}
    assert await doctor("token-keys") == []
    keys.write_text(jwks(new_key("RS256", "a"), new_key("ES256", "b")))

    [found] = await doctor("token-keys", **settings)
    assert (found.status, found.detail) == ("OK", "2 for RS256")

    [found] = await doctor("token-keys", JOBS_JWT_ALGORITHMS="RS256,EdDSA", **settings)
    assert (found.status, found.detail) == ("WARNING", "no key of JOBS_JWT_KEYS is for EdDSA")

    [found] = await doctor("token-keys", JOBS_JWT_ALGORITHMS="EdDSA", **settings)
    assert (found.status, found.detail) == (
        "ERROR",
        "none of the keys (2) of JOBS_JWT_KEYS is for EdDSA",
    )


async def test_doctor_reports_keys_that_can_not_be_read(doctor: Doctor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    [missing] = await doctor("token-keys", JOBS_JWT_KEYS=str(keys), **JWT)
    assert (missing.status, "No such file" in missing.detail) == ("ERROR", True)

    keys.write_bytes(private_pem(new_key()))
    [private] = await doctor("token-keys", JOBS_JWT_KEYS=str(keys), **JWT)
    assert (private.status, "contains a private key" in private.detail) == ("ERROR", True)
    assert keys.read_text().split("\n")[1] not in private.detail

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/keys"
        [refused] = await doctor("token-keys", JOBS_JWT_KEYS=url, **JWT)
    assert (refused.status, "refused" in refused.detail) == ("ERROR", True)


@pytest.mark.parametrize(
    ("begins", "ends", "status", "text"),
    [
        (-90 * DAY, 30 * DAY, "OK", "expires at"),
        (-HOUR, HOUR, "OK", "expires at"),
        (-90 * DAY, 13 * DAY, "WARNING", "expires at"),
        (-HOUR, HOUR / 4, "WARNING", "expires at"),
        (-2 * DAY, -DAY, "ERROR", "expired at"),
        (DAY, 2 * DAY, "ERROR", "is not valid before"),
    ],
)
async def test_doctor_reports_when_certificates_expire(
    doctor: Doctor,
    tmp_path: Path,
    begins: timedelta,
    ends: timedelta,
    status: str,
    text: str,
) -> None:
    certificate, key = Authority(begins, ends).server().write(tmp_path, "server")
    (tmp_path / "ca.crt").write_bytes(Authority(begins, ends).certificate)

    server, client_ca = await doctor(
        "tls",
        JOBS_TLS_CERT=certificate,
        JOBS_TLS_KEY=key,
        JOBS_TLS_CLIENT_CA=f"{tmp_path}/ca.crt",
    )

    for found, file, name in ((server, certificate, "jobs"), (client_ca, "ca.crt", "authority")):
        assert found.status == status
        assert f"{file}: CN={name} {text} " in found.detail


async def test_doctor_reports_certificate_of_a_chain_that_expires_first(
    doctor: Doctor, tmp_path: Path
) -> None:
    authority = Authority(-90 * DAY, 30 * DAY)
    certificate, key = authority.server().write(tmp_path, "server")
    chain = tmp_path / "server.crt"
    chain.write_bytes(chain.read_bytes() + Authority(-90 * DAY, 2 * DAY).certificate)

    [found] = await doctor("tls", JOBS_TLS_CERT=certificate, JOBS_TLS_KEY=key)

    assert (found.status, "CN=authority expires" in found.detail) == ("WARNING", True)


async def test_doctor_reports_tls_files_that_the_server_can_not_use(
    doctor: Doctor, tmp_path: Path
) -> None:
    certificate, key = Authority().server().write(tmp_path, "server")
    _, other_key = Authority().server().write(tmp_path, "other")

    [wrong] = await doctor("tls", JOBS_TLS_CERT=certificate, JOBS_TLS_KEY=other_key)
    assert (wrong.status, "KEY_VALUES_MISMATCH" in wrong.detail) == ("ERROR", True)

    (tmp_path / "server.key").unlink()
    [missing] = await doctor("tls", JOBS_TLS_CERT=certificate, JOBS_TLS_KEY=key)
    assert (missing.status, "No such file" in missing.detail) == ("ERROR", True)
    assert "the key must belong to the first certificate" in missing.remedy


async def test_doctor_warns_when_it_can_not_read_a_certificate_that_openssl_accepts(
    doctor: Doctor, tmp_path: Path
) -> None:
    certificate, key = Authority().server().write(tmp_path, "server")
    trusted = Authority().certificate.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE")
    (tmp_path / "ca.crt").write_bytes(trusted)

    _, found = await doctor(
        "tls",
        JOBS_TLS_CERT=certificate,
        JOBS_TLS_KEY=key,
        JOBS_TLS_CLIENT_CA=f"{tmp_path}/ca.crt",
    )

    assert (found.status, "its expiry can't be read" in found.detail) == ("WARNING", True)


async def test_doctor_reports_extras_that_are_not_installed(
    fresh: Database, tmp_path: Path
) -> None:
    certificate, key = Authority().server().write(tmp_path, "server")
    (tmp_path / "ca.crt").write_bytes(Authority().certificate)
    # A module that hides the package from this process.
    for package in ("cryptography", "joserfc"):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('hidden', name='{package}')")
    environ = JWT | {
        "PYTHONPATH": f"{tmp_path}:generated",
        "JOBS_DATABASE_URL": fresh.request_dsn,
        "JOBS_JWT_KEYS": f"{tmp_path}/keys",
        "JOBS_TLS_CERT": certificate,
        "JOBS_TLS_KEY": key,
        "JOBS_TLS_CLIENT_CA": f"{tmp_path}/ca.crt",
        "JOBS_TRUSTED_PEERS": "gateway.internal",
    }

    found = await _doctor_process('exec "$@"', environ)

    assert {check: found[check]["status"] for check in ("authentication", "token-keys", "tls")} == {
        "authentication": "ERROR",
        "token-keys": "ERROR",
        "tls": "WARNING",
    }
    assert found["authentication"]["remedy"] == "install the extra mtls"
    assert found["token-keys"]["remedy"] == "install the extra jwt"
    assert found["tls"]["remedy"] == "install the extra mtls"
