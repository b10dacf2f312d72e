"""JOBS_DEVICE_LISTEN: devices that client certificates identify."""

import datetime
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from fleet.jobs.v1 import device_jobs_pb2_grpc
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from jobs_grpc.config import ConfigError, DevicesConfig
from jobs_grpc.server.device_listener import read_device_authorities
from tests.support.database import Database
from tests.support.device_certificates import (
    CertifiedDevice,
    device_channel,
    device_settings,
    tenant_settings,
)
from tests.support.failures import Failure, expect_error, expect_failure
from tests.support.health import wait_until_healthy
from tests.support.identities import (
    Authority,
    Pair,
    channel_credentials,
    mutual_tls,
    replace_file,
)
from tests.support.server import (
    Server,
    open_channel,
    reserved_address,
    running_server,
    running_tls_server,
)
from tests.support.server_process import running_server_process
from tests.support.waiting import wait_until_equal, wait_until_true

HOUR = datetime.timedelta(hours=1)
SECOND = datetime.timedelta(seconds=1)

# Of the server's certificate, and of the devices of all tenants.
AUTHORITY = Authority()
STRANGER = Authority()
# Authorities of single tenants.
ACME, OTHER = Authority(name="acme"), Authority(name="other")
INTERMEDIATE = AUTHORITY.intermediate()

TENANT = "acme"
DEVICES = ("d", "a/b", "*.acme.example")


