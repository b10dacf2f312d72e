"""What is refused, with which status, and in what words."""

import asyncio
import gzip
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.support import TIMEOUT, Rest, assert_error, running
from tests.support.database import Database
from tests.support.server import Server

BAD = (400, "INVALID_ARGUMENT")
JOBS = "/customer/jobs"


async def test_the_services_own_errors(database: Database, rest: Rest) -> None:
    """The document's messages, with the design's status codes."""
    response = await rest.create(target_all=True)
    assert_error(response, 400, "FAILED_PRECONDITION", "TENANT_EMPTY", "No devices in tenant")
    response = await rest.create(target_group_id="none")
    assert_error(response, 400, "FAILED_PRECONDITION", "GROUP_EMPTY", "Group has no members")
    response = await rest.create(target_device_id="none")
    assert_error(response, 404, "NOT_FOUND", "DEVICE_NOT_FOUND", "Device not found")
    for method, path in (("GET", "/a"), ("DELETE", "/a"), ("GET", "/a/executions")):
        response = await rest.send(method, JOBS + path)
        assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND", "Job not found")

    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    response = await rest.create(job_id="a", target_all=True, expires_in_hours=1)
    assert_error(response, 409, "ALREADY_EXISTS", "JOB_ALREADY_EXISTS")
    await rest.send("DELETE", f"{JOBS}/a")
    response = await rest.send("DELETE", f"{JOBS}/a")
    expected = "Cannot cancel job in status CANCELED"
    assert_error(response, 400, "FAILED_PRECONDITION", "JOB_NOT_CANCELABLE", expected)


async def test_another_tenants_job_is_not_there(
    database: Database, rest: Rest, client: httpx.AsyncClient
) -> None:
    await database.add_devices(rest.tenant, 1)
    await rest.create(job_id="a", target_all=True)
    stranger = Rest(client, f"{rest.tenant}-stranger")

    for method, path in (("GET", "/a"), ("DELETE", "/a"), ("GET", "/a/executions")):
        response = await stranger.send(method, JOBS + path)
        assert_error(response, 404, "NOT_FOUND", "JOB_NOT_FOUND")
    assert await stranger.get() == []


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"document_type": "", "target_all": True}, ["document_type"]),
        ({"document_type": "x" * 101, "target_all": True}, ["document_type"]),
        ({"target_all": True, "expires_in_hours": 0}, ["expires_in_hours"]),
        ({"target_all": True, "expires_in_hours": 721}, ["expires_in_hours"]),
        ({"target_all": True, "job_id": "a/b"}, ["job_id"]),
        ({}, ["target"]),
        ({"target_all": False}, ["target"]),
        ({"target_device_id": None, "target_group_id": None, "target_all": None}, ["target"]),
        ({"target_device_id": ""}, ["target"]),
        ({"target_all": True, "document_params": {"a": "\0"}}, ["document_params.a"]),
    ],
)
async def test_the_service_names_the_fields_at_fault(
    rest: Rest, body: dict[str, Any], fields: list[str]
) -> None:
    error = assert_error(await rest.create(**body), *BAD, "INVALID_FIELD")

    assert [v["field"] for v in error["field_violations"]] == fields
    assert all(v["description"] for v in error["field_violations"])


