"""Parses public keys: a JWKS, or a PEM file with one key."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

logger = logging.getLogger(__name__)

KeySet = Mapping[str | None, Key]
"""Keys by `kid`; None is the id of a key without one."""

_KEY_TYPES: Final = ("RSA", "EC", "OKP")
_MIN_RSA_BITS = 2048

# Whether a key is of the type that an algorithm needs.
_HAS_TYPE_FOR: Mapping[str, Callable[[Key], bool]] = {
    "RS256": lambda key: isinstance(key, RSAKey),
    "ES256": lambda key: isinstance(key, ECKey) and key.curve_name == "P-256",
    "EdDSA": lambda key: isinstance(key, OKPKey) and key.curve_name == "Ed25519",
}

# Other names of algorithms. RFC 9864 gives EdDSA with the curve Ed25519 the name Ed25519.
ALGORITHM_ALIASES: Mapping[str, str] = {"Ed25519": "EdDSA"}

# Members of a JWK that only the signer may have (RFC 7518, RFC 9964).
_PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

_NO_USABLE_KEY = f"has no key that can verify tokens; RSA keys need at least {_MIN_RSA_BITS} bits"
_PRIVATE_KEY = "contains a private key or a secret; use public keys only"


def supports(key: Key, algorithm: str) -> bool:
    """Whether a key can verify signatures of an algorithm, by its type and its `alg`."""
    declared = key.alg and ALGORITHM_ALIASES.get(key.alg, key.alg)
    return _HAS_TYPE_FOR[algorithm](key) and declared in (None, algorithm)


def parse_key_set(raw: bytes) -> KeySet:
    """Parse the keys that can verify tokens. An empty JWKS gives no keys.

    Raises ValueError, and other exceptions of json and joserfc, if the content is malformed,
    has no usable key, has two keys with the same id, or contains a private key.
    """
    return _parse_pem(raw) if raw.lstrip().startswith(b"-----BEGIN") else _parse_jwks(raw)


def _parse_pem(raw: bytes) -> KeySet:
    if b"PRIVATE KEY-----" in raw:
        raise ValueError(_PRIVATE_KEY)
    for key_type in _KEY_TYPES:
        try:
            key = import_key(raw, key_type)
        except (ValueError, JoseError):
            continue
        if not _is_long_enough(key):
            raise ValueError(_NO_USABLE_KEY)
        return {None: key}
    raise ValueError(f"has no key of the types {', '.join(_KEY_TYPES)} in its PEM")


def _parse_jwks(raw: bytes) -> KeySet:
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError('is not a JWKS: it must be an object with a list "keys"')
    jwks = [jwk for jwk in document["keys"] if isinstance(jwk, dict)]
    if any(_PRIVATE_MEMBERS & jwk.keys() for jwk in jwks):
        raise ValueError(_PRIVATE_KEY)
    keys: dict[str | None, Key] = {}
    for key in map(_import, jwks):
        if key is None:
            continue
        if key.kid in keys and not is_same(keys[key.kid], key):
            # It is undefined which of them a token means; servers could disagree.
            kid = "without a kid" if key.kid is None else f"with the kid {key.kid!r:.100}"
            raise ValueError(f"has two keys {kid}")
        keys[key.kid] = key
    usable = {key_id: key for key_id, key in keys.items() if _is_long_enough(key)}
    # An empty JWKS revokes all keys. One without any usable key is a mistake.
    if document["keys"] and not usable:
        raise ValueError(_NO_USABLE_KEY)
    return usable


def _import(jwk: Mapping[str, Any]) -> Key | None:
    """The key, or None if it is not for verifying signatures or is malformed."""
    if jwk.get("use", "sig") != "sig" or jwk.get("kty") not in _KEY_TYPES:
        return None
    if "verify" not in jwk.get("key_ops", ["verify"]):
        return None
    try:
        key: Key = import_key(dict(jwk))
    except (ValueError, TypeError, LookupError, JoseError) as e:
        logger.warning("skipping a malformed key of JOBS_JWT_KEYS: %s", e)
        return None
    return key


def is_same(one: Key, other: Key) -> bool:
    """Whether two JWKs are the same key for the same algorithm; other members may differ."""
    return one.thumbprint() == other.thumbprint() and one.alg == other.alg


def _is_long_enough(key: Key) -> bool:
    return not isinstance(key, RSAKey) or key.public_key.key_size >= _MIN_RSA_BITS
