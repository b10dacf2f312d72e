"""JOBS_AUTH=jwt: which tokens are accepted, which caller they identify, and until when."""

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
    hs256_token,
    jwks,
    new_key,
    pem,
    token,
    unsigned_token,
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
    """A server that verifies tokens with KEY."""
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_text(jwks(KEY))
    async with running_server(database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT) as server:
        yield server


async def test_token_identifies_the_caller(database: Database, jwt: Server, tenant: str) -> None:
    await database.add_devices(tenant, 1)
    caller = jwt.bearer(token(KEY, claims(tenant, "admin", "role-of-another-service")))

    await caller.create(job_id="j", target_all=True)

    job = await caller.get("j")
    assert (job.tenant_id, job.created_by) == (tenant, "olivia")
    # Metadata may repeat the claims.
    consistent = (("x-tenant-id", tenant), ("x-user-id", "olivia"))
    assert await jwt.bearer(token(KEY, claims(tenant, "viewer")), *consistent).get("j") == job


async def test_call_is_rejected_without_a_bearer_token(jwt: Server, tenant: str) -> None:
    metadata = (("x-tenant-id", tenant), ("x-roles", "admin"))
    for caller in (
        jwt.operator(tenant),
        jwt.caller(*metadata),
        jwt.caller(*metadata, ("authorization", "")),
        jwt.caller(*metadata, ("authorization", "Bearer")),
        jwt.caller(*metadata, ("authorization", f"Basic {token(KEY, claims(tenant, 'admin'))}")),
    ):
        with expect_failure(StatusCode.UNAUTHENTICATED, "TOKEN_REQUIRED"):
            await caller.list()


