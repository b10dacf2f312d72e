"""The gateway shares its limits by tenant and subject, not by the text of tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from tests.auth.support import JWT_SETTINGS, KEY
from tests.gateway.support import Gateway, running_gateway, send_raw, status_of
from tests.support.database import Database
from tests.support.identities import claims, jwks, token
from tests.support.server import running_server
from tests.support.waiting import TIMEOUT

pytestmark = pytest.mark.slow

Fields: TypeAlias = tuple[str, ...]

MAX_WATCHES = 40
MAX_REQUESTS = 160
MIB = 1 << 20

# Space is what makes the body large.
LARGE_BODY = b" " * 200_000 + b'{"document_type": "x", "target_all": true, "job_id": "large"}'


@pytest.fixture(scope="module")
async def gateway(
    database: Database, gateway_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """A gateway with low limits, in front of a server that verifies tokens."""
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(jwks(KEY))
    limits = {
        "MAX_WATCHES": str(MAX_WATCHES),
        "MAX_REQUESTS_IN_FLIGHT": str(MAX_REQUESTS),
        "MAX_BUFFERED_BYTES": str(32 * MIB),
    }
    async with (
        running_server(database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT_SETTINGS) as server,
        running_gateway(gateway_binary, server.address, **limits) as gateway,
    ):
        yield gateway


def bearer(tenant: str, role: str, subject: str = "olivia") -> Fields:
    return (f"Authorization: Bearer {token(KEY, claims(tenant, role, sub=subject))}",)


def spellings(tenant: str, role: str) -> list[Fields]:
    """Ten ways to send one token."""
    text = token(KEY, claims(tenant, role))
    return [
        (f"Authorization: {scheme} {text}", *tenant_field)
        for scheme in ("Bearer", "bearer", "BEARER", "BeArEr", "Bearer ")
        for tenant_field in ((), (f"X-Tenant-Id: {tenant}",))
    ]


async def watch(gateway: Gateway, stack: AsyncExitStack, fields: Fields) -> int:
    """Open a watch and return its status, when the gateway knows the caller."""
    head = ("GET /customer/jobs/j:watch HTTP/1.1", "Host: localhost", *fields, "", "")
    return await status_of(await send_raw(gateway, stack, "\r\n".join(head).encode()))


async def test_one_token_holds_a_quarter_of_the_watches_under_ten_spellings(
    gateway: Gateway, database: Database, tenant: str
) -> None:
    other = f"{tenant}-other"
    for name in (tenant, other):
        await database.add_devices(name, 1)
        await create_job(gateway, name)

    async with AsyncExitStack() as stack:
        callers = spellings(tenant, "viewer") * 4
        statuses = [await watch(gateway, stack, fields) for fields in callers]

        assert statuses.count(200) == MAX_WATCHES / 4
        assert set(statuses) == {200, 429}
        assert await watch(gateway, stack, bearer(tenant, "viewer", "amir")) == 200
        assert await watch(gateway, stack, bearer(other, "viewer")) == 200


async def test_callers_of_an_address_are_served_when_bodies_from_it_never_arrive(
    gateway: Gateway, database: Database, tenant: str
) -> None:
    await database.add_devices(tenant, 1)
    head = ("POST /customer/jobs HTTP/1.1", "Host: localhost", "Authorization: Bearer junk")
    request = "\r\n".join((*head, "Content-Length: 100", "", "{")).encode()

    async with AsyncExitStack() as stack:
        readers = [await send_raw(gateway, stack, request) for _ in range(MAX_REQUESTS)]
        # The share of the address is an eighth. The gateway asks the server about the others.
        others = MAX_REQUESTS * 7 // 8
        responses = [asyncio.create_task(status_of(reader)) for reader in readers]
        first = asyncio.as_completed(responses)
        assert {await next(first) for _ in range(others)} == {401}
        await create_job(gateway, tenant)
        for response in responses:
            response.cancel()


async def create_job(gateway: Gateway, tenant: str) -> None:
    (field,) = bearer(tenant, "operator")
    name, _, value = field.partition(": ")
    body = {"job_id": "j", "document_type": "x", "target_all": True}
    async with httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as http:
        response = await http.post("/customer/jobs", json=body, headers={name: value})
    assert response.status_code == 201, response.text


async def test_large_body_of_another_tenant_is_accepted_when_one_token_sends_many(
    gateway: Gateway, database: Database, tenant: str
) -> None:
    await check_large_bodies(gateway, database, tenant, spellings(tenant, "device"))


async def test_large_body_of_another_tenant_is_accepted_when_ten_devices_send_many(
    gateway: Gateway, database: Database, tenant: str
) -> None:
    devices = [bearer(tenant, "device", f"d{number}") for number in range(10)]
    await check_large_bodies(gateway, database, tenant, devices)


async def check_large_bodies(
    gateway: Gateway, database: Database, tenant: str, callers: list[Fields]
) -> None:
    """Send many bodies without their last byte, and then a large one of another tenant."""
    other = f"{tenant}-other"
    await database.add_devices(other, 1)
    async with AsyncExitStack() as stack:
        readers = [
            await send_raw(gateway, stack, post(fields) + LARGE_BODY[:-1]) for fields in callers * 6
        ]
        responses = [asyncio.ensure_future(status_of(reader)) for reader in readers]
        for response in responses:
            stack.callback(response.cancel)
        # The first refusal comes when the share of the callers is used.
        (first, *_), _ = await asyncio.wait(responses, return_when=asyncio.FIRST_COMPLETED)
        assert first.result() == 429

        large = await send_raw(gateway, stack, post(bearer(other, "operator")) + LARGE_BODY)
        assert await status_of(large) == 201


def post(fields: Fields) -> bytes:
    body = ("Content-Type: application/json", f"Content-Length: {len(LARGE_BODY)}")
    head = ("POST /customer/jobs HTTP/1.1", "Host: localhost", *body, *fields, "", "")
    return "\r\n".join(head).encode()