@pytest.mark.parametrize(
    ("targets", "clash"),
    [
        ({"target_device_id": "a", "target_all": False}, ["target_device_id", "target_all"]),
        (
            {"target_device_id": "a", "target_group_id": "b"},
            ["target_device_id", "target_group_id"],
        ),
        ({"target_group_id": "", "target_all": True}, ["target_group_id", "target_all"]),
        (
            {"target_device_id": "a", "target_group_id": "b", "target_all": True},
            ["target_device_id", "target_group_id", "target_all"],
        ),
    ],
)
async def test_targets_that_clash_are_named(
    rest: Rest, targets: dict[str, Any], clash: list[str]
) -> None:
    error = assert_error(await rest.create(**targets), *BAD, "INVALID_FIELD")

    assert error["detail"].startswith(" and ".join(clash) + " must not be given together")
    assert [v["field"] for v in error["field_violations"]] == clash


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "ends too early"),
        (b"nonsense", "not JSON"),
        (b'{"document_type": reboot}', "not JSON"),
        (b"[]", "one JSON object"),
        (b"null", "one JSON object"),
        (b'"text"', "one JSON object"),
        (b'{"document_type": "a"} {}', "one JSON object"),
        (b'{"document_type": "a"}]', "one JSON object"),
    ],
)
async def test_a_body_that_can_not_be_read(rest: Rest, body: bytes, words: str) -> None:
    error = assert_error(await rest.send("POST", JOBS, body), *BAD, "MALFORMED_REQUEST")

    assert words in error["detail"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("document_type", "5", "invalid value for string: 5"),
        ("document_type", b'"\xff"', "invalid UTF-8"),
        ("document_type", r'"\ud800"', "unexpected"),
        ("expires_in_hours", '"soon"', "invalid value for int32"),
        ("expires_in_hours", "1.5", "invalid value for int32: 1.5"),
        ("expires_in_hours", "99999999999", "invalid value for int32"),
        ("target_all", '"yes"', "invalid value for bool"),
        ("document_params", "[]", "unexpected token ["),
        ("document_params", '{"a": 1e999}', "1e999"),
        ("document_params", '{"a": 1, "a": 2}', "duplicate"),
        ("document_params", '"' + "x" * 100_000 + '"', "unexpected token"),
    ],
)
async def test_values_of_the_wrong_type(
    rest: Rest, field: str, value: str | bytes, words: str
) -> None:
    raw = value if isinstance(value, bytes) else value.encode()
    response = await rest.send("POST", JOBS, b'{"job_id": "a", "%s": %s}' % (field.encode(), raw))

    error = assert_error(response, *BAD, "INVALID_FIELD")

    assert error["detail"].startswith(f"{field}: ")
    assert words in error["detail"]
    assert "proto:" not in error["detail"]
    assert len(error["detail"]) < 300
    assert error["field_violations"] == [{"field": field, "description": error["detail"]}]


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "detail"),
    [
        ("POST", "", b'{"tenant_id": "b"}', "tenant_id", 'unknown field "tenant_id"'),
        ("POST", "", b'{"documentType": "a"}', "documentType", 'unknown field "documentType"'),
        ("DELETE", "/a", b'{"why": "x"}', "why", 'unknown field "why"'),
        ("DELETE", "/a", b'{"job_id": "b"}', "job_id", 'unknown field "job_id"'),
        (
            "POST",
            "",
            b'{"job_id": "a", "job_id": "b"}',
            "job_id",
            "job_id was given more than once",
        ),
    ],
)
async def test_fields_that_are_unknown_or_repeated(
    rest: Rest, method: str, path: str, body: bytes, field: str, detail: str
) -> None:
    error = assert_error(await rest.send(method, JOBS + path, body), *BAD, "INVALID_FIELD", detail)

    assert error["field_violations"] == [{"field": field, "description": detail}]


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("status=DONE", "status", "it must be one of IN_PROGRESS, COMPLETED, CANCELED"),
        ("status=in_progress", "status", "it must be one of"),
        ("status=1", "status", "it must be one of"),
        ("limit=0", "limit", "from 1 to 200"),
        ("limit=201", "limit", "from 1 to 200"),
        ("limit=many", "limit", "whole number"),
        ("limit=1.5", "limit", "whole number"),
        ("limit=99999999999", "limit", "whole number"),
        ("limit=1&limit=2", "limit", "more than once"),
        ("offset=-1", "offset", "0 or more"),
        ("stauts=COMPLETED", "stauts", "unknown parameter"),
        ("pageToken=a", "pageToken", "unknown parameter"),
    ],
)
async def test_a_query_that_is_wrong(rest: Rest, query: str, field: str, words: str) -> None:
    error = assert_error(await rest.send("GET", f"{JOBS}?{query}"), *BAD, "INVALID_FIELD")

    (violation,) = error["field_violations"]
    assert violation["field"] == field
    assert words in violation["description"]


