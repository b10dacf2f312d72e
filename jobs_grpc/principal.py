"""Who is calling."""

import re
from contextvars import ContextVar
from dataclasses import dataclass

IDENTIFIER_RULE = "must be 1–256 printable ASCII characters, no space at the ends"

# No space at either end: HTTP lets intermediaries strip it, which would name another tenant.
_IDENTIFIER = re.compile(r"(?! )[\x20-\x7e]{1,256}(?<! )")


@dataclass(frozen=True, slots=True)
class Principal:
    """The tenant a call acts for, and the user or device that acts, if the caller said so."""

    tenant_id: str
    subject: str | None = None
    device_id: str | None = None


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
    """Whether a call can name this tenant or user: IDENTIFIER_RULE."""
    return _IDENTIFIER.fullmatch(text) is not None
