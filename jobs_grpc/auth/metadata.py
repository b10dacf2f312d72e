"""Who is calling, as the metadata of a trusted caller states it.

x-tenant-id   required
x-user-id     the user
x-device-id   the device
x-roles       the roles, comma-separated. A caller who states none has the default ones of
              JOBS_DEFAULT_ROLES; or, if it states a device, it is that `device` and no more.
"""

from collections.abc import Iterable
from typing import TypeAlias

from jobs_grpc.auth.principal import (
    IDENTIFIER_RULE,
    TENANT_RULE,
    Principal,
    Role,
    is_identifier,
    is_tenant,
)
from jobs_grpc.errors import DuplicateMetadata, InvalidMetadata, InvalidToken, TenantRequired

# As gRPC hands it over. Values of keys that end in -bin are bytes.
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

_AUTHORIZATION = "authorization"
_TENANT, _USER, _DEVICE, _ROLES = "x-tenant-id", "x-user-id", "x-device-id", "x-roles"


class MetadataAuthenticator:
    """Believes what callers state of themselves."""

    def __init__(self, default_roles: frozenset[Role]) -> None:
        self._default_roles = default_roles

    async def identify(self, metadata: Metadata) -> Principal:
        """The caller. Raises TenantRequired, DuplicateMetadata, InvalidMetadata or InvalidToken."""
        if any(key == _AUTHORIZATION for key, _ in metadata):
            # Else a proxy that demands tokens, and leaves them to us, would let anybody pass.
            raise InvalidToken("is not verified here, where metadata is believed; leave it out")
        tenant_id = tenant(metadata)
        if tenant_id is None:
            raise TenantRequired(f"The call names no tenant: send {_TENANT}")
        device_id = device(metadata)
        roles = _roles(metadata)
        if roles is None:
            roles = self._default_roles if device_id is None else frozenset({Role.DEVICE})
        return Principal(tenant_id, roles, subject=user(metadata), device_id=device_id)

    def problem(self) -> str | None:
        """None: whoever calls says who it is."""
        return None


def tenant(metadata: Metadata) -> str | None:
    """The tenant that is stated, if any."""
    value = single(metadata, _TENANT)
    if value is not None and "," in value:
        # What a proxy makes of two headers. Nobody's tenant is called so.
        raise DuplicateMetadata(f"{_TENANT} {TENANT_RULE}")
    if value is not None and not is_tenant(value):
        raise InvalidMetadata(f"{_TENANT} {TENANT_RULE}")
    return value


def user(metadata: Metadata) -> str | None:
    """The user who is stated, if any."""
    return _identifier(metadata, _USER)


def device(metadata: Metadata) -> str | None:
    """The device that is stated, if any."""
    return _identifier(metadata, _DEVICE)


def single(metadata: Metadata, key: str) -> str | None:
    """The one value of a key; DuplicateMetadata if there are more."""
    values = [value for name, value in metadata if name == key]
    if len(values) > 1:
        raise DuplicateMetadata(f"{key} was sent {len(values)} times; send it once")
    return str(values[0]) if values else None


def _identifier(metadata: Metadata, key: str) -> str | None:
    value = single(metadata, key)
    if value is not None and not is_identifier(value):
        raise InvalidMetadata(f"{key} {IDENTIFIER_RULE}")
    return value


def _roles(metadata: Metadata) -> frozenset[Role] | None:
    value = single(metadata, _ROLES)
    if value is None:
        return None
    try:
        # Empty is not the same as absent: what was meant as no role must not become all.
        return frozenset(Role(name.strip()) for name in value.split(","))
    except ValueError:
        known = ", ".join(sorted(Role))
        raise InvalidMetadata(f"{_ROLES} must be a comma-separated list of {known}") from None
