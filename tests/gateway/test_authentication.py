"""The gateway forwards tokens and identity headers, but no roles and no forged metadata."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.auth.support import KEY, jwt_settings
from tests.gateway.support import assert_error, running_gateway
from tests.support.database import Database
from tests.support.identities import Authority, Pair, channel_credentials, claims, mutual_tls, token
from tests.support.server import Server, running_tls_server
from tests.support.waiting import TIMEOUT

JOBS = "/customer/jobs"
PEER = "spiffe://acme.example/ns/jobs/sa/gateway"


class Files:
    """Certificates of one authority, as files."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.trusted = self.authority.client("gateway", PEER)
        self.server_settings = mutual_tls(self.authority, folder) | {"JOBS_TRUSTED_PEERS": PEER}
        """The settings of a server that trusts only the gateway."""
        self.folder = folder

    def gateway_settings(self, pair: Pair, name: str) -> dict[str, str]:
        certificate, key = pair.write(self.folder, name)
        ca = self.server_settings["JOBS_TLS_CLIENT_CA"]
        return {"UPSTREAM_CA": ca, "UPSTREAM_CERT": certificate, "UPSTREAM_KEY": key}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@asynccontextmanager
async def trusting_server(
    database: Database, files: Files, **variables: str
) -> AsyncIterator[Server]:
    credentials = channel_credentials(files.authority, files.trusted)
    settings = files.server_settings | variables
    async with running_tls_server(database.request_dsn, credentials, **settings) as server:
        yield server


@asynccontextmanager
async def gateway_client(
    binary: Path, server: Server, **settings: str
) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running_gateway(binary, server.address, **settings) as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http,
    ):
        yield http


@pytest.fixture(scope="module")
async def metadata_server(database: Database, files: Files) -> AsyncIterator[Server]:
    async with trusting_server(database, files) as server:
        yield server


@pytest.fixture(scope="module")
async def jwt_auth(
    gateway_binary: Path, database: Database, files: Files
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in front of a server with JOBS_AUTH=jwt."""
    settings = files.gateway_settings(files.trusted, "trusted")
    async with (
        trusting_server(database, files, **jwt_settings(files.folder)) as server,
        gateway_client(gateway_binary, server, **settings) as http,
    ):
        yield http


def bearer(tenant: str, *roles: str, **overrides: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(KEY, claims(tenant, *roles, **overrides))}"}


async def test_token_is_forwarded_to_the_server(
    jwt_auth: httpx.AsyncClient, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    body = {"job_id": "j", "document_type": "reboot", "target_all": True}

    created = await jwt_auth.post(JOBS, json=body, headers=bearer(tenant, "operator"))
    assert created.status_code == 201, created.text
    job = await jwt_auth.get(f"{JOBS}/j", headers=bearer(tenant, "viewer"))
    assert job.json()["created_by"] == "olivia"
    device = bearer(tenant, "device", device_id="d")
    assert (await jwt_auth.get("/device/v1/jobs", headers=device)).status_code == 200


async def test_request_is_rejected_when_token_is_missing_expired_or_lacks_the_role(
    jwt_auth: httpx.AsyncClient, tenant: str
) -> None:
    missing = await jwt_auth.get(JOBS, headers={"X-Tenant-Id": tenant})
    assert_error(missing, 401, "UNAUTHENTICATED", "TOKEN_REQUIRED")
    assert missing.headers["www-authenticate"] == "Bearer"
    expired = await jwt_auth.get(JOBS, headers=bearer(tenant, "viewer", exp=1))
    assert_error(expired, 401, "UNAUTHENTICATED", "INVALID_TOKEN", "The token has expired")
    viewer = await jwt_auth.delete(f"{JOBS}/j", headers=bearer(tenant, "viewer"))
    assert_error(viewer, 403, "PERMISSION_DENIED", "ROLE_REQUIRED")


async def test_request_is_rejected_when_tenant_header_differs_from_token(
    jwt_auth: httpx.AsyncClient, tenant: str
) -> None:
    headers = bearer(tenant, "viewer")

    same = await jwt_auth.get(JOBS, headers=headers | {"X-Tenant-Id": tenant})
    assert same.json() == []
    other = await jwt_auth.get(JOBS, headers=headers | {"X-Tenant-Id": "other"})
    assert_error(other, 403, "PERMISSION_DENIED", "METADATA_MISMATCH")


FORGED_HEADERS = [
    {"X-Roles": "admin"},
    {"Grpc-Metadata-X-Roles": "admin"},
    {"Grpc-Metadata-X-Tenant-Id": "other"},
    {"Grpc-Metadata-Authorization": "Bearer x"},
    {"X-Forwarded-Client-Cert": f"URI={PEER}"},
]


@pytest.mark.parametrize("forged", FORGED_HEADERS, ids=lambda headers: next(iter(headers)))
async def test_forged_headers_are_ignored_when_token_is_valid(
    jwt_auth: httpx.AsyncClient, tenant: str, forged: dict[str, str]
) -> None:
    headers = bearer(tenant, "viewer") | forged

    assert (await jwt_auth.get(JOBS, headers=headers)).json() == []
    response = await jwt_auth.post(f"{JOBS}/j:delete", headers=headers)
    assert_error(response, 403, "PERMISSION_DENIED", "ROLE_REQUIRED")


async def test_roles_header_is_ignored_when_server_trusts_metadata(
    gateway_binary: Path, metadata_server: Server, files: Files, tenant: str
) -> None:
    """If X-Roles were forwarded, "root" would be invalid and "viewer" not allowed to cancel."""
    settings = files.gateway_settings(files.trusted, "trusted")
    async with gateway_client(gateway_binary, metadata_server, **settings) as http:
        for roles in ("root", "viewer", "admin"):
            headers = {"X-Tenant-Id": tenant, "X-Roles": roles}
            response = await http.delete(f"{JOBS}/j", headers=headers)
            assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")


async def test_gateway_is_rejected_by_the_server_when_not_a_trusted_peer(
    gateway_binary: Path, metadata_server: Server, files: Files
) -> None:
    settings = files.gateway_settings(files.authority.client("gateway"), "untrusted")
    async with gateway_client(gateway_binary, metadata_server, **settings) as http:
        response = await http.get(JOBS, headers={"X-Tenant-Id": "t"})

    assert_error(response, 403, "PERMISSION_DENIED", "PEER_NOT_TRUSTED")


async def test_request_without_token_is_rejected_when_gateway_requires_tokens(
    gateway_binary: Path, server: Server
) -> None:
    async with gateway_client(gateway_binary, server, REQUIRE_TOKEN="true") as http:
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer"}):
            response = await http.get(JOBS, headers={"X-Tenant-Id": "t"} | headers)
            assert_error(response, 401, "UNAUTHENTICATED", "TOKEN_REQUIRED")
        assert (await http.get("/healthz")).status_code == 200
