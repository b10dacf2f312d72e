"""JOBS_GATEWAY_DEVICE_LISTEN: devices that client certificates identify, over REST and TLS."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from tests.auth.test_device_certificates import (
    ACCEPTED,
    ACCEPTED_OF_TENANT,
    ACME,
    AUTHORITY,
    DEVICES,
    FORGED,
    FORGED_OF_TENANT,
    OTHER,
    STRANGER,
    TENANT,
)
from tests.gateway.support import Gateway, RestClient, assert_error, running_gateway
from tests.support.database import Database
from tests.support.device_certificates import device_settings, tenant_settings
from tests.support.identities import Pair, channel_credentials, mutual_tls
from tests.support.server import Server, running_tls_server
from tests.support.waiting import TIMEOUT, wait_until_equal

GATEWAY = AUTHORITY.client("gateway")
D = AUTHORITY.device(TENANT, "d")

JOBS = "/device/v1/jobs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@asynccontextmanager
async def server_with(
    database: Database, folder: Path, devices: dict[str, str]
) -> AsyncIterator[Server]:
    settings = mutual_tls(AUTHORITY, folder) | devices
    settings |= {"JOBS_TRUSTED_PEERS": "gateway", "JOBS_DEVICE_GATEWAYS": "gateway"}
    credentials = channel_credentials(AUTHORITY, GATEWAY)
    async with running_tls_server(database.request_dsn, credentials, **settings) as server:
        yield server


@pytest.fixture(scope="module")
async def server(database: Database, folder: Path) -> AsyncIterator[Server]:
    for tenant in (TENANT, "other", "a,b"):
        await database.add_devices(tenant, DEVICES)
    async with server_with(database, folder, device_settings(AUTHORITY, folder)) as server:
        yield server


@asynccontextmanager
async def gateway_of(
    binary: Path, server: Server, folder: Path, **settings: str
) -> AsyncIterator[Gateway]:
    """A gateway with an address for devices, in front of the server."""
    certificate, key = AUTHORITY.server().write(folder, "gateway-server")
    upstream_certificate, upstream_key = GATEWAY.write(folder, "gateway")
    settings = {
        "DEVICE_LISTEN": "127.0.0.1:0",
        "DEVICE_TLS_CERT": certificate,
        "DEVICE_TLS_KEY": key,
        "UPSTREAM_CA": str(folder / "ca.crt"),
        "UPSTREAM_CERT": upstream_certificate,
        "UPSTREAM_KEY": upstream_key,
        "LOG_LEVEL": "DEBUG",
        **settings,
    }
    async with running_gateway(binary, server.address, **settings) as gateway:
        yield gateway


@pytest.fixture(scope="module")
async def gateway(gateway_binary: Path, server: Server, folder: Path) -> AsyncIterator[Gateway]:
    async with gateway_of(gateway_binary, server, folder) as gateway:
        yield gateway


def tls_context(folder: Path, certificate: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # the gateway must refuse weak keys, not OpenSSL
    if certificate:
        context.load_cert_chain(*certificate.write(folder, "client"))
    return context


def device(gateway: Gateway, folder: Path, certificate: Pair | None) -> httpx.AsyncClient:
    """A device with this certificate."""
    return httpx.AsyncClient(
        base_url=gateway.device_url, timeout=TIMEOUT, verify=tls_context(folder, certificate)
    )


@pytest.fixture
async def http(gateway: Gateway, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The device d of the tenant acme."""
    async with device(gateway, tmp_path, D) as http:
        yield http


async def reason(gateway: Gateway, folder: Path, certificate: Pair | None) -> str:
    """The reason with which a request fails; "" if it succeeds, "TLS" if the handshake fails."""
    async with device(gateway, folder, certificate) as http:
        try:
            response = await http.get(JOBS)
        except (ssl.SSLError, httpx.ConnectError, httpx.RemoteProtocolError):
            return "TLS"
    return "" if response.status_code == 200 else response.json()["reason"]


REFUSED = {"TLS", "INVALID_CERTIFICATE", "DEVICE_NOT_REGISTERED"}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_certificate_is_accepted(gateway: Gateway, tmp_path: Path, name: str) -> None:
    assert await reason(gateway, tmp_path, ACCEPTED[name]) == ""


