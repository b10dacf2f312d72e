"""Behind the gateway: tokens pass, and what callers make up of themselves does not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.support import TIMEOUT, assert_error, running
from tests.support.database import Database
from tests.support.identities import (
    AUDIENCE,
    ISSUER,
    Authority,
    Pair,
    channel_credentials,
    claims,
    jwks,
    new_key,
    token,
)
from tests.support.server import running_tls_server

KEY = new_key()
JOBS = "/customer/jobs"
PEER = "spiffe://acme.example/ns/jobs/sa/gateway"


class Files:
    """Certificates of one authority, for the server and for two gateways."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.known = self.authority.client("gateway", PEER)
        self.server = self.authority.server().write(folder, "server")
        self.ca = str(folder / "ca.crt")
        Path(self.ca).write_bytes(self.authority.certificate)
        self.jwks = str(folder / "jwks.json")
        Path(self.jwks).write_text(jwks(KEY))
        self._folder = folder

    def serve(self) -> dict[str, str]:
        """The server's variables: it trusts the gateway alone."""
        return {
            "JOBS_TLS_CERT": self.server[0],
            "JOBS_TLS_KEY": self.server[1],
            "JOBS_TLS_CLIENT_CA": self.ca,
            "JOBS_TRUSTED_PEERS": PEER,
        }

    def upstream(self, pair: Pair, name: str) -> dict[str, str]:
        """The settings of a gateway with a certificate."""
        certificate, key = pair.write(self._folder, name)
        return {"UPSTREAM_CA": self.ca, "UPSTREAM_CERT": certificate, "UPSTREAM_KEY": key}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


async def client_of(
    binary: Path, database: Database, files: Files, **variables: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that shows the server its certificate."""
    known = channel_credentials(files.authority, files.known)
    async with (
        running_tls_server(database.request_dsn, known, **files.serve(), **variables) as server,
        running(binary, server.address, **files.upstream(files.known, "known")) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as client,
    ):
        yield client


@pytest.fixture(scope="module")
async def stating(
    gateway_binary: Path, database: Database, files: Files
) -> AsyncIterator[httpx.AsyncClient]:
    """In front of a server that believes the gateway."""
    async for client in client_of(gateway_binary, database, files):
        yield client


@pytest.fixture(scope="module")
async def verifying(
    gateway_binary: Path, database: Database, files: Files
) -> AsyncIterator[httpx.AsyncClient]:
    """In front of a server that verifies tokens."""
    variables = {
        "JOBS_AUTH": "jwt",
        "JOBS_JWT_KEYS": files.jwks,
        "JOBS_JWT_ISSUER": ISSUER,
        "JOBS_JWT_AUDIENCE": AUDIENCE,
    }
    async for client in client_of(gateway_binary, database, files, **variables):
        yield client


def bearer(tenant: str, *roles: str, **said: Any) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token(KEY, claims(tenant, *roles, **said))}"}


async def test_a_token_passes(
    verifying: httpx.AsyncClient, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    body = {"job_id": "j", "document_type": "reboot", "target_all": True}

    made = await verifying.post(JOBS, json=body, headers=bearer(tenant, "operator"))
    assert made.status_code == 201, made.text
    got = await verifying.get(f"{JOBS}/j", headers=bearer(tenant, "viewer"))
    assert got.json()["created_by"] == "olivia"
    device = bearer(tenant, "device", device_id="d")
    assert (await verifying.get("/device/v1/jobs", headers=device)).status_code == 200


async def test_refusals_have_their_status(verifying: httpx.AsyncClient, tenant: str) -> None:
    none = await verifying.get(JOBS, headers={"X-Tenant-Id": tenant})
    assert_error(none, 401, "UNAUTHENTICATED", "TOKEN_REQUIRED")
    assert none.headers["www-authenticate"] == "Bearer"
    old = await verifying.get(JOBS, headers=bearer(tenant, "viewer", exp=1))
    assert_error(old, 401, "UNAUTHENTICATED", "INVALID_TOKEN", "The token has expired")
    viewer = await verifying.delete(f"{JOBS}/j", headers=bearer(tenant, "viewer"))
    assert_error(viewer, 403, "PERMISSION_DENIED", "ROLE_REQUIRED")


async def test_a_tenant_beside_the_token_must_be_the_tokens(
    verifying: httpx.AsyncClient, tenant: str
) -> None:
    headers = bearer(tenant, "viewer")

    same = await verifying.get(JOBS, headers=headers | {"X-Tenant-Id": tenant})
    assert same.json() == []
    other = await verifying.get(JOBS, headers=headers | {"X-Tenant-Id": "other"})
    assert_error(other, 403, "PERMISSION_DENIED", "METADATA_MISMATCH")


SPOOFED = [
    {"X-Roles": "admin"},
    {"Grpc-Metadata-X-Roles": "admin"},
    {"Grpc-Metadata-X-Tenant-Id": "other"},
    {"Grpc-Metadata-Authorization": "Bearer x"},
    {"X-Forwarded-Client-Cert": f"URI={PEER}"},
]


@pytest.mark.parametrize("spoofed", SPOOFED, ids=lambda headers: next(iter(headers)))
async def test_what_is_made_up_gets_nowhere(
    verifying: httpx.AsyncClient, tenant: str, spoofed: dict[str, str]
) -> None:
    headers = bearer(tenant, "viewer") | spoofed

    assert (await verifying.get(JOBS, headers=headers)).json() == []
    refused = await verifying.post(f"{JOBS}/j:delete", headers=headers)
    assert_error(refused, 403, "PERMISSION_DENIED", "ROLE_REQUIRED")


async def test_roles_do_not_come_from_outside(stating: httpx.AsyncClient, tenant: str) -> None:
    """X-Roles is ignored: with it the call would be refused, or have no such right."""
    for roles in ("root", "viewer", "admin"):
        headers = {"X-Tenant-Id": tenant, "X-Roles": roles}
        response = await stating.delete(f"{JOBS}/j", headers=headers)
        assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")


async def test_a_gateway_that_is_not_on_the_list_is_not_believed(
    gateway_binary: Path, database: Database, files: Files
) -> None:
    known = channel_credentials(files.authority, files.known)
    stranger = files.upstream(files.authority.client("gateway"), "stranger")
    async with (
        running_tls_server(database.request_dsn, known, **files.serve()) as server,
        running(gateway_binary, server.address, **stranger) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as client,
    ):
        response = await client.get(JOBS, headers={"X-Tenant-Id": "t"})
        assert_error(response, 403, "PERMISSION_DENIED", "PEER_NOT_TRUSTED")


async def test_it_can_demand_a_token_itself(
    gateway_binary: Path, database: Database, files: Files
) -> None:
    known = channel_credentials(files.authority, files.known)
    settings = files.upstream(files.known, "known") | {"REQUIRE_TOKEN": "true"}
    async with (
        running_tls_server(database.request_dsn, known, **files.serve()) as server,
        running(gateway_binary, server.address, **settings) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as client,
    ):
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}):
            response = await client.get(JOBS, headers={"X-Tenant-Id": "t"} | headers)
            assert_error(response, 401, "UNAUTHENTICATED", "TOKEN_REQUIRED")
        assert (await client.get("/healthz")).status_code == 200
