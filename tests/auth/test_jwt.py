"""JOBS_AUTH=jwt: which tokens are accepted."""

import json
import time
from pathlib import Path

import pytest

from tests.auth.support import JWT_SETTINGS, KEY
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.identities import (
    AUDIENCE,
    claims,
    hs256_token,
    new_key,
    pem,
    token,
    unsigned_token,
)
from tests.support.server import Server, running_server

SECRET = "hunter2"

NOT_ACCEPTED = "is signed with an algorithm that is not accepted"
NO_TENANT = "has no valid tenant in the claim tenant_id"
OTHER_KEY, KEY_WITHOUT_KID, ELLIPTIC_KEY = new_key(), new_key(key_id=None), new_key("ES256")


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
        await expect_error("TOKEN_REQUIRED", caller.list())


def invalid_tokens(tenant: str) -> dict[str, tuple[str, str]]:
    """Tokens with one defect each, and the message for it."""
    valid, now = claims(tenant, "admin"), int(time.time())
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
        "issued in the future": (token(KEY, valid | {"iat": now + 60}), "was issued in the future"),
        "no exp": (token(KEY, claims(tenant, "admin", exp=None)), "has no claim exp"),
        "text as exp": (token(KEY, valid | {"exp": "9999999999"}), "has an invalid claim exp"),
        "another issuer": (token(KEY, valid | {"iss": "https://evil"}), "is from another issuer"),
        "no issuer": (token(KEY, claims(tenant, "admin", iss=None)), "has no claim iss"),
        "another audience": (token(KEY, valid | {"aud": "mail"}), "is for another audience"),
        "other audiences": (token(KEY, valid | {"aud": ["mail"]}), "is for another audience"),
        "no audience": (token(KEY, claims(tenant, "admin", aud=None)), "has no claim aud"),
        "alg none": (unsigned_token(valid), NOT_ACCEPTED),
        "HS256 with the public key": (hs256_token(KEY, valid), NOT_ACCEPTED),
        "algorithm that is not pinned": (token(ELLIPTIC_KEY, valid, "ES256"), NOT_ACCEPTED),
        "unknown kid": (token(KEY, valid, kid="k2"), "is signed with an unknown key"),
        "another key without a kid": (token(KEY_WITHOUT_KID, valid), "has an invalid signature"),
        "another key with the known kid": (token(OTHER_KEY, valid), "has an invalid signature"),
        "critical header": (token(KEY, valid, crit=["exp"]), "is malformed"),
        "known critical header": (token(KEY, valid, crit=["typ"], typ="JWT"), "is malformed"),
        "empty list of critical headers": (token(KEY, valid, crit=[]), "is malformed"),
        "crit that is not a list": (token(KEY, valid, crit=1), "is malformed"),
        "logout token": (token(KEY, valid, typ="logout+jwt"), "is not an access token"),
        "security event": (token(KEY, valid, typ="secevent+jwt"), "is not an access token"),
        "DPoP proof": (token(KEY, valid, typ="dpop+jwt"), "is not an access token"),
        "empty typ": (token(KEY, valid, typ=""), "is not an access token"),
        "typ that is not a text": (token(KEY, valid, typ=["JWT"]), "is malformed"),
        "typ that is null": (token(KEY, valid, typ=None), "is malformed"),
        "kid that is not a text": (token(KEY, valid, kid=["k1"]), "is malformed"),
        "no tenant": (token(KEY, claims(tenant, "admin", tenant_id=None)), NO_TENANT),
        "number as tenant": (token(KEY, valid | {"tenant_id": 7}), NO_TENANT),
        "empty tenant": (token(KEY, valid | {"tenant_id": ""}), NO_TENANT),
        "subject with a line break": (
            token(KEY, valid | {"sub": "a\nb"}),
            "has an invalid claim sub",
        ),
        "list as payload": (token(KEY, [1]), "is malformed"),  # type: ignore[arg-type]
    }


@pytest.mark.slow
@pytest.mark.parametrize("defect", sorted(invalid_tokens("t")))
async def test_invalid_token_is_rejected(
    jwt: Server, tenant: str, defect: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    text, problem = invalid_tokens(tenant)[defect]

    failure = await expect_error("INVALID_TOKEN", jwt.bearer(text).list())

    assert failure.message == f"The token {problem}"
    assert text not in caplog.text


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT"]
)
async def test_token_is_accepted_when_its_typ_is_jwt_or_at_jwt(
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

    await expect_error(
        "DUPLICATE_METADATA", jwt.caller(("authorization", text), ("authorization", text)).list()
    )


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_token_is_verified_with_a_pem_key_of_each_algorithm(
    database: Database, tenant: str, tmp_path: Path, algorithm: str
) -> None:
    key = new_key(algorithm, None)
    path = tmp_path / "key.pem"
    path.write_bytes(pem(key))
    variables = JWT_SETTINGS | {"JOBS_JWT_KEYS": str(path), "JOBS_JWT_ALGORITHMS": algorithm}
    async with running_server(database.request_dsn, **variables) as server:
        payload = claims(tenant, "viewer", aud=["mail", AUDIENCE])

        for headers in ({}, {"kid": "any"}):
            await server.bearer(token(key, payload, algorithm, **headers)).list()
        if algorithm == "EdDSA":  # the name in RFC 9864
            await server.bearer(token(key, payload, "Ed25519")).list()
        await expect_error(
            "INVALID_TOKEN", server.bearer(token(new_key(algorithm), payload, algorithm)).list()
        )


async def test_documents_and_tokens_are_never_logged(
    database: Database, jwt: Server, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await database.add_devices(tenant, 1)
    text = token(KEY, claims(tenant, "admin"))
    await jwt.bearer(text).create(target_all=True, document_params={"password": SECRET})
    await expect_error("INVALID_TOKEN", jwt.bearer(text + "x").list())

    logged = caplog.text + json.dumps([vars(r) for r in caplog.records], default=str)
    assert SECRET not in logged
    for part in text.split("."):
        assert part not in logged
