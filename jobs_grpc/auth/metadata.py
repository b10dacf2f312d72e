"""Authenticates callers by the metadata that they send, which is trusted as it is.

x-tenant-id   required
x-user-id     the user
x-device-id   the device
x-roles       comma-separated roles. If it is absent, a caller with x-device-id has the role
              `device` only; any other caller has the roles of JOBS_DEFAULT_ROLES.
"""

from collections.abc import Sequence
from typing import TypeAlias

from jobs_grpc.auth.principal import (
    IDENTIFIER_RULE,
    TENANT_RULE,
    Principal,
    is_identifier,
    is_tenant_id,
)
from jobs_grpc.auth.roles import Role
from jobs_grpc.errors import DuplicateMetadata, InvalidMetadata, InvalidToken, TenantRequired

# The metadata of a call as gRPC passes it. Values of keys that end in -bin are bytes.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

_DEVICE_ROLES = frozenset({Role.DEVICE})

_AUTHORIZATION = "authorization"
_TENANT, _USER, _DEVICE, _ROLES = "x-tenant-id", "x-user-id", "x-device-id", "x-roles"


class MetadataAuthenticator:
    """Trusts the tenant, user, device and roles in the metadata of each call."""

    def __init__(self, default_roles: frozenset[Role]) -> None:
        self._default_roles = default_roles

    async def authenticate(self, metadata: Metadata) -> Principal:
        """Return the caller.

        Raises TenantRequired, DuplicateMetadata, InvalidMetadata or InvalidToken.
        """
        keys = {key for key, _ in metadata}
        if _AUTHORIZATION in keys:
            # A gateway that requires tokens relies on this server to verify them. Ignoring the
            # token would let every caller in.
            raise InvalidToken(
                "cannot be verified: this server authenticates callers by metadata"
                " (JOBS_AUTH=metadata); send no authorization"
            )
        tenant_id = read_tenant(metadata)
        if tenant_id is None:
            raise TenantRequired
        device_id = read_device(metadata) if _DEVICE in keys else None
        roles = _read_roles(metadata) if _ROLES in keys else None
        if roles is None:
            roles = self._default_roles if device_id is None else _DEVICE_ROLES
        return Principal(
            tenant_id,
            roles,
            subject=read_user(metadata) if _USER in keys else None,
            device_id=device_id,
            is_bridge=Role.BRIDGE in roles,
        )

    def unavailable_reason(self) -> str | None:
        """Return None always, because reading metadata depends on no other service."""
        return None

    @property
    def keys(self) -> None:
        """None: there are no tokens to verify."""
        return None


def read_tenant(metadata: Metadata) -> str | None:
    """Return x-tenant-id, or None if it is absent. Raises DuplicateMetadata or InvalidMetadata."""
    value = read_single(metadata, _TENANT)
    if value is not None and "," in value:
        # Proxies may join two headers into one value with a comma.
        raise DuplicateMetadata(f"{_TENANT} {TENANT_RULE}")
    if value is not None and not is_tenant_id(value):
        raise InvalidMetadata(f"{_TENANT} {TENANT_RULE}")
    return value


def read_user(metadata: Metadata) -> str | None:
    """Return x-user-id, or None if it is absent. Raises DuplicateMetadata or InvalidMetadata."""
    return _read_identifier(metadata, _USER)


def read_device(metadata: Metadata) -> str | None:
    """Return x-device-id, or None if it is absent. Raises DuplicateMetadata or InvalidMetadata."""
    return _read_identifier(metadata, _DEVICE)


def read_single(metadata: Metadata, key: str) -> str | None:
    """Return the value of `key`, or None if it is absent. Raises DuplicateMetadata."""
    found = None
    for name, value in metadata:
        if name == key:
            if found is not None:
                raise DuplicateMetadata(f"{key} was sent several times; send it once")
            found = str(value)
    return found


def _read_identifier(metadata: Metadata, key: str) -> str | None:
    value = read_single(metadata, key)
    if value is not None and not is_identifier(value):
        raise InvalidMetadata(f"{key} {IDENTIFIER_RULE}")
    return value


def _read_roles(metadata: Metadata) -> frozenset[Role] | None:
    value = read_single(metadata, _ROLES)
    if value is None:
        return None
    try:
        # An empty x-roles is an error, not "absent": it must not grant the default roles.
        return frozenset(Role(name.strip()) for name in value.split(","))
    except ValueError:
        known = ", ".join(sorted(Role))
        raise InvalidMetadata(f"{_ROLES} must be a comma-separated list of {known}") from None
