"""Who is calling, as a signed token says: `authorization: Bearer …`, a JSON Web Token.

What is stated in metadata beside a token must agree with it. A bridge says in x-device-id
which device it acts for, since its token is no device's.
"""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from joserfc import jws
from joserfc.errors import (
    BadSignatureError,
    ExpiredTokenError,
    InvalidClaimError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jwt import JWTClaimsRegistry

from jobs_grpc.auth import stated
from jobs_grpc.auth.keys import Keys
from jobs_grpc.auth.stated import Metadata
from jobs_grpc.errors import CallerMismatch, KeysUnavailable, TokenInvalid, TokenRequired
from jobs_grpc.principal import Principal, Role, is_identifier, is_tenant

# Verified tokens that are remembered: at some 300 bytes each, as their digests.
_MAX_REMEMBERED = 10_000

# A number may be of any size; this is the year 5138.
_LATEST = 1e11

_WRONG_CLAIMS = {
    "iss": "is of another issuer",
    "aud": "is for another audience",
    "nbf": "is not valid yet",
    "iat": "is of the future",
}

# EdDSA has a name for each curve since RFC 9864; Ed25519 is the one of these.
_ALGORITHMS = {"Ed25519": "EdDSA"}

# What access tokens are called, if anything (RFC 9068). A provider signs other things with
# the same keys, and they may say much the same: notices of a logout, security events, proofs.
_TYPES = (None, "jwt", "at+jwt")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must be like, and where it says what."""

    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    leeway: int
    """Seconds that clocks may differ by."""
    tenant_claim: str
    subject_claim: str
    roles_claim: str
    device_claim: str


class _Pinned(jws.JWSRegistry):
    """Takes the algorithms it was made with and no other, and any header that is not critical."""

    # Some issuers put their certificate's digests in.
    max_header_length = 4096

    def get_alg(self, name: str) -> Any:
        """The algorithm; not warning that RFC 9864 would call EdDSA otherwise."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


class _Verified(NamedTuple):
    generation: int
    principal: Principal


class Tokens:
    """Verifies tokens, and remembers those that it has verified."""

    def __init__(self, keys: Keys, rules: Rules) -> None:
        self._keys = keys
        self._rules = rules
        names = {*rules.algorithms} | {
            other for other, name in _ALGORITHMS.items() if name in rules.algorithms
        }
        self._registry = _Pinned(algorithms=names, strict_check_header=False)
        self._claims = JWTClaimsRegistry(
            leeway=rules.leeway,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "value": rules.audience},
            exp={"essential": True},
        )
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()

    async def identify(self, metadata: Metadata) -> Principal:
        """The caller. TokenRequired, TokenInvalid, CallerMismatch, or KeysUnavailable."""
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
        verified = self._remembered.get(digest)
        if verified is None:
            return None
        if verified.generation != self._keys.generation or _is_over(verified.principal):
            # Whose key is gone is gone, too.
            del self._remembered[digest]
            return None
        self._remembered.move_to_end(digest)
        return verified.principal

    def _remember(self, digest: bytes, principal: Principal) -> None:
        self._remembered[digest] = _Verified(self._keys.generation, principal)
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _verify(self, token: bytes) -> Principal:
        try:
            claims = await self._signed(token)
            self._claims.validate(claims)
        except ExpiredTokenError:
            raise TokenInvalid("has expired") from None
        except MissingClaimError as e:
            raise TokenInvalid(f"lacks the claim {e.claim}") from None
        except InvalidClaimError as e:
            raise TokenInvalid(_WRONG_CLAIMS.get(e.claim, f"has a wrong {e.claim}")) from None
        except BadSignatureError:
            raise TokenInvalid("has a wrong signature") from None
        except (JoseError, ValueError, RecursionError):
            raise TokenInvalid("is malformed") from None
        return self._principal(claims)

    async def _signed(self, token: bytes) -> dict[str, Any]:
        signature = jws.extract_compact(token, registry=self._registry)
        headers = signature.headers()
        algorithm, key_id = headers.get("alg"), headers.get("kid")
        # Named by the token, so compared with what is pinned before anything else is done.
        if not isinstance(algorithm, str) or algorithm not in (self._registry.allowed or ()):
            raise TokenInvalid("is signed with an algorithm that is not taken")
        if "crit" in headers or not (key_id is None or isinstance(key_id, str)):
            raise ValueError
        if _type(headers) not in _TYPES:
            raise TokenInvalid("is of another type")
        key = await self._keys.find(key_id, _ALGORITHMS.get(algorithm, algorithm))
        if key is None:
            if not self._keys.there:
                raise KeysUnavailable
            raise TokenInvalid("is signed with an unknown key")
        if not jws.validate_compact(signature, key, registry=self._registry):
            raise BadSignatureError
        claims = json.loads(signature.payload)
        if not isinstance(claims, dict):
            raise ValueError
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        rules = self._rules
        tenant_id = _find(claims, rules.tenant_claim)
        if not isinstance(tenant_id, str) or not is_tenant(tenant_id):
            raise TokenInvalid(f"lacks a tenant in the claim {rules.tenant_claim}")
        return Principal(
            tenant_id,
            _roles(_find(claims, rules.roles_claim)),
            subject=_identifier(claims, rules.subject_claim),
            device_id=_identifier(claims, rules.device_claim),
            expires_at=min(claims["exp"], _LATEST) + rules.leeway,
        )


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
        raise CallerMismatch("x-tenant-id")
    if stated.user(metadata) not in (None, principal.subject):
        raise CallerMismatch("x-user-id")
    device_id = stated.device(metadata)
    if device_id in (None, principal.device_id):
        return principal
    if principal.device_id is None and Role.BRIDGE in principal.roles:
        return replace(principal, device_id=device_id)
    raise CallerMismatch("x-device-id")


def _is_over(principal: Principal) -> bool:
    return principal.expires_at is not None and principal.expires_at <= time.time()


def _find(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name; or, if no claim is called so, by its path, as realm_access.roles."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _identifier(claims: Mapping[str, Any], name: str) -> str | None:
    value = _find(claims, name)
    if value is None:
        return None
    if not isinstance(value, str) or not is_identifier(value):
        raise TokenInvalid(f"has a wrong {name}")
    return value


def _roles(value: Any) -> frozenset[Role]:
    """The roles that are this service's; a token may have those of others."""
    names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(role for role in Role if role in names)
