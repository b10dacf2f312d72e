"""Who is calling, and whether it may call this."""

from typing import Any

from jobs_grpc.auth import policy
from jobs_grpc.auth.authenticator import Authenticator
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.auth.principal import Principal, Role, find_principal, set_principal
from jobs_grpc.errors import DeviceRequired, RoleRequired
from jobs_grpc.rpc.handler_cache import call_metadata
from jobs_grpc.rpc.interceptor import Before, Context


class Authenticate(Before):
    """Sets the Principal of each call, but for those that are open to anybody.

    With `peers`, clients must be of these, too.
    """

    def __init__(self, callers: Authenticator, peers: TrustedPeers | None) -> None:
        self._callers = callers
        self._peers = peers

    async def before(self, method: str, context: Context) -> None:
        if policy.is_public(method):
            return
        if self._peers:
            auth_context: Any = context.auth_context()
            self._peers.check(auth_context)
        set_principal(await self._callers.authenticate(call_metadata()))


class Authorize(Before):
    """Holds callers to what the policy allows their roles, and devices to be named."""

    async def before(self, method: str, context: Context) -> None:
        allowed = policy.allowed_roles(method)
        if allowed is not policy.PUBLIC:
            _require(method, allowed, find_principal())


def _require(method: str, allowed: frozenset[Role], caller: Principal | None) -> None:
    if caller is None or not caller.roles & allowed:
        raise RoleRequired(sorted(allowed))
    if caller.device_id is None and policy.needs_device(method, caller.roles):
        raise DeviceRequired("The call names no device: send x-device-id")