async def test_calls_without_parameters_take_none(database: Database, rest: Rest) -> None:
    """A dry_run that is passed over would be a job that is canceled."""
    await database.add_devices(rest.tenant, 1)
    response = await rest.send("POST", f"{JOBS}?dry_run=true", {"target_all": True})
    assert_error(response, *BAD, "INVALID_FIELD", 'unknown parameter "dry_run"')
    await rest.create(job_id="a", target_all=True)
    for query, name in (
        ("dry_run=true", "dry_run"),
        ("reason=x", "reason"),
        ("job_id=b", "job_id"),
    ):
        response = await rest.send("DELETE", f"{JOBS}/a?{query}")
        assert_error(response, *BAD, "INVALID_FIELD", f'unknown parameter "{name}"')
    assert [job["status"] for job in await rest.get()] == ["IN_PROGRESS"]


async def test_what_is_quoted_of_a_request_is_cut(rest: Rest) -> None:
    """The largest body there may be must not come back, three times over."""
    long = "x" * 20_000
    for method, path, body in (
        ("POST", "", b'{"%s": 1}' % long.encode()),
        ("GET", f"?{long}=1", None),
        ("GET", f"?status={long}", None),
    ):
        response = await rest.send(method, JOBS + path, body)
        error = assert_error(response, *BAD, "INVALID_FIELD")
        assert "xxx…" in error["detail"]
        assert len(response.text) < 1_500


async def test_page_tokens_and_encodings_that_are_wrong(rest: Rest) -> None:
    response = await rest.send("GET", f"{JOBS}?page_token=x")
    assert_error(response, *BAD, "INVALID_PAGE_TOKEN")
    response = await rest.send("GET", f"{JOBS}?page_token=%ff")
    assert_error(response, *BAD, "INVALID_FIELD", "page_token is not UTF-8")
    for path in (f"{JOBS}?limit=%zz", f"{JOBS}/%ff"):
        assert_error(await rest.send("GET", path), *BAD, "MALFORMED_REQUEST")
    assert_error(await rest.send("GET", f"{JOBS}/%20"), *BAD, "INVALID_FIELD")