@pytest.fixture(scope="module")
def server_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return device_settings(AUTHORITY, tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", autouse=True)
async def registered_devices(database: Database) -> None:
    for tenant in (TENANT, "other", "a,b"):
        await database.add_devices(tenant, DEVICES)


@pytest.fixture
def tenant() -> str:
    return TENANT


@pytest.fixture(scope="module")
async def server_of_tenants(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server whose tenants have authorities of their own."""
    folder = tmp_path_factory.mktemp("tls")
    settings = tenant_settings(AUTHORITY, folder, acme=ACME, other=OTHER)
    async with running_server(database.request_dsn, **settings) as server:
        yield server


async def reason(server: Server, certificate: Pair | None, authority: Authority = AUTHORITY) -> str:
    """The reason with which a call fails; "" if it succeeds, "TLS" if the handshake fails.

    `authority` has issued the certificate of the server.
    """
    async with device_channel(server, authority, certificate) as device:
        try:
            await device.pending()
        except AioRpcError as e:
            failure = Failure(e.code())
            failure.read(e)
            return failure.reason or ("TLS" if e.code() is StatusCode.UNAVAILABLE else "?")
    return ""


def uri(*values: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(value) for value in values]


def dns(*values: str) -> list[x509.GeneralName]:
    return [x509.DNSName(value) for value in values]


def with_chain(certificate: Pair, *authorities: Authority) -> Pair:
    chain = b"".join(authority.certificate for authority in authorities)
    return Pair(certificate.certificate + chain, certificate.key)


def issued_by(intermediate: Authority) -> Pair:
    """The certificate of a device, with that of the intermediate."""
    return with_chain(intermediate.device("acme", "d"), intermediate)


WEAK_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505

D = uri("spiffe://acme.example/tenant/acme/device/d")
USAGE: dict[str, Any] = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**USAGE | dict.fromkeys(names, True))


def purpose(*oids: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(oids)


def self_signed(names: list[x509.GeneralName]) -> Pair:
    authority = Authority(name="any")
    key = authority._key
    return Authority.issue(authority, "any", names, key=key)


ACCEPTED = {
    "SPIFFE ID": AUTHORITY.device("acme", "d"),
    "SPIFFE ID of another tenant of the authority": AUTHORITY.device("other", "d"),
    "percent-encoded": AUTHORITY.device("%61cme", "a%2Fb"),
    "with a DNS name as well": AUTHORITY.issue("any", D + dns("other")),
    "for clients": AUTHORITY.issue(
        "d", D, usage("digital_signature"), purpose(ExtendedKeyUsageOID.CLIENT_AUTH)
    ),
    "RSA": AUTHORITY.issue("d", D, key=rsa.generate_private_key(65537, 2048)),
    "of an intermediate": issued_by(INTERMEDIATE),
}

FORGED = {
    "none": None,
    "of another authority": STRANGER.device("acme", "d"),
    "self-signed": self_signed(D),
    "expired": AUTHORITY.issue("any", D, begins=-2 * HOUR, ends=-HOUR),
    "expired a second ago": AUTHORITY.issue("any", D, ends=-SECOND),
    "not valid yet": AUTHORITY.issue("any", D, begins=HOUR, ends=2 * HOUR),
    "authority as a device": AUTHORITY.issue("any", D, ca=True),
    "for servers": AUTHORITY.issue("any", D, purpose(ExtendedKeyUsageOID.SERVER_AUTH)),
    "for mail": AUTHORITY.issue("any", D, purpose(ExtendedKeyUsageOID.EMAIL_PROTECTION)),
    "to sign certificates": AUTHORITY.issue("any", D, usage("digital_signature", "key_cert_sign")),
    "not to sign": AUTHORITY.issue("any", D, usage("key_encipherment")),
    "weak key": AUTHORITY.issue("any", D, key=WEAK_KEY),
    "Ed25519": AUTHORITY.issue("any", D, key=ed25519.Ed25519PrivateKey.generate()),
    "of a device": issued_by(AUTHORITY.intermediate(ca=False)),
    "intermediate for mail": issued_by(
        AUTHORITY.intermediate(purpose(ExtendedKeyUsageOID.EMAIL_PROTECTION))
    ),
    "intermediate not to sign": issued_by(AUTHORITY.intermediate(usage("digital_signature"))),
    "of an unknown intermediate": issued_by(STRANGER.intermediate()),
    "without its intermediate": INTERMEDIATE.device("acme", "d"),
    "too many intermediates": with_chain(
        INTERMEDIATE.device("acme", "d"), *(AUTHORITY.intermediate() for _ in range(4))
    ),
    "no name": AUTHORITY.issue(""),
    "common name only": AUTHORITY.issue("d"),
    "SPIFFE ID as common name": AUTHORITY.issue("spiffe://acme.example/tenant/acme/device/d"),
    "SPIFFE ID as DNS name": AUTHORITY.issue(
        "any", dns("spiffe://acme.example/tenant/acme/device/d")
    ),
    "two URIs": AUTHORITY.issue("any", D + uri("spiffe://acme.example/tenant/other/device/d")),
    "other trust domain": AUTHORITY.device("acme", "d", "evil.example"),
    "trust domain with a suffix": AUTHORITY.device("acme", "d", "acme.example.evil.com"),
    "trust domain in upper case": AUTHORITY.device("acme", "d", "ACME.example"),
    "trust domain with a port": AUTHORITY.device("acme", "d", "acme.example:1"),
    "trust domain with a user": AUTHORITY.device("acme", "d", "x@acme.example"),
    "another scheme": AUTHORITY.issue("any", uri("https://acme.example/tenant/acme/device/d")),
    "scheme in upper case": AUTHORITY.issue(
        "any", uri("SPIFFE://acme.example/tenant/acme/device/d")
    ),
    "empty tenant": AUTHORITY.device("", "d"),
    "empty device": AUTHORITY.device("acme", ""),
    "NUL": AUTHORITY.device("acme", "d\0"),
    "encoded NUL": AUTHORITY.device("acme", "d%00"),
    "NUL after the device": AUTHORITY.device("acme", "d\0/evil"),
    "slash": AUTHORITY.device("acme", "a/b"),
    "slash at the end": AUTHORITY.device("acme", "d/"),
    "two slashes": AUTHORITY.device("acme", "/d"),
    "slash in the tenant": AUTHORITY.device("acme/x", "d"),
    "dots": AUTHORITY.device("other/device/x/../../../acme", "d"),
    "dot segment": AUTHORITY.device("acme", ".."),
    "encoded dots": AUTHORITY.device("acme", "%2e%2e"),
    "encoded dots and slash": AUTHORITY.device("acme", "%2e%2e%2fd"),
    "query": AUTHORITY.device("acme", "d?x"),
    "fragment": AUTHORITY.device("acme", "d#x"),
    "incomplete encoding": AUTHORITY.device("acme", "d%2"),
    "encoded twice": AUTHORITY.device("acme", "%2564"),
    "not UTF-8": AUTHORITY.device("acme", "%ff"),
    "encoded space at the end": AUTHORITY.device("acme", "d%20"),
    "encoded line break": AUTHORITY.device("acme", "d%0a"),
    "encoded comma in the tenant": AUTHORITY.device("a%2Cb", "d"),
    "other case": AUTHORITY.device("acme", "D"),
    "long name": AUTHORITY.device("acme", "d" * 257),
    "another path": AUTHORITY.issue("any", uri("spiffe://acme.example/ns/acme/sa/d")),
    "unknown device": AUTHORITY.device("acme", "unknown"),
    "unknown tenant": AUTHORITY.device("unknown", "d"),
}

ACCEPTED_OF_TENANT = {
    "DNS name": ACME.issue("any", dns("d")),
    "common name": ACME.issue("d"),
    "SPIFFE ID": ACME.device("acme", "d"),
    "SPIFFE ID and the same DNS name": ACME.issue("any", D + dns("d")),
    "another tenant": OTHER.issue("d"),
}

FORGED_OF_TENANT = {
    "of the authority of the server": AUTHORITY.issue("d"),
    "of another authority": STRANGER.issue("d"),
    "SPIFFE ID of another tenant": ACME.device("other", "d"),
    "SPIFFE ID and another DNS name": ACME.issue("any", D + dns("*.acme.example")),
    "two DNS names": ACME.issue("any", dns("d", "e")),
    "common name besides a DNS name": ACME.issue("d", dns("unknown")),
    "common name besides another URI": ACME.issue("d", uri("https://acme.example/d")),
    "NUL in the DNS name": ACME.issue("any", dns("d\0.evil")),
    "NUL in the common name": ACME.issue("d\0"),
    "two common names": ACME.client("d", second_common_name="e"),
    "dot segment": ACME.issue(".."),
    "no name": ACME.issue(""),
    "expired": ACME.issue("d", begins=-2 * HOUR, ends=-HOUR),
    "authority as a device": ACME.issue("d", ca=True),
    "SPIFFE ID of another tenant, by an intermediate": issued_by(OTHER.intermediate()),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_certificate_is_accepted(server: Server, name: str) -> None:
    assert await reason(server, ACCEPTED[name]) == ""


@pytest.mark.parametrize("name", FORGED)
async def test_forged_certificate_is_refused(server: Server, name: str) -> None:
    expected = {"TLS", "INVALID_CERTIFICATE", "DEVICE_NOT_REGISTERED"}
    assert await reason(server, FORGED[name]) in expected


@pytest.mark.parametrize("name", ACCEPTED_OF_TENANT)
async def test_certificate_of_authority_of_tenant_is_accepted(
    server_of_tenants: Server, name: str
) -> None:
    assert await reason(server_of_tenants, ACCEPTED_OF_TENANT[name]) == ""


@pytest.mark.parametrize("name", FORGED_OF_TENANT)
async def test_forged_certificate_is_refused_with_authorities_of_tenants(
    server_of_tenants: Server, name: str
) -> None:
    expected = {"TLS", "INVALID_CERTIFICATE", "DEVICE_NOT_REGISTERED"}
    assert await reason(server_of_tenants, FORGED_OF_TENANT[name]) in expected


@pytest.fixture
async def device(server: Server) -> AsyncIterator[CertifiedDevice]:
    async with device_channel(server, AUTHORITY, AUTHORITY.device(TENANT, "d")) as device:
        yield device


async def test_device_has_the_tenant_and_the_role_of_its_certificate(
    server: Server, device: CertifiedDevice
) -> None:
    await server.operator(TENANT).create(job_id="j", target_device_id="d")
    assert await device.start_next_job() == "j"
    await device.update("j", "SUCCEEDED")

    caller = await device.operator.get_caller()
    assert (caller.tenant_id, caller.device_id, *caller.roles) == (TENANT, "d", "device")
    assert not caller.user_id
    assert caller.credential_expires_at.seconds


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (("x-tenant-id", "other"), "METADATA_MISMATCH"),
        (("x-device-id", "e"), "METADATA_MISMATCH"),
        (("x-tenant-id", "acme,other"), "DUPLICATE_METADATA"),
        (("authorization", "Bearer x"), "INVALID_TOKEN"),
    ],
)
async def test_metadata_that_contradicts_the_certificate_is_refused(
    device: CertifiedDevice, metadata: tuple[str, str], reason: str
) -> None:
    await expect_error(reason, replace(device, sent_metadata=(metadata,)).pending())


async def test_metadata_grants_no_role_and_names_no_user(device: CertifiedDevice) -> None:
    metadata = (
        *(("x-tenant-id", TENANT), ("x-device-id", "d")),
        *(("x-roles", "admin,bridge"), ("x-user-id", "olivia")),
    )
    caller = await replace(device, sent_metadata=metadata).operator.get_caller()
    assert (caller.user_id, *caller.roles) == ("", "device")


async def test_address_for_devices_serves_only_methods_of_devices(device: CertifiedDevice) -> None:
    with expect_failure(StatusCode.UNIMPLEMENTED):
        await device.operator.list()
    await wait_until_healthy(device.channel)
    # Tools such as grpcurl ask for the methods.
    channel: Any = device.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [response] = [response async for response in stub.ServerReflectionInfo(requests)]
    assert response.list_services_response.service


async def test_device_is_accepted_when_registered_and_refused_when_removed(
    database: Database, server: Server
) -> None:
    certificate = AUTHORITY.device(TENANT, "late")
    assert await reason(server, certificate) == "DEVICE_NOT_REGISTERED"

    await database.add_devices(TENANT, ["late"])
    await wait_until_equal(lambda: reason(server, certificate), "")
    async with device_channel(server, AUTHORITY, certificate) as late:
        watch = late.watch()
        await anext(watch)
        await database.remove_devices(TENANT, ["late"])
        await expect_error("DEVICE_NOT_REGISTERED", read_all(watch))
        await expect_error("DEVICE_NOT_REGISTERED", late.pending())


async def read_all(watch: AsyncIterator[object]) -> None:
    async for _ in watch:
        pass


async def test_watch_ends_when_its_certificate_expires(server: Server) -> None:
    certificate = AUTHORITY.issue("any", D, ends=4 * SECOND)
    async with device_channel(server, AUTHORITY, certificate) as device:
        failure = await expect_error("INVALID_CERTIFICATE", read_all(device.watch()))
        assert failure.message == "The client certificate has expired"
        await expect_error("INVALID_CERTIFICATE", device.pending())


async def test_open_connections_follow_changes_of_the_authorities(
    database: Database, tmp_path: Path
) -> None:
    old, new = Authority(), Authority()
    settings = device_settings(old, tmp_path)
    path = Path(settings["JOBS_DEVICE_CA"])
    async with (
        running_server(database.request_dsn, **settings) as server,
        device_channel(server, old, old.device(TENANT, "d")) as device,
    ):
        watch = device.watch()
        await anext(watch)
        assert await reason(server, new.device(TENANT, "d"), old) == "TLS"

        replace_file(path, new.certificate)
        await expect_error("INVALID_CERTIFICATE", read_all(watch))
        await expect_error("INVALID_CERTIFICATE", device.pending())
        assert await reason(server, new.device(TENANT, "d"), old) == ""


async def test_authority_of_another_tenant_is_added_without_a_restart(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tenant_settings(AUTHORITY, tmp_path, acme=ACME)
    folder = Path(settings["JOBS_DEVICE_CA_DIR"])
    async with running_server(database.request_dsn, **settings) as server:
        assert await reason(server, OTHER.issue("d")) == "TLS"

        # Two tenants can't have the same authority: the last authorities stay in use.
        replace_file(folder / "a%2Fb.pem", ACME.certificate)
        await wait_until_true(lambda: "have authorities with the name" in caplog.text)
        assert await reason(server, ACME.issue("d")) == ""

        (folder / "a%2Fb.pem").unlink()
        replace_file(folder / "other.pem", OTHER.certificate)
        await wait_until_equal(lambda: reason(server, OTHER.issue("d")), "")
        assert await reason(server, ACME.issue("d")) == ""


async def test_device_is_no_trusted_peer_and_trusted_peer_is_no_device(
    database: Database, tmp_path: Path
) -> None:
    peer = AUTHORITY.client("gateway", dns="gateway")
    settings = {
        **device_settings(AUTHORITY, tmp_path),
        **mutual_tls(AUTHORITY, tmp_path),
        "JOBS_TRUSTED_PEERS": "gateway",
    }
    trusted = channel_credentials(AUTHORITY, peer)
    async with running_tls_server(database.request_dsn, trusted, **settings) as server:
        assert await reason(server, AUTHORITY.device(TENANT, "d")) == ""
        assert await reason(server, peer) == "INVALID_CERTIFICATE"
        of_device = channel_credentials(AUTHORITY, AUTHORITY.device(TENANT, "d"))
        async with open_channel(server.address, of_device) as channel:
            await expect_error(
                "PEER_NOT_TRUSTED", replace(server, channel=channel).device(TENANT, "d").pending()
            )


@pytest.mark.slow
async def test_workers_share_the_address_for_devices(database: Database, tmp_path: Path) -> None:
    credentials = channel_credentials(AUTHORITY, AUTHORITY.device(TENANT, "d"))
    with reserved_address() as address:
        settings = device_settings(AUTHORITY, tmp_path) | {"JOBS_DEVICE_LISTEN": address}
        async with running_server_process(database.request_dsn, JOBS_WORKERS="2", **settings):
            for _ in range(8):  # enough connections to reach both
                async with open_channel(address, credentials) as channel:
                    await wait_until_healthy(channel)
                    stub = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
                    await CertifiedDevice(stub, "", "", channel).pending()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "has no file TENANT.pem"),
        ({"acme.pem": b""}, "acme.pem: "),
        ({"acme.pem": AUTHORITY.issue("d").certificate}, "is not an authority"),
        ({"%ZZ%00.pem": ACME.certificate}, "not a percent-encoded tenant"),
        ({"%61cme.pem": ACME.certificate}, "must be named acme.pem"),
        ({"a.pem": ACME.certificate, "b.pem": ACME.certificate}, "have authorities with the name"),
        ({"a.pem": ACME.certificate * 501}, "at most 500"),
    ],
)
def test_server_does_not_start_when_authorities_are_not_usable(
    tmp_path: Path, files: dict[str, bytes], problem: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "acme.crt").write_bytes(b"ignored")
    config = DevicesConfig(listen="127.0.0.1:0", ca_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="JOBS_DEVICE_CA_DIR is not usable") as raised:
        read_device_authorities(config)
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)