def invalid_tokens(tenant: str) -> dict[str, tuple[str, str]]:
    """Tokens with one defect each, and the message for it."""
    valid, now = claims(tenant, "admin"), int(time.time())
    other_key = new_key()
    signed = token(KEY, valid)
    header, payload, signature = signed.split(".")
    return {
        "garbage": ("garbage", "is malformed"),
        "two parts": (f"{header}.{payload}", "is malformed"),
        "not JSON": (f"{header}.AAAA.{signature}", "has an invalid signature"),
        "five parts": ("a.b.c.d.e", "is malformed"),
        "not ASCII": ("%FF", "is malformed"),
        "altered payload": (
            f"{header}.{token(KEY, valid | {'tenant_id': 'x'}).split('.')[1]}.{signature}",
            "has an invalid signature",
        ),
        "expired": (token(KEY, valid | {"exp": now - 31}), "has expired"),
        "not valid yet": (token(KEY, valid | {"nbf": now + 60}), "is not valid yet"),
        "issued in the future": (
            token(KEY, valid | {"iat": now + 60}),
            "was issued in the future",
        ),
        "no exp": (token(KEY, claims(tenant, "admin", exp=None)), "has no claim exp"),
        "text as exp": (
            token(KEY, valid | {"exp": "9999999999"}),
            "has an invalid claim exp",
        ),
        "another issuer": (token(KEY, valid | {"iss": "https://evil"}), "is from another issuer"),
        "no issuer": (token(KEY, claims(tenant, "admin", iss=None)), "has no claim iss"),
        "another audience": (token(KEY, valid | {"aud": "mail"}), "is for another audience"),
        "other audiences": (token(KEY, valid | {"aud": ["mail"]}), "is for another audience"),
        "no audience": (token(KEY, claims(tenant, "admin", aud=None)), "has no claim aud"),
        "alg none": (unsigned_token(valid), "is signed with an algorithm that is not accepted"),
        "HS256 with the public key": (
            hs256_token(KEY, valid),
            "is signed with an algorithm that is not accepted",
        ),
        "algorithm that is not pinned": (
            token(new_key("ES256"), valid, "ES256"),
            "is signed with an algorithm that is not accepted",
        ),
        "unknown kid": (token(KEY, valid, kid="k2"), "is signed with an unknown key"),
        "another key without a kid": (
            token(new_key(key_id=None), valid),
            "has an invalid signature",
        ),
        "another key with the known kid": (token(other_key, valid), "has an invalid signature"),
        "critical header": (token(KEY, valid, crit=["exp"]), "is malformed"),
        "known critical header": (
            token(KEY, valid, crit=["typ"], typ="JWT"),
            "is malformed",
        ),
        "empty list of critical headers": (token(KEY, valid, crit=[]), "is malformed"),
        "crit that is not a list": (token(KEY, valid, crit=1), "is malformed"),
        "logout token": (token(KEY, valid, typ="logout+jwt"), "is not an access token"),
        "security event": (token(KEY, valid, typ="secevent+jwt"), "is not an access token"),
        "DPoP proof": (token(KEY, valid, typ="dpop+jwt"), "is not an access token"),
        "empty typ": (token(KEY, valid, typ=""), "is not an access token"),
        "typ that is not a text": (token(KEY, valid, typ=["JWT"]), "is malformed"),
        "typ that is null": (token(KEY, valid, typ=None), "is malformed"),
        "kid that is not a text": (token(KEY, valid, kid=["k1"]), "is malformed"),
        "no tenant": (
            token(KEY, claims(tenant, "admin", tenant_id=None)),
            "has no valid tenant in the claim tenant_id",
        ),
        "number as tenant": (
            token(KEY, valid | {"tenant_id": 7}),
            "has no valid tenant in the claim tenant_id",
        ),
        "empty tenant": (
            token(KEY, valid | {"tenant_id": ""}),
            "has no valid tenant in the claim tenant_id",
        ),
        "subject with a line break": (
            token(KEY, valid | {"sub": "a\nb"}),
            "has an invalid claim sub",
        ),
        "list as payload": (token(KEY, [1]), "is malformed"),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("defect", sorted(invalid_tokens("t")))
async def test_invalid_token_is_rejected(
    jwt: Server, tenant: str, defect: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    text, problem = invalid_tokens(tenant)[defect]

    with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
        await jwt.bearer(text).list()

    assert failure.message == f"The token {problem}"
    assert text not in caplog.text


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT"]
)
async def test_token_is_accepted_when_typ_is_an_access_token(
    jwt: Server, tenant: str, typ: str
) -> None:
    text = token(KEY, claims(tenant, "viewer"), typ=typ)

    assert not (await jwt.bearer(text).list()).jobs


async def test_token_times_tolerate_the_leeway(jwt: Server, tenant: str) -> None:
    now = int(time.time())
    payload = claims(tenant, "viewer", exp=now - 20, nbf=now + 20, iat=now + 20)

    assert not (await jwt.bearer(token(KEY, payload)).list()).jobs


async def test_token_is_accepted_when_exp_is_huge(jwt: Server, tenant: str) -> None:
    payload = claims(tenant, "viewer", exp=10**400)

    assert not (await jwt.bearer(token(KEY, payload)).list()).jobs


async def test_call_is_rejected_when_it_has_two_tokens(jwt: Server, tenant: str) -> None:
    text = f"Bearer {token(KEY, claims(tenant, 'viewer'))}"

    with expect_failure(StatusCode.UNAUTHENTICATED, "DUPLICATE_METADATA"):
        await jwt.caller(("authorization", text), ("authorization", text)).list()


@pytest.mark.parametrize("key", ["x-tenant-id", "x-user-id", "x-device-id"])
async def test_call_is_rejected_when_metadata_contradicts_the_token(
    jwt: Server, tenant: str, key: str
) -> None:
    text = token(KEY, claims(tenant, "viewer", "device", device_id="d"))

    # The second call finds the token in the cache.
    for _ in range(2):
        with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH") as failure:
            await jwt.bearer(text, (key, "other")).list()
        assert failure.metadata == {"key": key}


async def test_roles_come_from_the_token_when_x_roles_is_sent(jwt: Server, tenant: str) -> None:
    text = token(KEY, claims(tenant, "viewer"))

    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(text, ("x-roles", "admin")).delete("j")
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(token(KEY, claims(tenant))).list()


def list_pending(server: Server, text: str, *metadata: tuple[str, str]) -> Any:
    """Call ListPendingExecutions with a token."""
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)
    authorization = ("authorization", f"Bearer {text}")
    request = device_pb.ListPendingExecutionsRequest()
    return stub.ListPendingExecutions(request, metadata=(authorization, *metadata), timeout=TIMEOUT)


