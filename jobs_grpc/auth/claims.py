"""Validates the claims of a verified token and converts them to a Principal."""

from collections.abc import Mapping
from typing import Any

from joserfc.errors import ExpiredTokenError, InvalidClaimError, MissingClaimError
from joserfc.jwt import JWTClaimsRegistry

from jobs_grpc.auth.principal import Principal, is_identifier, is_tenant_id
from jobs_grpc.auth.revocation import Revocation
from jobs_grpc.auth.roles import Role
from jobs_grpc.config import JwtConfig
from jobs_grpc.errors import InvalidToken

# The year 5138. `exp` may be any integer, even one that is too large for a float.
_MAX_EXPIRY = 1e11

_CLAIM_PROBLEMS = {
    "iss": "is from another issuer",
    "aud": "is for another audience",
    "nbf": "is not valid yet",
    "iat": "was issued in the future",
}


class ClaimsReader:
    """Validates and reads claims as the JOBS_JWT_* settings say."""

    def __init__(self, config: JwtConfig) -> None:
        if not config.issuer or not config.audience:
            # joserfc would accept any value.
            raise ValueError("issuer and audience are required")
        self._config = config
        self._registry = JWTClaimsRegistry(
            leeway=config.leeway,
            iss={"essential": True, "value": config.issuer},
            aud={"essential": True, "value": config.audience},
            exp={"essential": True},
        )

    def to_principal(self, claims: dict[str, Any], revocation: Revocation) -> Principal:
        """Return the caller, who is trusted until `revocation`. Raises InvalidToken."""
        self._validate(claims)
        config = self._config
        tenant_id = _find(claims, config.tenant_claim)
        if not isinstance(tenant_id, str) or not is_tenant_id(tenant_id):
            raise InvalidToken(f"has no valid tenant in the claim {config.tenant_claim}")
        roles = _roles(_find(claims, config.roles_claim))
        device_id = _identifier(claims, config.device_claim)
        return Principal(
            tenant_id,
            roles,
            subject=_identifier(claims, config.subject_claim),
            device_id=device_id,
            is_bridge=Role.BRIDGE in roles and device_id is None,
            expires_at=min(claims["exp"], _MAX_EXPIRY) + config.leeway,
            revocation=revocation,
        )

    def _validate(self, claims: dict[str, Any]) -> None:
        try:
            self._registry.validate(claims)
        except ExpiredTokenError:
            raise InvalidToken("has expired") from None
        except MissingClaimError as e:
            raise InvalidToken(f"has no claim {e.claim}") from None
        except InvalidClaimError as e:
            problem = _CLAIM_PROBLEMS.get(e.claim, f"has an invalid claim {e.claim}")
            raise InvalidToken(problem) from None


def _find(claims: Mapping[str, Any], name: str) -> Any:
    """The claim with the name `name`; otherwise the one at the path, such as realm_access.roles.

    None if there is no such claim.
    """
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
        raise InvalidToken(f"has an invalid claim {name}")
    return value


def _roles(value: Any) -> frozenset[Role]:
    """The roles in a list or a space-separated text. Roles of other services are ignored."""
    names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(role for role in Role if role in names)