async def test_only_json_is_taken(rest: Rest, client: httpx.AsyncClient) -> None:
    headers = {"X-Tenant-Id": rest.tenant, "Content-Type": "application/x-www-form-urlencoded"}

    response = await client.post(JOBS, content=b"document_type=a", headers=headers)

    assert_error(response, 415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE")


async def test_a_compressed_body_is_not_taken(rest: Rest) -> None:
    body = gzip.compress(b'{"document_type": "a"}')
    response = await rest.send("POST", JOBS, body, headers=[("Content-Encoding", "gzip")])
    detail = "The body must not be compressed: send it without Content-Encoding"
    assert_error(response, 415, "INVALID_ARGUMENT", "UNSUPPORTED_MEDIA_TYPE", detail)

    plain = [("Content-Encoding", "identity")]
    response = await rest.send("POST", JOBS, b'{"document_type": "a"}', headers=plain)
    assert_error(response, *BAD, "INVALID_FIELD")


async def test_a_body_that_comes_too_slowly(
    gateway_binary: Path, server: Server, rest: Rest
) -> None:
    head = f"POST {JOBS} HTTP/1.1\r\nHost: x\r\nX-Tenant-Id: {rest.tenant}\r\nContent-Length: 9"
    async with running(gateway_binary, server.address, TIMEOUT="0.3") as gateway:
        url = httpx.URL(gateway.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"{head}\r\n\r\n{{".encode())
        async with asyncio.timeout(TIMEOUT):
            answer = (await reader.read()).decode()
        writer.close()
    assert answer.startswith("HTTP/1.1 408 ")
    assert '"reason":"BODY_TOO_SLOW"' in answer


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_huge_body_is_not_taken(rest: Rest, chunked: bool) -> None:
    async def chunks() -> Any:
        for _ in range(5):
            yield b" " * 300_000

    content = chunks() if chunked else b" " * 1_500_000
    headers = [("Content-Type", "application/json")]

    response = await rest.send("POST", JOBS, headers=headers, content=content)

    detail = "The body is too large; at most 1048576 bytes are taken"
    assert_error(response, 413, "INVALID_ARGUMENT", "BODY_TOO_LARGE", detail)


async def test_a_document_that_is_too_large_for_the_service(rest: Rest) -> None:
    response = await rest.create(target_all=True, document_params={"a": "x" * 40_000})
    assert_error(response, *BAD, "INVALID_FIELD")


async def test_a_body_that_grows_over_the_services_limit(rest: Rest) -> None:
    """500,000 numbers are 1 MB of JSON and over 4 MiB of protobuf."""
    body = b'{"document_params": {"a": [%s1]}}' % (b"1," * 500_000)
    response = await rest.send("POST", JOBS, body)
    assert_error(response, 413, "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", JOBS, "GET, POST"),
        ("DELETE", JOBS, "GET, POST"),
        ("OPTIONS", JOBS, "GET, POST"),
        ("POST", f"{JOBS}/a", "DELETE, GET"),
        ("PATCH", f"{JOBS}/a", "DELETE, GET"),
        ("POST", f"{JOBS}/a/executions", "GET"),
        ("POST", f"{JOBS}/a:stop", "DELETE, GET"),
        ("PUT", f"{JOBS}/a:retry", "DELETE, GET, POST"),
        ("GET", f"{JOBS}/a/executions/d1", "DELETE"),
        ("DELETE", f"{JOBS}/a/executions/d1/attempts", "GET"),
        ("POST", "/customer/devices/d1/executions", "GET"),
        ("POST", "/device/v1/jobs", "GET"),
        ("GET", "/device/v1/jobs:startNext", "POST"),
        ("POST", "/device/v1/jobs/a", "GET, PATCH"),
        ("PUT", "/device/v1/jobs/a:start", "GET, PATCH, POST"),
        ("POST", "/healthz", "GET"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
async def test_other_verbs_are_405_with_allow(
    rest: Rest, method: str, path: str, allow: str
) -> None:
    response = await rest.send(method, path)

    assert_error(response, 405, "UNIMPLEMENTED", "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    ["/", "/customer", f"{JOBS}/", f"/{JOBS}", f"{JOBS}/a/", f"{JOBS}/a/b", f"{JOBS}/a%2Fb",
     f"{JOBS}/a%2Fexecutions", "/customer%2fjobs",
     f"{JOBS}/a/executions/d1/", f"{JOBS}/a%2Fb:retry", f"{JOBS}/a/executions/",
     "/customer/devices", "/customer/devices/d1", "/device/v1", "/device/v1/jobs/a/executions",
     "/fleet.jobs.v1.JobService/ListJobs", "/metrics",
     "/docs/none", "/debug/pprof"],
)  # fmt: skip
async def test_other_paths_are_404(rest: Rest, path: str) -> None:
    assert_error(await rest.send("GET", path), 404, "NOT_FOUND", "ROUTE_NOT_FOUND")


async def test_an_answer_never_shows_the_backends_address(gateway_binary: Any, rest: Rest) -> None:
    """Nobody listens there: gRPC's own message would name the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        upstream = f"127.0.0.1:{taken.getsockname()[1]}"
        async with (
            running(gateway_binary, upstream) as gateway,
            httpx.AsyncClient(base_url=gateway.url, timeout=TIMEOUT) as client,
        ):
            for path in (JOBS, "/healthz"):
                response = await Rest(client, rest.tenant).send("GET", path)
                detail = "The service is unavailable; retry later"
                assert_error(response, 503, "UNAVAILABLE", "SERVICE_UNAVAILABLE", detail)
                assert "127.0.0.1" not in response.text + str(response.headers)
            # The log is for operators: it has the cause, under the request's id.
            failed = await gateway.logged("call failed")
            assert upstream in failed["error"]


async def test_a_defect_of_the_service_has_a_fixed_text(rest: Rest, database: Database) -> None:
    await database.owner.execute("ALTER FUNCTION jobs.list_jobs RENAME TO list_jobs_away")
    try:
        response = await rest.send("GET", JOBS)
    finally:
        await database.owner.execute("ALTER FUNCTION jobs.list_jobs_away RENAME TO list_jobs")
    assert_error(response, 500, "INTERNAL", "INTERNAL", "Internal error")


@pytest.mark.parametrize("depth", [100, 3_000, 20_000, 200_000])
async def test_a_document_that_is_nested_too_deeply(rest: Rest, depth: int) -> None:
    nested = b'{"document_type": "a", "target_all": true, "document_params": %s}' % (
        b'{"a":' * depth + b"1" + b"}" * depth
    )

    response = await rest.send("POST", JOBS, nested)

    assert response.status_code == (400 if depth < 150_000 else 413), response.text
