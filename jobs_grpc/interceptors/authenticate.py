"""Who is calling, and whether it may call this."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from jobs_grpc.auth import policy
from jobs_grpc.auth.callers import Callers
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.errors import DeviceRequired, RoleRequired
from jobs_grpc.interceptors.around import Around, Context
from jobs_grpc.principal import Principal, find_principal, set_principal


class Authenticate(Around):
    """Sets the Principal of each call, but for those that are open to anybody.

    With `peers`, clients must be of these, too.
    """

    def __init__(self, callers: Callers, peers: TrustedPeers | None) -> None:
        self._callers = callers
        self._peers = peers

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        if not policy.is_open(method):
            if self._peers:
                auth_context: Any = context.auth_context()
                self._peers.check(auth_context)
            metadata: Any = context.invocation_metadata() or ()
            set_principal(await self._callers.identify(metadata))
        yield


class Authorize(Around):
    """Holds callers to what the policy allows their roles, and devices to be named."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        allowed = policy.allowed(method)
        if allowed is not policy.ANYBODY:
            _require(method, allowed, find_principal())
        yield


def _require(method: str, allowed: policy.Allowed, caller: Principal | None) -> None:
    if caller is None or not caller.roles & allowed:
        raise RoleRequired(sorted(allowed))
    if caller.device_id is None and policy.needs_device(method, caller.roles):
        raise DeviceRequired("The call names no device: send x-device-id")
