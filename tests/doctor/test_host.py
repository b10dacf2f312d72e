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
from tests.support.identities import Authority, channel_credentials, jwks, new_key, private_pem
from tests.support.postgres import Postgres
from tests.support.server import running_server, running_tls_server, starting_server

pytestmark = pytest.mark.slow

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

JWT = {"JOBS_AUTH": "jwt", "JOBS_JWT_ISSUER": "https://login.example", "JOBS_JWT_AUDIENCE": "jobs"}

# The status and the remedy of a check whose extra is not installed.
EXTRAS = {
    "authentication": ("ERROR", "install the extra mtls"),
    "token-keys": ("ERROR", "install the extra jwt"),
    "tls": ("WARNING", "install the extra mtls"),
}


async def test_doctor_compares_the_limit_of_open_files_with_the_need(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, status, detail, remedy in (
        (5073, "WARNING", "*may open 5073 files*", "*ulimit -Hn*"),
        (5074, "OK", "*", ""),
        (resource.RLIM_INFINITY, "OK", "limit unlimited,*", ""),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        await doctor.expect("open-files", status, detail, remedy, JOBS_MAX_STREAMS="5000")


async def test_doctor_asks_the_server_that_listens(doctor: Doctor) -> None:
    async with running_server(doctor.database.request_dsn) as server:
        address = {"JOBS_LISTEN": server.address}
        serves = f"the server on {server.address} reports SERVING"
        await doctor.expect("address", "OK", serves, **address)

    await doctor.expect("address", "OK", "*is free*", **address)


async def test_doctor_reports_server_that_does_not_serve(
    cluster: tuple[Postgres, str], doctor: Doctor
) -> None:
    postgres, _ = cluster
    async with (
        postgres.database() as name,
        starting_server(postgres.dsn(name, postgres.role)) as server,
    ):
        address = {"JOBS_LISTEN": server.address}
        await doctor.expect("address", "ERROR", "*reports NOT_SERVING*", "*not serving*", **address)


async def test_doctor_reports_address_that_another_program_uses(doctor: Doctor) -> None:
    other = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    host, port = other.sockets[0].getsockname()

    remedy = "*set JOBS_LISTEN to a free address*"
    address = {"JOBS_LISTEN": f"{host}:{port}"}
    await doctor.expect("address", "ERROR", "*(UNAVAILABLE)*", remedy, **address)

    other.close()


async def test_doctor_reports_unix_path_that_another_program_uses(
    doctor: Doctor, tmp_path: Path
) -> None:
    address = {"JOBS_LISTEN": f"unix:{tmp_path}/socket"}
    await doctor.expect("address", "OK", "*is free*", **address)

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/socket")
        other.listen()
        closing = asyncio.create_task(_close_connections(other))
        await doctor.expect("address", "ERROR", **address)
        closing.cancel()


async def _close_connections(listener: socket.socket) -> None:
    listener.setblocking(False)
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listener)
        connection.close()


async def test_doctor_does_not_ask_for_health_over_tls(doctor: Doctor, tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path, "server")
    files = {"JOBS_TLS_CERT": certificate, "JOBS_TLS_KEY": key}
    credentials = channel_credentials(authority)
    async with running_tls_server(doctor.database.request_dsn, credentials, **files) as server:
        await doctor.expect("address", "OK", "*is in use*", JOBS_LISTEN=server.address, **files)


async def test_doctor_warns_about_metadata_of_any_client(doctor: Doctor) -> None:
    detail = "*can act for any tenant*"
    await doctor.expect("authentication", "WARNING", detail, JOBS_INSECURE_METADATA="true")


async def test_doctor_warns_about_tokens_without_tls(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(jwks(new_key()))
    settings = JWT | {"JOBS_JWT_KEYS": f"{tmp_path}/keys", "JOBS_TLS_TERMINATED_BY_PROXY": "true"}

    await doctor.expect("authentication", "WARNING", "*unencrypted*", **settings)
    await doctor.expect("tls", "OK", "off; a proxy terminates TLS", **settings)


async def test_doctor_counts_the_keys_of_tokens(doctor: Doctor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    settings = JWT | {"JOBS_JWT_KEYS": str(keys)}
    assert await doctor.findings("token-keys") == []
    keys.write_text(jwks(new_key("RS256", "a"), new_key("ES256", "b")))

    await doctor.expect("token-keys", "OK", "2 for RS256", **settings)
    for algorithms, status, detail in (
        ("RS256,EdDSA", "WARNING", "no key of JOBS_JWT_KEYS is for EdDSA"),
        ("EdDSA", "ERROR", "none of the keys (2) of JOBS_JWT_KEYS is for EdDSA"),
    ):
        settings["JOBS_JWT_ALGORITHMS"] = algorithms
        await doctor.expect("token-keys", status, detail, **settings)


async def test_doctor_reports_keys_that_can_not_be_read(doctor: Doctor, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    settings = JWT | {"JOBS_JWT_KEYS": str(keys)}
    await doctor.expect("token-keys", "ERROR", "*No such file*", **settings)

    keys.write_bytes(private_pem(new_key()))
    private = await doctor.expect("token-keys", "ERROR", "*contains a private key*", **settings)
    assert keys.read_text().split("\n")[1] not in private.detail

    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        settings["JOBS_JWT_KEYS"] = f"http://127.0.0.1:{reserved.getsockname()[1]}/keys"
        await doctor.expect("token-keys", "ERROR", "*refused*", **settings)


def _tls(folder: Path, authority: Authority, client_ca: bytes | None = None) -> dict[str, str]:
    """The settings of a server with a certificate, and perhaps those of clients."""
    certificate, key = authority.server().write(folder, "server")
    settings = {"JOBS_TLS_CERT": certificate, "JOBS_TLS_KEY": key}
    if client_ca is None:
        return settings
    (folder / "ca.crt").write_bytes(client_ca)
    return settings | {"JOBS_TLS_CLIENT_CA": f"{folder}/ca.crt"}


async def test_doctor_reports_when_certificates_expire(doctor: Doctor, tmp_path: Path) -> None:
    for begins, ends, status, text in (
        (-90 * DAY, 30 * DAY, "OK", "expires at"),
        (-HOUR, HOUR, "OK", "expires at"),
        (-90 * DAY, 13 * DAY, "WARNING", "expires at"),
        (-HOUR, HOUR / 4, "WARNING", "expires at"),
        (-2 * DAY, -DAY, "ERROR", "expired at"),
        (DAY, 2 * DAY, "ERROR", "is not valid before"),
    ):
        client_ca = Authority(begins, ends).certificate
        settings = _tls(tmp_path, Authority(begins, ends), client_ca)

        found = await doctor.findings("tls", **settings)

        assert [finding.status for finding in found] == [status] * 2
        assert f"{settings['JOBS_TLS_CERT']}: CN=jobs {text} " in found[0].detail
        assert f"ca.crt: CN=authority {text} " in found[1].detail


async def test_doctor_reports_certificate_of_a_chain_that_expires_first(
    doctor: Doctor, tmp_path: Path
) -> None:
    settings = _tls(tmp_path, Authority(-90 * DAY, 30 * DAY))
    chain = tmp_path / "server.crt"
    chain.write_bytes(chain.read_bytes() + Authority(-90 * DAY, 2 * DAY).certificate)

    await doctor.expect("tls", "WARNING", "*CN=authority expires*", **settings)


async def test_doctor_reports_tls_files_that_the_server_can_not_use(
    doctor: Doctor, tmp_path: Path
) -> None:
    settings = _tls(tmp_path, Authority())
    _, other_key = Authority().server().write(tmp_path, "other")

    wrong = settings | {"JOBS_TLS_KEY": other_key}
    await doctor.expect("tls", "ERROR", "*KEY_VALUES_MISMATCH*", **wrong)

    (tmp_path / "server.key").unlink()
    remedy = "*the key must belong to the first certificate*"
    await doctor.expect("tls", "ERROR", "*No such file*", remedy, **settings)


async def test_doctor_warns_when_it_can_not_read_a_certificate_that_openssl_accepts(
    doctor: Doctor, tmp_path: Path
) -> None:
    trusted = Authority().certificate.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE")

    _, found = await doctor.findings("tls", **_tls(tmp_path, Authority(), trusted))

    assert (found.status, "its expiry can't be read" in found.detail) == ("WARNING", True)


async def test_doctor_reports_extras_that_are_not_installed(doctor: Doctor, tmp_path: Path) -> None:
    # A module that hides the package from this process.
    for package in ("cryptography", "joserfc"):
        (tmp_path / f"{package}.py").write_text(f"raise ImportError('hidden', name='{package}')")
    environ = JWT | {
        "PYTHONPATH": f"{tmp_path}:generated",
        "JOBS_DATABASE_URL": doctor.database.request_dsn,
        "JOBS_JWT_KEYS": f"{tmp_path}/keys",
        "JOBS_TRUSTED_PEERS": "gateway.internal",
    }
    environ |= _tls(tmp_path, Authority(), Authority().certificate)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jobs_grpc.cli", "doctor", "--json"),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    found = {finding["check"]: finding for finding in json.loads(output)["findings"]}

    assert {check: (found[check]["status"], found[check]["remedy"]) for check in EXTRAS} == EXTRAS
