"""Which key files are accepted, and which key verifies a token."""

import json
import warnings
from pathlib import Path

import pytest
from joserfc.errors import SecurityWarning
from joserfc.jwk import RSAKey

from jobs_grpc.auth.jwks_cache import JwksError
from jobs_grpc.config import ConfigError
from tests.auth.support import JWT_SETTINGS, NEW, OLD, has_key, load_keys, write_jwks
from tests.support.database import Database
from tests.support.identities import jwks, new_key, pem, private_pem
from tests.support.server import starting_server

PRIVATE_KEY = "contains a private key or a secret; use public keys only"


@pytest.mark.parametrize(
    "other",
    [
        OLD.as_dict(private=False),
        new_key(key_id="old").as_dict(private=False) | {"key_ops": ["encrypt"]},
    ],
    ids=["the same", "for encryption"],
)
async def test_duplicate_kid_is_accepted_when_keys_are_equal_or_not_for_verifying(
    tmp_path: Path, other: dict[str, str]
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [OLD.as_dict(private=False), other]}))

    assert await has_key(await load_keys(path), "old")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("[]", 'is not a JWKS: it must be an object with a list "keys"'),
        ('{"keys": 1}', 'is not a JWKS: it must be an object with a list "keys"'),
        ('{"keys": []}', "has no key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]}', PRIVATE_KEY),
        ('{"keys": [{"kty": "RSA", "kid": "k"}, 7, {"kty": "RSA", "n": 1, "e": 2}]}', "has no key"),
        (json.dumps({"keys": [OLD.as_dict(private=False, use="enc")]}), "has no key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no key of the types"),
        (jwks(OLD, NEW, new_key(key_id="old")), "has two keys with the kid 'old'"),
        (jwks(OLD, new_key(key_id=None), new_key("ES256", None)), "has two keys without a kid"),
        (jwks(NEW)[:-2] + ", " + json.dumps(OLD.as_dict(private=True)) + "]}", PRIVATE_KEY),
        (json.dumps({"keys": [OLD.as_dict(private=True, use="enc")]}), PRIVATE_KEY),
        (json.dumps({"keys": [new_key("EdDSA").as_dict(private=True)]}), PRIVATE_KEY),
        (private_pem(OLD).decode(), PRIVATE_KEY),
        (private_pem(OLD, "p").decode(), PRIVATE_KEY),
        ((pem(OLD) + private_pem(OLD)).decode(), PRIVATE_KEY),
    ],
)
async def test_server_does_not_start_when_key_file_is_not_usable(
    database: Database, tmp_path: Path, content: str | None, problem: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError) as raised:
        async with starting_server(database.request_dsn, JOBS_JWT_KEYS=str(path), **JWT_SETTINGS):
            pass
    assert str(raised.value).startswith(f"JOBS_JWT_KEYS: {path}")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_key_set_is_rejected_when_its_only_key_is_weak(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # joserfc only warns about weak keys
        path = write_jwks(tmp_path, RSAKey.generate_key(1024, {"kid": "weak"}))

        with pytest.raises(JwksError, match="has no key"):
            await load_keys(path)


async def test_key_is_not_found_when_it_is_for_another_algorithm(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    elliptic, other = new_key("ES256", "e"), OLD.as_dict(private=False, kid="o", alg="RS512")
    document = json.loads(jwks(OLD, elliptic))
    document["keys"].append(other)
    path.write_text(json.dumps(document))
    keys = await load_keys(path)

    assert await keys.find("e", "ES256")
    assert not await keys.find("e", "RS256")
    assert not await keys.find("old", "ES256")
    assert not await keys.find("o", "RS256")


async def test_key_is_not_found_when_the_token_has_no_kid_and_the_set_has_several_keys(
    tmp_path: Path,
) -> None:
    keys = await load_keys(write_jwks(tmp_path, OLD, NEW))

    assert await keys.find(None, "RS256") is None
