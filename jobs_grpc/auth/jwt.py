"""Authenticates callers by a JSON Web Token: `authorization: Bearer …`.

x-tenant-id, x-user-id and x-device-id may be sent as well if they agree with the token. Only a
bridge, whose token names no device, chooses the device with x-device-id. x-roles is ignored.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from joserfc import jws
from joserfc.errors import BadSignatureError, JoseError, UnsupportedAlgorithmError

from jobs_grpc.auth.claims import ClaimsReader
from jobs_grpc.auth.jwks_cache import CachedKey, JwksCache
from jobs_grpc.auth.jwks_parser import ALGORITHM_ALIASES
from jobs_grpc.auth.metadata import Metadata, read_device, read_single, read_tenant, read_user
from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.roles import Role
from jobs_grpc.config import JwtConfig
from jobs_grpc.errors import InvalidToken, KeysUnavailable, MetadataMismatch, TokenRequired

# Values of `typ` for access tokens (RFC 9068); None: no `typ`. A provider signs other messages
# with the same keys and similar claims: logout tokens, security events, DPoP proofs.
_ACCESS_TOKEN_TYPES = (None, "jwt", "at+jwt")


class _PinnedAlgorithms(jws.JWSRegistry):
    """Accepts only the algorithms that it is created with."""

    # Some issuers add digests of their certificate to the header.
    max_header_length = 4096

    def get_alg(self, name: str) -> Any:
        """The algorithm, without the warning that joserfc gives for the name EdDSA."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


class JwtAuthenticator:
    """Verifies tokens, and caches the callers of up to `max_cached_tokens` verified ones.

    A cached token takes about 300 bytes; the token itself is not kept, only its digest.
    """

    def __init__(
        self, keys: JwksCache, config: JwtConfig, *, max_cached_tokens: int = 10_000
    ) -> None:
        self.keys = keys
        """The keys that verify tokens."""
        names = {*config.algorithms} | {
            alias for alias, name in ALGORITHM_ALIASES.items() if name in config.algorithms
        }
        self._registry = _PinnedAlgorithms(algorithms=names, strict_check_header=False)
        self._claims = ClaimsReader(config)
        self._max_cached_tokens = max_cached_tokens
        self._cache: OrderedDict[bytes, Principal] = OrderedDict()

    async def authenticate(self, metadata: Metadata) -> Principal:
        """Return the caller.

        Raises TokenRequired, InvalidToken, MetadataMismatch, KeysUnavailable or LimitExceeded.
        """
        token = _bearer_token(metadata)
        digest = hashlib.sha256(token).digest()
        principal = self._cached(digest)
        if principal is None:
            principal = await self._verify(token)
            self._cache[digest] = principal
            if len(self._cache) > self._max_cached_tokens:
                self._cache.popitem(last=False)
        return _apply_metadata(principal, metadata)

    def unavailable_reason(self) -> str | None:
        """Why tokens cannot be verified at the moment, or None."""
        return None if self.keys.has_keys else "there are no keys to verify tokens with"

    def _cached(self, digest: bytes) -> Principal | None:
        principal = self._cache.get(digest)
        if principal is None:
            return None
        if principal.expired or principal.revoked:
            del self._cache[digest]
            return None
        self._cache.move_to_end(digest)
        return principal

    async def _verify(self, token: bytes) -> Principal:
        try:
            claims, key = await self._verify_signature(token)
            return self._claims.to_principal(claims, key.revocation)
        except BadSignatureError:
            raise InvalidToken("has an invalid signature") from None
        except (JoseError, ValueError, RecursionError):
            raise InvalidToken("is malformed") from None

    async def _verify_signature(self, token: bytes) -> tuple[dict[str, Any], CachedKey]:
        signature = jws.extract_compact(token, registry=self._registry)
        headers = signature.headers()
        algorithm, key_id = headers.get("alg"), headers.get("kid")
        # The token names its algorithm. Accept only the configured ones, before a key is chosen.
        if not isinstance(algorithm, str) or algorithm not in (self._registry.allowed or ()):
            raise InvalidToken("is signed with an algorithm that is not accepted")
        if "crit" in headers or not (key_id is None or isinstance(key_id, str)):
            raise ValueError
        if _token_type(headers) not in _ACCESS_TOKEN_TYPES:
            raise InvalidToken("is not an access token")
        key = await self.keys.find(key_id, ALGORITHM_ALIASES.get(algorithm, algorithm))
        if key is None:
            if not self.keys.has_keys:
                raise KeysUnavailable
            raise InvalidToken("is signed with an unknown key")
        if not jws.validate_compact(signature, key.key, registry=self._registry):
            raise BadSignatureError
        claims = json.loads(signature.payload)
        if not isinstance(claims, dict):
            raise ValueError
        return claims, key


def _bearer_token(metadata: Metadata) -> bytes:
    value = read_single(metadata, "authorization")
    if value is None:
        raise TokenRequired
    scheme, _, token = value.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRequired
    return token.strip().encode()


def _token_type(headers: Mapping[str, Any]) -> str | None:
    if "typ" not in headers:
        return None
    if not isinstance(headers["typ"], str):
        raise ValueError
    return headers["typ"].lower().removeprefix("application/")


def _apply_metadata(principal: Principal, metadata: Metadata) -> Principal:
    """Return the principal; for a bridge, with the device that the metadata names.

    Raises MetadataMismatch if the metadata contradicts the token.
    """
    if read_tenant(metadata) not in (None, principal.tenant_id):
        raise MetadataMismatch("x-tenant-id")
    if read_user(metadata) not in (None, principal.subject):
        raise MetadataMismatch("x-user-id")
    device_id = read_device(metadata)
    if device_id in (None, principal.device_id):
        return principal
    if principal.device_id is None and Role.BRIDGE in principal.roles:
        return replace(principal, device_id=device_id)
    raise MetadataMismatch("x-device-id")
