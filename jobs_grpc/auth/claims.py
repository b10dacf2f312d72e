"""What a token says: whether it is for this service and of this time, and who is calling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.errors import ExpiredTokenError, InvalidClaimError, MissingClaimError
from joserfc.jwt import JWTClaimsRegistry

from jobs_grpc.auth.principal import Principal, Role, is_identifier, is_tenant
from jobs_grpc.auth.revocation import Revocation
from jobs_grpc.errors import InvalidToken

# A number may be of any size; this is the year 5138.
_LATEST = 1e11

_WRONG = {
    "iss": "is of another issuer",
    "aud": "is for another audience",
    "nbf": "is not valid yet",
    "iat": "is of the future",
}


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


class Claims:
    """Reads claims by the rules."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._registry = JWTClaimsRegistry(
            leeway=rules.leeway,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "value": rules.audience},
            exp={"essential": True},
        )

    def principal(self, claims: dict[str, Any], revocation: Revocation) -> Principal:
        """The caller, of whom a key says this that may be withdrawn. InvalidToken."""
        self._check(claims)
        rules = self._rules
        tenant_id = _find(claims, rules.tenant_claim)
        if not isinstance(tenant_id, str) or not is_tenant(tenant_id):
            raise InvalidToken(f"lacks a tenant in the claim {rules.tenant_claim}")
        return Principal(
            tenant_id,
            _roles(_find(claims, rules.roles_claim)),
            subject=_identifier(claims, rules.subject_claim),
            device_id=_identifier(claims, rules.device_claim),
            expires_at=min(claims["exp"], _LATEST) + rules.leeway,
            revocation=revocation,
        )

    def _check(self, claims: dict[str, Any]) -> None:
        try:
            self._registry.validate(claims)
        except ExpiredTokenError:
            raise InvalidToken("has expired") from None
        except MissingClaimError as e:
            raise InvalidToken(f"lacks the claim {e.claim}") from None
        except InvalidClaimError as e:
            raise InvalidToken(_WRONG.get(e.claim, f"has a wrong {e.claim}")) from None


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
        raise InvalidToken(f"has a wrong {name}")
    return value


def _roles(value: Any) -> frozenset[Role]:
    """The roles that are this service's; a token may have those of others."""
    names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(role for role in Role if role in names)
