"""What a set of public keys is: a JWKS, or a PEM with one key."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

logger = logging.getLogger(__name__)

KeySet = Mapping[str | None, Key]
"""Keys by their ids; None is the id of one that has none."""

_KINDS: Final = ("RSA", "EC", "OKP")
_MIN_RSA_BITS = 2048

# What each algorithm is used with.
_FITTING: Mapping[str, Callable[[Key], bool]] = {
    "RS256": lambda key: isinstance(key, RSAKey),
    "ES256": lambda key: isinstance(key, ECKey) and key.curve_name == "P-256",
    "EdDSA": lambda key: isinstance(key, OKPKey) and key.curve_name == "Ed25519",
}
_OTHER_NAMES = {"EdDSA": "Ed25519"}  # RFC 9864

# What a JWK has that must stay with whoever signs (RFC 7518, RFC 9964).
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"}

_NONE_FITS = "has no key that tokens could be verified with"
_NOT_PUBLIC = "has a private key or a secret; only public keys belong there"


def fits(key: Key, algorithm: str) -> bool:
    """Whether a key is for an algorithm, by its kind and by what it says of itself."""
    return _FITTING[algorithm](key) and key.alg in (None, algorithm, _OTHER_NAMES.get(algorithm))


def parse(raw: bytes) -> KeySet:
    """The keys that tokens may be verified with; none, if the set is said to be empty.

    A ValueError, or whatever else json and joserfc raise, if it is no set, has none that
    could be used, leaves open which one an id names, or has what should be secret.
    """
    return _parse_pem(raw) if raw.lstrip().startswith(b"-----BEGIN") else _parse_jwks(raw)


def _parse_pem(raw: bytes) -> KeySet:
    if b"PRIVATE KEY-----" in raw:
        raise ValueError(_NOT_PUBLIC)
    for kind in _KINDS:
        try:
            key = import_key(raw, kind)
        except (ValueError, JoseError):
            continue
        if not _is_strong(key):
            raise ValueError(_NONE_FITS)
        return {None: key}
    raise ValueError("the PEM has no key of a known kind")


def _parse_jwks(raw: bytes) -> KeySet:
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError('a JWKS is an object with "keys"')
    found = [jwk for jwk in document["keys"] if isinstance(jwk, dict)]
    if any(_PRIVATE & jwk.keys() for jwk in found):
        raise ValueError(_NOT_PUBLIC)
    keys: dict[str | None, Key] = {}
    for key in map(_import, found):
        if key is None:
            continue
        if key.kid in keys and not is_same(keys[key.kid], key):
            # Which of them is meant is anybody's guess, and another server's may be another.
            named = "without a kid" if key.kid is None else f"with the kid {key.kid!r:.100}"
            raise ValueError(f"has two keys {named}")
        keys[key.kid] = key
    strong = {key_id: key for key_id, key in keys.items() if _is_strong(key)}
    # An empty set is one that withdraws all keys; one of others' keys only is a mistake.
    if document["keys"] and not strong:
        raise ValueError(_NONE_FITS)
    return strong


def _import(jwk: Mapping[str, Any]) -> Key | None:
    # Other kinds, and what is for encryption, stand beside them.
    if jwk.get("use", "sig") != "sig" or jwk.get("kty") not in _KINDS:
        return None
    if "verify" not in jwk.get("key_ops", ["verify"]):
        return None
    try:
        key: Key = import_key(dict(jwk))
    except (ValueError, TypeError, LookupError, JoseError) as e:
        logger.warning("a key is passed over: %s", e)
        return None
    return key


def is_same(one: Key, other: Key) -> bool:
    """Whether two are one key for one algorithm, whatever else is said of them."""
    return one.thumbprint() == other.thumbprint() and one.alg == other.alg


def _is_strong(key: Key) -> bool:
    return not isinstance(key, RSAKey) or key.public_key.key_size >= _MIN_RSA_BITS
