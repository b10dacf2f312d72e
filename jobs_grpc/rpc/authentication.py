"""Identifies the caller of each call, and checks the caller's roles."""

from typing import Any

from jobs_grpc.auth import policy
from jobs_grpc.auth.authenticator import Authenticator
from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.auth.principal import Principal, Role, find_principal, set_principal
from jobs_grpc.errors import DeviceRequired, RoleRequired
from jobs_grpc.rpc.handler_cache import call_metadata
from jobs_grpc.rpc.interceptor import BeforeCallInterceptor, Context


class Authentication(BeforeCallInterceptor):
    """Sets the Principal of each call, except for public methods.

    With `peers`, clients also need the certificate of a trusted peer.
    """

    def __init__(self, authenticator: Authenticator, peers: TrustedPeers | None) -> None:
        self._authenticator = authenticator
        self._peers = peers

    async def before_call(self, method: str, context: Context) -> None:
        if policy.is_public(method):
            return
        if self._peers:
            auth_context: Any = context.auth_context()
            self._peers.check(auth_context)
        set_principal(await self._authenticator.authenticate(call_metadata()))


class Authorization(BeforeCallInterceptor):
    """Rejects callers without a role that the policy allows for the method."""

    async def before_call(self, method: str, context: Context) -> None:
        allowed_roles = policy.allowed_roles(method)
        if allowed_roles is not policy.PUBLIC:
            _check(method, allowed_roles, find_principal())


def _check(method: str, allowed_roles: frozenset[Role], caller: Principal | None) -> None:
    if caller is None or not caller.roles & allowed_roles:
        raise RoleRequired(sorted(allowed_roles))
    if caller.device_id is None and policy.needs_device(method, caller.roles):
        raise DeviceRequired("The call names no device; send x-device-id")
