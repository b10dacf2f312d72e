"""JOBS_AUTH=jwt: which tokens are taken, for whom, and for how long."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as pb
from grpc import StatusCode

from tests.support.database import Database
from tests.support.failures import expect_failure
from tests.support.identities import (
    AUDIENCE,
    ISSUER,
    claims,
    confused,
    jwks,
    new_key,
    pem,
    token,
    unsigned,
)
from tests.support.server import Server, running_server
from tests.support.waiting import TIMEOUT

KEY = new_key()
JWT = {"JOBS_AUTH": "jwt", "JOBS_JWT_ISSUER": ISSUER, "JOBS_JWT_AUDIENCE": AUDIENCE}
SECRET = "hunter2"


@pytest.fixture(scope="module")
async def jwt(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """A server that takes tokens of KEY."""
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(jwks(KEY))
    async with running_server(database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT) as server:
        yield server


async def test_a_token_says_who_calls(database: Database, jwt: Server, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    caller = jwt.bearer(token(KEY, claims(tenant, "admin", "someone-elses-role")))

    await caller.create(job_id="j", target_all=True)

    job = await caller.get("j")
    assert (job.tenant_id, job.created_by) == (tenant, "olivia")
    # What it says may be repeated.
    same = (("x-tenant-id", tenant), ("x-user-id", "olivia"))
    assert await jwt.bearer(token(KEY, claims(tenant, "viewer")), *same).get("j") == job


async def test_a_call_without_a_token_is_refused(jwt: Server, tenant: str) -> None:
    stated = (("x-tenant-id", tenant), ("x-roles", "admin"))
    for caller in (
        jwt.operator(tenant),
        jwt.caller(*stated),
        jwt.caller(*stated, ("authorization", "")),
        jwt.caller(*stated, ("authorization", "Bearer")),
        jwt.caller(*stated, ("authorization", f"Basic {token(KEY, claims(tenant, 'admin'))}")),
    ):
        with expect_failure(StatusCode.UNAUTHENTICATED, "TOKEN_REQUIRED"):
            await caller.list()


def refused(tenant: str) -> dict[str, tuple[str, str]]:
    """Tokens, each with one thing wrong, and what is said of it."""
    good, now = claims(tenant, "admin"), int(time.time())
    other = new_key()
    signed = token(KEY, good)
    header, payload, signature = signed.split(".")
    return {
        "garbage": ("garbage", "is malformed"),
        "two parts": (f"{header}.{payload}", "is malformed"),
        "not json": (f"{header}.AAAA.{signature}", "has a wrong signature"),
        "five parts": ("a.b.c.d.e", "is malformed"),
        "not ascii": ("%FF", "is malformed"),
        "an altered payload": (
            f"{header}.{token(KEY, good | {'tenant_id': 'x'}).split('.')[1]}.{signature}",
            "has a wrong signature",
        ),
        "expired": (token(KEY, good | {"exp": now - 31}), "has expired"),
        "not valid yet": (token(KEY, good | {"nbf": now + 60}), "is not valid yet"),
        "of the future": (token(KEY, good | {"iat": now + 60}), "is of the future"),
        "for ever": (token(KEY, claims(tenant, "admin", exp=None)), "lacks the claim exp"),
        "a text as exp": (token(KEY, good | {"exp": "9999999999"}), "has a wrong exp"),
        "another issuer": (token(KEY, good | {"iss": "https://evil"}), "is of another issuer"),
        "no issuer": (token(KEY, claims(tenant, "admin", iss=None)), "lacks the claim iss"),
        "another audience": (token(KEY, good | {"aud": "mail"}), "is for another audience"),
        "other audiences": (token(KEY, good | {"aud": ["mail"]}), "is for another audience"),
        "no audience": (token(KEY, claims(tenant, "admin", aud=None)), "lacks the claim aud"),
        "alg none": (unsigned(good), "is signed with an algorithm that is not taken"),
        "HS256 with the public key": (
            confused(KEY, good),
            "is signed with an algorithm that is not taken",
        ),
        "an algorithm that is not pinned": (
            token(new_key("ES256"), good, "ES256"),
            "is signed with an algorithm that is not taken",
        ),
        "an unknown kid": (token(KEY, good, kid="k2"), "is signed with an unknown key"),
        "no kid, and another key": (
            token(new_key(key_id=None), good),
            "has a wrong signature",
        ),
        "another key by the known name": (token(other, good), "has a wrong signature"),
        "a critical header": (token(KEY, good, crit=["exp"]), "is malformed"),
        "a critical header that is known": (
            token(KEY, good, crit=["typ"], typ="JWT"),
            "is malformed",
        ),
        "no critical header": (token(KEY, good, crit=[]), "is malformed"),
        "a critical header that is no list": (token(KEY, good, crit=1), "is malformed"),
        "a logout token": (token(KEY, good, typ="logout+jwt"), "is of another type"),
        "a security event": (token(KEY, good, typ="secevent+jwt"), "is of another type"),
        "a proof": (token(KEY, good, typ="dpop+jwt"), "is of another type"),
        "an empty type": (token(KEY, good, typ=""), "is of another type"),
        "a type that is no text": (token(KEY, good, typ=["JWT"]), "is malformed"),
        "a type that is null": (token(KEY, good, typ=None), "is malformed"),
        "a kid that is no text": (token(KEY, good, kid=["k1"]), "is malformed"),
        "no tenant": (
            token(KEY, claims(tenant, "admin", tenant_id=None)),
            "lacks a tenant in the claim tenant_id",
        ),
        "a number as tenant": (
            token(KEY, good | {"tenant_id": 7}),
            "lacks a tenant in the claim tenant_id",
        ),
        "an empty tenant": (
            token(KEY, good | {"tenant_id": ""}),
            "lacks a tenant in the claim tenant_id",
        ),
        "a subject with a line break": (token(KEY, good | {"sub": "a\nb"}), "has a wrong sub"),
        "a list": (token(KEY, [1]), "is malformed"),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("what", sorted(refused("t")))
async def test_a_token_that_is_not_good_is_refused(
    jwt: Server, tenant: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    text, said = refused(tenant)[what]

    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
        await jwt.bearer(text).list()

    assert failure.message == f"The token {said}"
    assert text not in caplog.text


@pytest.mark.parametrize(
    "kind", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT"]
)
async def test_an_access_token_may_say_that_it_is_one(jwt: Server, tenant: str, kind: str) -> None:
    text = token(KEY, claims(tenant, "viewer"), typ=kind)

    assert not (await jwt.bearer(text).list()).jobs


async def test_clocks_may_differ_a_little(jwt: Server, tenant: str) -> None:
    now = int(time.time())
    said = claims(tenant, "viewer", exp=now - 20, nbf=now + 20, iat=now + 20)

    assert not (await jwt.bearer(token(KEY, said)).list()).jobs


async def test_an_exp_of_any_size_is_taken(jwt: Server, tenant: str) -> None:
    said = claims(tenant, "viewer", exp=10**400)

    assert not (await jwt.bearer(token(KEY, said)).list()).jobs


async def test_two_tokens_are_refused(jwt: Server, tenant: str) -> None:
    text = f"Bearer {token(KEY, claims(tenant, 'viewer'))}"

    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await jwt.caller(("authorization", text), ("authorization", text)).list()


@pytest.mark.parametrize("key", ["x-tenant-id", "x-user-id", "x-device-id"])
async def test_what_is_stated_beside_a_token_must_agree_with_it(
    jwt: Server, tenant: str, key: str
) -> None:
    text = token(KEY, claims(tenant, "viewer", "device", device_id="d"))

    # Twice: the second time the token is known.
    for _ in range(2):
        with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH") as failure:
            await jwt.bearer(text, (key, "other")).list()
        assert failure.metadata == {"key": key}


async def test_roles_are_the_tokens_not_what_is_stated(jwt: Server, tenant: str) -> None:
    text = token(KEY, claims(tenant, "viewer"))

    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(text, ("x-roles", "admin")).delete("j")
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(token(KEY, claims(tenant))).list()


def device_call(server: Server, text: str, *stated: tuple[str, str]) -> Any:
    """Ask what there is to do."""
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    metadata = (("authorization", f"Bearer {text}"), *stated)
    request = device_pb.ListPendingExecutionsRequest()
    return stub.ListPendingExecutions(request, metadata=metadata, timeout=TIMEOUT)


async def test_a_device_is_whom_its_token_says(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["mine", "theirs"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    text = token(KEY, claims(tenant, "device", device_id="mine"))

    [execution] = (await device_call(jwt, text)).executions
    assert execution.device_id == "mine"
    with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH"):
        await device_call(jwt, text, ("x-device-id", "theirs"))
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(text).list()
    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await device_call(jwt, token(KEY, claims(tenant, "device")))
    with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH"):
        await device_call(jwt, token(KEY, claims(tenant, "device")), ("x-device-id", "mine"))


async def test_a_device_reports_for_itself_only_and_a_bridge_for_all(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["mine", "theirs"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(jwt.channel)

    async def report(device: str, text: str) -> device_pb.ReportExecutionsResponse:
        update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
        request = device_pb.ReportExecutionsRequest(device_id=device, report=update)
        metadata = (("authorization", f"Bearer {text}"),)
        call = stub.ReportExecutions(iter([request]), metadata=metadata, timeout=TIMEOUT)
        [answer] = [answer async for answer in call]
        assert isinstance(answer, device_pb.ReportExecutionsResponse)
        return answer

    device = token(KEY, claims(tenant, "device", device_id="mine"))
    assert (
        await report("theirs", device)
    ).error.message == "device_id must be empty or the calling device"
    bridge = token(KEY, claims(tenant, "bridge", device_id=None))
    assert (await report("theirs", bridge)).execution.status == pb.JobExecution.SUCCEEDED


async def test_a_bridge_acts_for_the_device_it_states(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    text = token(KEY, claims(tenant, "bridge"))

    for device, count in (("d", 1), ("other", 0)):
        pending = (await device_call(jwt, text, ("x-device-id", device))).executions
        assert len(pending) == count


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_each_algorithm_and_a_pem_file(
    database: Database, tenant: str, tmp_path: Path, algorithm: str
) -> None:
    key = new_key(algorithm, None)
    path = tmp_path / "key.pem"
    path.write_bytes(pem(key))
    variables = JWT | {"JOBS_JWT_KEYS": str(path), "JOBS_JWT_ALGORITHMS": algorithm}
    async with running_server(database.request_dsn, **variables) as server:
        said = claims(tenant, "viewer", aud=["mail", AUDIENCE])

        for headers in ({}, {"kid": "any"}):
            await server.bearer(token(key, said, algorithm, **headers)).list()
        if algorithm == "EdDSA":  # as RFC 9864 calls it
            await server.bearer(token(key, said, "Ed25519")).list()
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN"):
            await server.bearer(token(new_key(algorithm), said, algorithm)).list()


async def test_claims_may_be_called_otherwise_and_lie_deeper(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(KEY))
    names = {
        "JOBS_JWT_TENANT_CLAIM": "https://acme.example/tenant",
        "JOBS_JWT_ROLES_CLAIM": "realm_access.roles",
        "JOBS_JWT_SUBJECT_CLAIM": "email",
    }
    async with running_server(
        database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT, **names
    ) as server:
        said = claims("wrong") | {
            "https://acme.example/tenant": tenant,
            "realm_access": {"roles": ["offline_access", "operator"]},
            "email": "olivia@acme.example",
        }
        await database.add_devices(tenant, 1)
        caller = server.bearer(token(KEY, said))
        await caller.create(job_id="j", target_all=True)
        assert (await caller.get("j")).created_by == "olivia@acme.example"


async def test_roles_may_be_a_text_with_spaces(jwt: Server, tenant: str) -> None:
    said = claims(tenant) | {"roles": "openid viewer"}

    assert not (await jwt.bearer(token(KEY, said)).list()).jobs


@pytest.mark.parametrize("roles", [7, {"admin": True}, [["admin"]], "administrator", None])
async def test_roles_that_are_none_are_none(jwt: Server, tenant: str, roles: Any) -> None:
    said = claims(tenant) | {"roles": roles}

    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(token(KEY, said)).list()


async def test_a_stream_ends_when_its_token_expires(
    database: Database, tenant: str, tmp_path: Path
) -> None:
    await database.add_devices(tenant, ["d"])
    path = tmp_path / "jwks.json"
    path.write_text(jwks(KEY))
    variables = JWT | {"JOBS_JWT_KEYS": str(path), "JOBS_JWT_LEEWAY": "0"}
    async with running_server(database.request_dsn, **variables) as server:
        await server.bearer(token(KEY, claims(tenant, "operator"))).create(
            job_id="j", target_all=True
        )
        said = claims(tenant, "viewer", "device", device_id="d", exp=int(time.time()) + 2)
        caller = server.bearer(token(KEY, said))
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)

        async def watch_job() -> None:
            watch: Any = caller.stub.WatchJob(
                pb.WatchJobRequest(job_id="j"), metadata=caller.metadata, timeout=TIMEOUT
            )
            async for answer in watch:
                assert answer.job.job_id == "j"

        async def watch_pending() -> None:
            request = device_pb.WatchPendingExecutionsRequest()
            watch = stub.WatchPendingExecutions(request, metadata=caller.metadata, timeout=TIMEOUT)
            async for answer in watch:
                assert len(answer.executions) == 1

        async def report() -> None:
            call = stub.ReportExecutions(metadata=caller.metadata, timeout=TIMEOUT)
            update = device_pb.UpdateExecutionRequest(
                job_id="j", status=pb.JobExecution.IN_PROGRESS
            )
            await call.write(device_pb.ReportExecutionsRequest(report=update))
            assert (await call.read()).execution.device_id == "d"
            await call.read()

        async def ends(stream: Any) -> None:
            with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
                await stream()
            assert failure.message == "The token has expired"
            assert time.time() >= said["exp"]

        await asyncio.gather(*map(ends, (watch_job, watch_pending, report)))
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN"):
            await caller.list()


async def test_documents_and_tokens_are_not_logged(
    database: Database, jwt: Server, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await database.add_devices(tenant, 1)
    text = token(KEY, claims(tenant, "admin"))
    await jwt.bearer(text).create(target_all=True, document_params={"password": SECRET})
    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN"):
        await jwt.bearer(text + "x").list()

    logged = caplog.text + json.dumps([vars(r) for r in caplog.records], default=str)
    assert SECRET not in logged
    for part in text.split("."):
        assert part not in logged
