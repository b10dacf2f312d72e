"""The caller of an RPC after authentication."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from jobs_grpc.auth.revocation import Revocation
from jobs_grpc.auth.roles import Role

# ASCII, because gRPC metadata is. Only a bridge can act for a device whose id has other characters,
# with a call that has the id in its request, such as ReportExecutions.
IDENTIFIER_RULE = "must be 1–256 printable ASCII characters, no space at the ends"
TENANT_RULE = "must be 1–256 printable ASCII characters, no comma, no space at the ends"

# HTTP intermediaries may strip spaces at the ends, which would change the identifier.
_IDENTIFIER = re.compile(r"(?! )[\x20-\x7e]{1,256}(?<! )")


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: its tenant and roles, and its user and device if they are known."""

    tenant_id: str
    roles: frozenset[Role]
    subject: str | None = None
    device_id: str | None = None
    is_bridge: bool = False
    """Whether it acts for devices, such as `device_id`, instead of being one."""
    expires_at: float | None = None
    """When the authentication ends, in seconds since 1970; None: never."""
    revocation: Revocation | None = field(default=None, compare=False, repr=False)
    """The revocation of the token's key or of the device; None without token and certificate."""
    has_certificate: bool = False
    """Whether a client certificate identifies it, not metadata or a token."""

    @property
    def expired(self) -> bool:
        """Whether `expires_at` has passed."""
        return self.expires_at is not None and self.expires_at <= time.time()

    @property
    def reported_by(self) -> str | None:
        """The subject of a bridge, "" if it has none; None for a device.

        Stored with the starts and reports that it sends: see JobExecution.reported_by.
        """
        return self.subject or "" if self.is_bridge else None

    @property
    def revoked(self) -> bool:
        """Whether the key that verified the token is no longer trusted."""
        return self.revocation is not None and self.revocation.revoked


_current: ContextVar[Principal] = ContextVar("principal")


def current_principal() -> Principal:
    """The caller of the current RPC. Raises LookupError if there is none."""
    return _current.get()


def set_principal(principal: Principal) -> None:
    """Set the caller of the current RPC, for the rest of its task."""
    _current.set(principal)


def current_tenant_and_device() -> tuple[str, str]:
    """The tenant and device of the caller. Raises LookupError if the caller names no device.

    Authorization rejects such callers before a method of DeviceJobService runs.
    """
    caller = current_principal()
    if caller.device_id is None:
        raise LookupError("the caller names no device")
    return caller.tenant_id, caller.device_id


def is_identifier(text: str) -> bool:
    """Whether `text` is a valid id of a user or device: IDENTIFIER_RULE."""
    return _IDENTIFIER.fullmatch(text) is not None


def is_tenant_id(text: str) -> bool:
    """Whether `text` is a valid id of a tenant: TENANT_RULE."""
    return is_identifier(text) and "," not in text