@pytest.mark.parametrize("name", FORGED)
async def test_forged_certificate_is_refused(gateway: Gateway, tmp_path: Path, name: str) -> None:
    assert await reason(gateway, tmp_path, FORGED[name]) in REFUSED


async def test_certificates_of_authorities_of_tenants_are_verified(
    database: Database, gateway_binary: Path, tmp_path: Path
) -> None:
    for tenant in (TENANT, "other"):
        await database.add_devices(tenant, DEVICES)
    devices = tenant_settings(AUTHORITY, tmp_path, acme=ACME, other=OTHER)
    async with (
        server_with(database, tmp_path, devices) as server,
        gateway_of(gateway_binary, server, tmp_path) as gateway,
    ):
        for name, certificate in ACCEPTED_OF_TENANT.items():
            assert await reason(gateway, tmp_path, certificate) == "", name
        for name, certificate in FORGED_OF_TENANT.items():
            assert await reason(gateway, tmp_path, certificate) in REFUSED, name


async def test_device_carries_out_its_jobs(
    database: Database, server: Server, gateway: Gateway, tmp_path: Path
) -> None:
    for tenant in (TENANT, "other"):
        await database.add_devices(tenant, ["worker"])
    for job in ("j", "k"):
        await server.operator(TENANT).create(job_id=job, target_device_id="worker")
    await server.operator("other").create(job_id="other", target_device_id="worker")

    async with device(gateway, tmp_path, AUTHORITY.device(TENANT, "worker")) as http:
        pending = await http.get(JOBS)
        assert [execution["job_id"] for execution in pending.json()] == ["j", "k"]
        assert (await http.post(f"{JOBS}:startNext")).json()["execution"]["job_id"] == "j"
        done = await http.patch(f"{JOBS}/j", json={"status": "SUCCEEDED"})
        assert done.json()["status"] == "SUCCEEDED"
        assert (await http.post(f"{JOBS}/k:start")).json()["status"] == "IN_PROGRESS"
        done = await http.patch(f"{JOBS}/k", json={"status": "SUCCEEDED"})
        assert done.json()["status"] == "SUCCEEDED"
        assert (await http.patch("/device/v1/facts", json={"facts": {"os": "1"}})).is_success
        assert (await http.get(f"{JOBS}/other")).status_code == 404


# In base64, as gRPC sends it.
OTHER_LEAF = base64.b64encode(
    ssl.PEM_cert_to_DER_cert(AUTHORITY.device("other", "d").certificate.decode())
).decode()


def smuggled() -> Iterator[tuple[str, str]]:
    """Headers that name another caller."""
    for name, value in (
        ("x-tenant-id", "other"),
        ("x-device-id", "a/b"),
        ("x-user-id", "olivia"),
        ("x-roles", "admin,bridge"),
        ("x-device-certificate-bin", OTHER_LEAF),
        ("authorization", "Bearer x"),
        ("cookie", "session=x"),
    ):
        for prefix in ("", "Grpc-Metadata-", "grpcgateway-"):
            yield prefix + name, value
        yield name.upper(), value
        yield name.title(), value
        yield name.replace("-", "_"), value
        yield name.upper().replace("-", "_"), value
    yield "x-forwarded-for", "10.0.0.1"
    yield "x-forwarded-client-cert", "URI=spiffe://acme.example/tenant/other/device/d"


async def test_headers_of_devices_name_no_other_caller(
    server: Server, http: httpx.AsyncClient
) -> None:
    await server.operator(TENANT).create(job_id="mine", target_device_id="d")
    await server.operator("other").create(job_id="theirs", target_device_id="d")
    together: list[tuple[str, str]] = []
    for name, value in smuggled():
        together.append((name, value))
        for headers in ([(name, value)], [(name, value), (name, value)]):
            response = await http.get(JOBS, headers=headers)
            assert response.status_code == 200, (name, response.text)
            assert [execution["job_id"] for execution in response.json()] == ["mine"], name
    response = await http.get(JOBS, headers=together)
    assert [execution["job_id"] for execution in response.json()] == ["mine"]


