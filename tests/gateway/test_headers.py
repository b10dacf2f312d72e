"""Who calls: which headers count, and which get nowhere."""

from typing import Any

import httpx
import pytest

from tests.gateway.support import Rest, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


async def test_a_tenant_is_required(client: httpx.AsyncClient) -> None:
    response = await client.get(JOBS)

    assert_error(response, 401, "UNAUTHENTICATED", "TENANT_REQUIRED")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_the_user_becomes_created_by(
    database: Database, rest: Rest, client: httpx.AsyncClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    body = {"document_type": "a", "target_all": True}
    await client.post(JOBS, json=body, headers={"X-Tenant-Id": rest.tenant})
    await client.post(JOBS, json=body, headers={"X-Tenant-Id": rest.tenant, "X-User-Id": "olivia"})

    assert [row["created_by"] for row in await rest.get()] == ["olivia", None]


@pytest.mark.parametrize(
    "name", ["X-Tenant-Id", "x-tenant-id", "X-User-Id", "X-Device-Id", "Authorization"]
)
async def test_a_caller_who_is_stated_twice_is_refused(rest: Rest, name: str) -> None:
    headers = [(name, "a"), (name, "a")]

    response = await rest.send("GET", JOBS, headers=headers)

    assert_error(response, 401, "UNAUTHENTICATED", "DUPLICATE_METADATA")


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Tenant-Id": ""},
        {"X-Tenant-Id": "a" * 257},
        {"X-Tenant-Id": b"t\xc3\xbc"},
        {"X-Tenant-Id": "a", "X-User-Id": b"j\xc3\xbcrgen"},
    ],
)
async def test_a_caller_who_is_no_identifier_is_refused(
    client: httpx.AsyncClient, headers: Any
) -> None:
    response = await client.get(JOBS, headers=headers)

    assert_error(response, 401, "UNAUTHENTICATED", "INVALID_METADATA")


async def test_headers_up_to_what_the_server_takes_are_never_refused(rest: Rest) -> None:
    """gRPC refuses calls with more metadata now and then, in words that blame the body."""
    for _ in range(20):
        response = await rest.send("GET", JOBS, headers=[("tracestate", "x" * 6_800)])
        assert response.status_code == 200, response.text

    for headers in ([("Authorization", "x" * 7_200)], [("tracestate", "")] * 200):
        trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        response = await rest.send("GET", JOBS, headers=[trace, *headers])
        detail = "The headers for the service are too large; together they may have 7168 bytes"
        assert_error(response, 431, "INVALID_ARGUMENT", "HEADERS_TOO_LARGE", detail)


@pytest.mark.parametrize(
    "name",
    ["Grpc-Metadata-X-Tenant-Id", "grpc-metadata-x-tenant-id", "Grpc-Metadata-X-Tenant-Id-Bin",
     "X_Tenant_Id", "Grpcgateway-X-Tenant-Id", "X-Forwarded-X-Tenant-Id"],
)  # fmt: skip
async def test_a_tenant_in_any_other_header_gets_nowhere(
    client: httpx.AsyncClient, rest: Rest, database: Database, name: str
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(target_all=True)

    response = await client.get(JOBS, headers={name: rest.tenant})
    assert_error(response, 401, "UNAUTHENTICATED", "TENANT_REQUIRED")

    beside = Rest(client, f"{rest.tenant}-other")
    response = await beside.send("GET", JOBS, headers=[(name, rest.tenant)])
    assert response.json() == []


async def test_the_method_can_not_be_overridden(database: Database, rest: Rest) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    override = ("X-HTTP-Method-Override", "DELETE")

    response = await rest.send("POST", f"{JOBS}/a", {}, headers=[override])
    assert_error(response, 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")
    response = await rest.send("GET", f"{JOBS}/a", headers=[override])
    assert response.json()["status"] == "IN_PROGRESS"

    # Nor does a form make a GET of a POST, as with the library's path length fallback.
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    response = await rest.send("POST", f"{JOBS}/a/executions", headers=form)
    assert_error(response, 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")


async def test_request_id_and_trace_come_back(rest: Rest) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = [("X-Request-Id", "abc-1"), ("traceparent", trace)]

    for path in (JOBS, f"{JOBS}/none", "/none", "/openapi.json"):
        response = await rest.send("GET", path, headers=headers)
        assert response.headers.get_list("x-request-id") == ["abc-1"]
        assert response.headers.get_list("traceparent") == [trace]


@pytest.mark.parametrize("sent", [[], ["a b"], ["x" * 129], ["one", "two"]])
async def test_without_a_usable_request_id_one_is_made(rest: Rest, sent: list[str]) -> None:
    headers = [("X-Request-Id", value) for value in sent]

    response = await rest.send("GET", JOBS, headers=[*headers, ("traceparent", "nonsense")])

    (made,) = response.headers.get_list("x-request-id")
    assert made not in sent
    assert len(made) > 20
    assert "traceparent" not in response.headers


async def test_answers_carry_nothing_of_the_servers_metadata(rest: Rest) -> None:
    for path in (JOBS, f"{JOBS}/none"):
        response = await rest.send("GET", path, headers=[("TE", "trailers")])
        names = {name.lower() for name in response.headers}
        assert not [name for name in names if name.startswith("grpc")]
        assert names <= {
            "content-type", "content-length", "date", "x-request-id", "cache-control",
            "x-content-type-options", "transfer-encoding", "link", "x-next-page-token",
        }  # fmt: skip