async def test_device_comes_from_the_token(database: Database, jwt: Server, tenant: str) -> None:
    await database.add_devices(tenant, ["own", "other"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    text = token(KEY, claims(tenant, "device", device_id="own"))

    [execution] = (await list_pending(jwt, text)).executions
    assert execution.device_id == "own"
    with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH"):
        await list_pending(jwt, text, ("x-device-id", "other"))
    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(text).list()
    with expect_failure(StatusCode.UNAUTHENTICATED, "DEVICE_REQUIRED"):
        await list_pending(jwt, token(KEY, claims(tenant, "device")))
    with expect_failure(StatusCode.PERMISSION_DENIED, "METADATA_MISMATCH"):
        await list_pending(jwt, token(KEY, claims(tenant, "device")), ("x-device-id", "own"))


async def test_device_reports_only_for_itself_and_bridge_for_any_device(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["own", "other"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(jwt.channel)

    async def report(device: str, text: str) -> device_pb.ReportExecutionsResponse:
        update = device_pb.UpdateExecutionRequest(job_id="j", status=pb.JobExecution.SUCCEEDED)
        request = device_pb.ReportExecutionsRequest(device_id=device, report=update)
        metadata = (("authorization", f"Bearer {text}"),)
        call = stub.ReportExecutions(iter([request]), metadata=metadata, timeout=TIMEOUT)
        [response] = [response async for response in call]
        assert isinstance(response, device_pb.ReportExecutionsResponse)
        return response

    device = token(KEY, claims(tenant, "device", device_id="own"))
    assert (
        await report("other", device)
    ).error.message == "device_id must be empty or the calling device"
    bridge = token(KEY, claims(tenant, "bridge", device_id=None))
    assert (await report("other", bridge)).execution.status == pb.JobExecution.SUCCEEDED


async def test_bridge_acts_for_the_device_in_x_device_id(
    database: Database, jwt: Server, tenant: str
) -> None:
    await database.add_devices(tenant, ["d"])
    await jwt.bearer(token(KEY, claims(tenant, "operator"))).create(job_id="j", target_all=True)
    text = token(KEY, claims(tenant, "bridge"))

    for device, count in (("d", 1), ("other", 0)):
        pending = (await list_pending(jwt, text, ("x-device-id", device))).executions
        assert len(pending) == count


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_token_is_verified_with_each_algorithm_and_a_pem_file(
    database: Database, tenant: str, tmp_path: Path, algorithm: str
) -> None:
    key = new_key(algorithm, None)
    path = tmp_path / "key.pem"
    path.write_bytes(pem(key))
    variables = JWT | {"JOBS_JWT_KEYS": str(path), "JOBS_JWT_ALGORITHMS": algorithm}
    async with running_server(database.request_dsn, **variables) as server:
        payload = claims(tenant, "viewer", aud=["mail", AUDIENCE])

        for headers in ({}, {"kid": "any"}):
            await server.bearer(token(key, payload, algorithm, **headers)).list()
        if algorithm == "EdDSA":  # the name in RFC 9864
            await server.bearer(token(key, payload, "Ed25519")).list()
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN"):
            await server.bearer(token(new_key(algorithm), payload, algorithm)).list()


async def test_claims_are_read_from_configured_names_and_paths(
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
        payload = claims("wrong") | {
            "https://acme.example/tenant": tenant,
            "realm_access": {"roles": ["offline_access", "operator"]},
            "email": "olivia@acme.example",
        }
        await database.add_devices(tenant, 1)
        caller = server.bearer(token(KEY, payload))
        await caller.create(job_id="j", target_all=True)
        assert (await caller.get("j")).created_by == "olivia@acme.example"


async def test_roles_claim_may_be_a_space_separated_text(jwt: Server, tenant: str) -> None:
    payload = claims(tenant) | {"roles": "openid viewer"}

    assert not (await jwt.bearer(token(KEY, payload)).list()).jobs


@pytest.mark.parametrize("roles", [7, {"admin": True}, [["admin"]], "administrator", None])
async def test_caller_has_no_role_when_roles_claim_has_none(
    jwt: Server, tenant: str, roles: Any
) -> None:
    payload = claims(tenant) | {"roles": roles}

    with expect_failure(StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await jwt.bearer(token(KEY, payload)).list()


async def test_stream_ends_when_its_token_expires(
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
        payload = claims(tenant, "viewer", "device", device_id="d", exp=int(time.time()) + 2)
        caller = server.bearer(token(KEY, payload))
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(server.channel)

        async def watch_job() -> None:
            watch: Any = caller.stub.WatchJob(
                pb.WatchJobRequest(job_id="j"), metadata=caller.metadata, timeout=TIMEOUT
            )
            async for response in watch:
                assert response.job.job_id == "j"

        async def watch_pending() -> None:
            request = device_pb.WatchPendingExecutionsRequest()
            watch = stub.WatchPendingExecutions(request, metadata=caller.metadata, timeout=TIMEOUT)
            async for response in watch:
                assert len(response.executions) == 1

        async def report() -> None:
            call = stub.ReportExecutions(metadata=caller.metadata, timeout=TIMEOUT)
            update = device_pb.UpdateExecutionRequest(
                job_id="j", status=pb.JobExecution.IN_PROGRESS
            )
            await call.write(device_pb.ReportExecutionsRequest(report=update))
            assert (await call.read()).execution.device_id == "d"
            await call.read()

        async def expect_expiry(read_stream: Any) -> None:
            with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN") as failure:
                await read_stream()
            assert failure.message == "The token has expired"
            assert time.time() >= payload["exp"]

        await asyncio.gather(*map(expect_expiry, (watch_job, watch_pending, report)))
        with expect_failure(StatusCode.UNAUTHENTICATED, "INVALID_TOKEN"):
            await caller.list()


async def test_documents_and_tokens_are_never_logged(
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
