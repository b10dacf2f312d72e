"""Request and response headers, except those of transcripts/headers.txt."""

from typing import Any

import httpx
import pytest

from tests.gateway.support import RestClient, assert_error
from tests.support.database import Database

JOBS = "/customer/jobs"


async def test_user_header_is_stored_as_created_by(
    database: Database, rest: RestClient, http: httpx.AsyncClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    body = {"document_type": "a", "target_all": True}
    await http.post(JOBS, json=body, headers={"X-Tenant-Id": rest.tenant})
    await http.post(JOBS, json=body, headers={"X-Tenant-Id": rest.tenant, "X-User-Id": "olivia"})

    assert [job["created_by"] for job in await rest.get()] == ["olivia", None]


@pytest.mark.parametrize("value", [b"a\tb", b"t\xc3\xbc", b"\xff"])
@pytest.mark.parametrize(
    "name", ["X-User-Id", "X-Device-Id", "Authorization", "tracestate", "X-Request-Id"]
)
@pytest.mark.usefixtures("job")
async def test_header_that_metadata_cannot_carry_is_dropped_or_named(
    rest: RestClient, name: str, value: bytes
) -> None:
    await rest.send("DELETE", f"{JOBS}/a")  # so that the watch ends
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    large = {"document_type": "a", "document_params": {"text": "x" * 32_000}, "target_all": True}
    calls: list[tuple[str, str, Any, int]] = [
        ("GET", f"{JOBS}/a", None, 200),
        ("GET", f"{JOBS}/a:watch", None, 200),
        ("POST", JOBS, large, 201),
    ]
    for method, path, body, success in calls:
        headers: Any = {"X-Tenant-Id": rest.tenant, trace[0]: trace[1], name: value}
        response = await rest.http.request(method, path, json=body, headers=headers)
        if name in ("tracestate", "X-Request-Id"):
            assert response.status_code == success, response.text
            assert response.headers["traceparent"] == trace[1]
        else:
            detail = f"{name} must be printable ASCII"
            assert_error(response, 401, "UNAUTHENTICATED", "INVALID_METADATA", detail)


async def test_request_is_rejected_only_when_forwarded_headers_exceed_the_limit(
    rest: RestClient,
) -> None:
    """gRPC rejects metadata above its soft limit at random, with an error that blames the body."""
    for _ in range(20):
        response = await rest.send("GET", JOBS, headers=[("tracestate", "x" * 6_800)])
        assert response.status_code == 200, response.text

    for headers in ([("Authorization", "x" * 7_200)], [("tracestate", "")] * 200):
        trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        response = await rest.send("GET", JOBS, headers=[trace, *headers])
        detail = "The forwarded headers are too large; the limit is 7168 bytes in total"
        assert_error(response, 431, "INVALID_ARGUMENT", "HEADERS_TOO_LARGE", detail)


async def test_request_id_and_traceparent_are_returned(rest: RestClient) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = [("X-Request-Id", "abc-1"), ("traceparent", trace)]

    for path in (JOBS, f"{JOBS}/none", "/none", "/openapi.json"):
        response = await rest.send("GET", path, headers=headers)
        assert response.headers.get_list("x-request-id") == ["abc-1"]
        assert response.headers.get_list("traceparent") == [trace]


@pytest.mark.parametrize("sent", [[], ["a b"], ["x" * 129], ["one", "two"]])
async def test_request_id_is_generated_when_missing_or_malformed(
    rest: RestClient, sent: list[str]
) -> None:
    headers = [("X-Request-Id", value) for value in sent]

    response = await rest.send("GET", JOBS, headers=[*headers, ("traceparent", "nonsense")])

    (generated,) = response.headers.get_list("x-request-id")
    assert generated not in sent
    assert len(generated) > 20
    assert "traceparent" not in response.headers


async def test_response_contains_no_metadata_of_the_server(rest: RestClient) -> None:
    for path in (JOBS, f"{JOBS}/none"):
        response = await rest.send("GET", path, headers=[("TE", "trailers")])
        names = {name.lower() for name in response.headers}
        assert not [name for name in names if name.startswith("grpc")]
        assert names <= {
            "content-type", "content-length", "date", "x-request-id", "cache-control",
            "x-content-type-options", "transfer-encoding", "link", "x-next-page-token",
        }  # fmt: skip


async def test_device_is_told_when_to_poll_again(rest: RestClient) -> None:
    none = await rest.send_as_device("d00001", "POST", ":startNext")
    pending = await rest.send_as_device("d00001", "GET")

    assert (none.json()["execution"], pending.json()) == (None, [])
    seconds = float(none.json()["poll_after"].removesuffix("s"))
    assert seconds == float(none.headers["x-poll-after"])
    for response in (none, pending):
        assert 30 <= float(response.headers["x-poll-after"]) < 90
