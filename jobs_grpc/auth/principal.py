"""Who is calling."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from jobs_grpc.auth.revocation import Revocation

IDENTIFIER_RULE = "must be 1–256 printable ASCII characters, no space at the ends"
TENANT_RULE = "must be 1–256 printable ASCII characters, no comma, no space at the ends"

# No space at either end: HTTP lets intermediaries strip it, which would name another tenant.
_IDENTIFIER = re.compile(r"(?! )[\x20-\x7e]{1,256}(?<! )")


class Role(StrEnum):
    """What a caller may do; the table of who may call what is auth/policy.py."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    DEVICE = "device"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant a call acts for, with what roles, and the user or device that acts, if known."""

    tenant_id: str
    roles: frozenset[Role]
    subject: str | None = None
    device_id: str | None = None
    expires_at: float | None = None
    """When the caller is not known any more, in seconds since 1970; None: never."""
    revocation: Revocation | None = field(default=None, compare=False, repr=False)
    """Of the key that vouches for the caller; None: nothing that could be withdrawn does."""

    @property
    def expired(self) -> bool:
        """Whether `expires_at` is over."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def revoked(self) -> bool:
        """Whether nothing vouches for the caller any more."""
        return self.revocation is not None and self.revocation.revoked


_current: ContextVar[Principal] = ContextVar("principal")


def current_principal() -> Principal:
    """The caller of the RPC that is being served; LookupError outside of one."""
    return _current.get()


def set_principal(principal: Principal) -> None:
    """Say who the caller is, for the rest of this RPC's task."""
    _current.set(principal)


def find_principal() -> Principal | None:
    """The caller, or None if there is no RPC or its caller is not known (yet)."""
    return _current.get(None)


def current_device() -> tuple[str, str]:
    """The tenant and device of the caller; the chain lets nobody else reach a device's RPC."""
    caller = current_principal()
    if caller.device_id is None:
        raise LookupError("the caller is not a device")
    return caller.tenant_id, caller.device_id


def is_identifier(text: str) -> bool:
    """Whether a call can name this user or device: IDENTIFIER_RULE."""
    return _IDENTIFIER.fullmatch(text) is not None


def is_tenant(text: str) -> bool:
    """Whether a call can name this tenant: TENANT_RULE."""
    return is_identifier(text) and "," not in text
