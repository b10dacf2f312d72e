"""Who is calling, as a signed token says: `authorization: Bearer …`, a JSON Web Token.

What is stated in metadata beside a token must agree with it. A bridge says in x-device-id
which device it acts for, since its token is no device's.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError

from jobs_grpc.auth import metadata as stated
from jobs_grpc.auth.claims import Claims, Rules
from jobs_grpc.auth.jwks import Keys, KnownKey
from jobs_grpc.auth.metadata import Metadata
from jobs_grpc.auth.principal import Principal, Role
from jobs_grpc.errors import InvalidToken, KeysUnavailable, MetadataMismatch, TokenRequired

# Verified tokens that are remembered: at some 300 bytes each, as their digests.
_MAX_REMEMBERED = 10_000

# EdDSA has a name for each curve since RFC 9864; Ed25519 is the one of these.
_ALGORITHMS = {"Ed25519": "EdDSA"}

# What access tokens are called, if anything (RFC 9068). A provider signs other things with
# the same keys, and they may say much the same: notices of a logout, security events, proofs.
_TYPES = (None, "jwt", "at+jwt")


class _Pinned(jws.JWSRegistry):
    """Takes the algorithms it was made with and no other, and any header that is not critical."""

    # Some issuers put their certificate's digests in.
    max_header_length = 4096

    def get_alg(self, name: str) -> Any:
        """The algorithm; not warning that RFC 9864 would call EdDSA otherwise."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


class Tokens:
    """Verifies tokens, and remembers those that it has verified."""

    def __init__(self, keys: Keys, rules: Rules) -> None:
        self._keys = keys
        names = {*rules.algorithms} | {
            other for other, name in _ALGORITHMS.items() if name in rules.algorithms
        }
        self._registry = _Pinned(algorithms=names, strict_check_header=False)
        self._claims = Claims(rules)
        self._remembered: OrderedDict[bytes, Principal] = OrderedDict()

    async def identify(self, metadata: Metadata) -> Principal:
        """The caller. TokenRequired, InvalidToken, MetadataMismatch, or KeysUnavailable."""
        metadata = tuple(metadata)
        token = _bearer(metadata)
        digest = hashlib.sha256(token).digest()
        known = self._recall(digest)
        if known is None:
            known = await self._verify(token)
            self._remember(digest, known)
        return _agreed(known, metadata)

    def problem(self) -> str | None:
        """Why no token can be verified; None if it can."""
        return None if self._keys.there else "there are no keys to verify tokens with"

    def _recall(self, digest: bytes) -> Principal | None:
        known = self._remembered.get(digest)
        if known is None:
            return None
        if known.expired or known.revoked:
            del self._remembered[digest]
            return None
        self._remembered.move_to_end(digest)
        return known

    def _remember(self, digest: bytes, principal: Principal) -> None:
        self._remembered[digest] = principal
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _verify(self, token: bytes) -> Principal:
        try:
            claims, key = await self._signed(token)
            return self._claims.principal(claims, key.revocation)
        except BadSignatureError:
            raise InvalidToken("has a wrong signature") from None
        except (JoseError, ValueError, RecursionError):
            raise InvalidToken("is malformed") from None

    async def _signed(self, token: bytes) -> tuple[dict[str, Any], KnownKey]:
        signature = jws.extract_compact(token, registry=self._registry)
        headers = signature.headers()
        algorithm, key_id = headers.get("alg"), headers.get("kid")
        # Named by the token, so compared with what is pinned before anything else is done.
        if not isinstance(algorithm, str) or algorithm not in (self._registry.allowed or ()):
            raise InvalidToken("is signed with an algorithm that is not taken")
        if "crit" in headers or not (key_id is None or isinstance(key_id, str)):
            raise ValueError
        if _type(headers) not in _TYPES:
            raise InvalidToken("is of another type")
        known = await self._keys.find(key_id, _ALGORITHMS.get(algorithm, algorithm))
        if known is None:
            if not self._keys.there:
                raise KeysUnavailable
            raise InvalidToken("is signed with an unknown key")
        if not jws.validate_compact(signature, known.key, registry=self._registry):
            raise BadSignatureError
        claims = json.loads(signature.payload)
        if not isinstance(claims, dict):
            raise ValueError
        return claims, known


def _bearer(metadata: Metadata) -> bytes:
    value = stated.single(metadata, "authorization")
    if value is None:
        raise TokenRequired
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRequired
    return token.strip().encode()


def _type(headers: Mapping[str, Any]) -> str | None:
    if "typ" not in headers:
        return None
    if not isinstance(headers["typ"], str):
        raise ValueError
    return headers["typ"].lower().removeprefix("application/")


def _agreed(principal: Principal, metadata: Metadata) -> Principal:
    if stated.tenant(metadata) not in (None, principal.tenant_id):
        raise MetadataMismatch("x-tenant-id")
    if stated.user(metadata) not in (None, principal.subject):
        raise MetadataMismatch("x-user-id")
    device_id = stated.device(metadata)
    if device_id in (None, principal.device_id):
        return principal
    if principal.device_id is None and Role.BRIDGE in principal.roles:
        return replace(principal, device_id=device_id)
    raise MetadataMismatch("x-device-id")