async def test_certificates_in_headers_of_the_ordinary_address_are_ignored(
    server: Server, gateway: Gateway
) -> None:
    await server.operator("other").create(job_id="secret", target_device_id="d")
    for name in (
        "x-device-certificate-bin",
        "X_Device_Certificate_Bin",
        "X-DEVICE-CERTIFICATE-BIN",
    ):
        for prefix in ("", "Grpc-Metadata-"):
            headers = [(prefix + name, OTHER_LEAF)]
            async with httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http:
                response = await http.get(JOBS, headers=headers)
                assert_error(response, 401, "UNAUTHENTICATED", "TENANT_REQUIRED")
                rest = RestClient(http, TENANT)
                response = await rest.send("GET", JOBS, headers=[("X-Device-Id", "a/b"), *headers])
                assert response.json() == []


async def test_device_is_accepted_when_registered_and_refused_when_removed(
    database: Database, gateway: Gateway, tmp_path: Path
) -> None:
    async with device(gateway, tmp_path, AUTHORITY.device(TENANT, "late")) as http:

        async def status() -> int:
            return (await http.get(JOBS)).status_code

        assert await status() == 403
        await database.add_devices(TENANT, ["late"])
        await wait_until_equal(status, 200)
        await database.remove_devices(TENANT, ["late"])
        await wait_until_equal(status, 403)
        assert_error(await http.get(JOBS), 403, "PERMISSION_DENIED", "DEVICE_NOT_REGISTERED")


@pytest.mark.parametrize(
    "path",
    [
        "/customer/jobs",
        "/customer/caller",
        "/customer/jobs/j:watch",
        "/console",
        "/openapi.json",
        "/healthz",
        "/metrics",
        "/device/../customer/jobs",
        "/device/v1/..%2f..%2fcustomer/jobs",
        "//customer/jobs",
    ],
)
async def test_only_routes_of_devices_are_served(http: httpx.AsyncClient, path: str) -> None:
    assert_error(await http.get(path), 404, "NOT_FOUND", "ROUTE_NOT_FOUND")


async def test_web_page_is_refused(http: httpx.AsyncClient) -> None:
    response = await http.get(JOBS, headers={"Origin": "https://evil.example"})
    assert_error(response, 403, "PERMISSION_DENIED", "ORIGIN_NOT_ALLOWED")


async def test_certificates_that_metadata_cannot_carry_are_refused(
    gateway: Gateway, tmp_path: Path
) -> None:
    names = [x509.DNSName(f"{'x' * 60}.{number}.example") for number in range(80)]
    uri = x509.UniformResourceIdentifier("spiffe://acme.example/tenant/acme/device/d")
    async with device(gateway, tmp_path, AUTHORITY.issue("any", [uri, *names])) as http:
        detail = (
            "The forwarded client certificates and headers are too large; the limit is 7168 bytes"
            " in total"
        )
        response = await http.get(JOBS)
        assert_error(response, 431, "INVALID_ARGUMENT", "HEADERS_TOO_LARGE", detail)


async def test_handshake_fails_when_no_authority_of_the_gateway_issued_the_certificate(
    gateway_binary: Path, server: Server, folder: Path, tmp_path: Path
) -> None:
    settings = {"DEVICE_TLS_CLIENT_CA": str(folder / "devices.pem")}
    async with gateway_of(gateway_binary, server, folder, **settings) as gateway:
        assert await reason(gateway, tmp_path, D) == ""
        assert await reason(gateway, tmp_path, STRANGER.device(TENANT, "d")) == "TLS"


async def test_device_needs_no_token_when_others_do(
    gateway_binary: Path, server: Server, folder: Path, tmp_path: Path
) -> None:
    async with gateway_of(gateway_binary, server, folder, REQUIRE_TOKEN="true") as gateway:
        assert await reason(gateway, tmp_path, D) == ""


async def test_connections_and_headers_of_devices_are_limited(
    gateway_binary: Path, server: Server, folder: Path, tmp_path: Path
) -> None:
    async with (
        gateway_of(gateway_binary, server, folder, MAX_CONNECTIONS="2") as gateway,
        AsyncExitStack() as stack,
    ):
        url = httpx.URL(gateway.device_url)
        silent, _ = [await connect(stack, url) for _ in range(2)]
        async with device(gateway, tmp_path, D) as http:
            assert (await http.get(JOBS)).status_code == 200
            async with asyncio.timeout(TIMEOUT):
                assert await silent.read() == b""
            response = await http.get(JOBS, headers={"User-Agent": "x" * 50_000})
            assert response.status_code == 431


async def connect(stack: AsyncExitStack, url: httpx.URL) -> asyncio.StreamReader:
    """Connect, and begin no handshake."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    stack.callback(writer.close)
    return reader
