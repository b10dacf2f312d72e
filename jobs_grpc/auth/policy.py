"""Which roles may call which methods: the table POLICY, from the options of the contract."""

from collections.abc import Mapping

from jobs_grpc.auth.principal import Principal
from jobs_grpc.auth.roles import Role
from jobs_grpc.contract.methods import METHODS
from jobs_grpc.errors import DeviceRequired, RoleRequired

PUBLIC = None
"""The entry of methods that need no authentication, because they act for no tenant."""

_PUBLIC_METHODS = (
    *(
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    ),
    # Reflection reveals only the contract, which is public. JOBS_REFLECTION=false turns it off.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)

POLICY: Mapping[str, frozenset[Role] | None] = {
    **{name: frozenset(map(Role, method.roles)) for name, method in METHODS.items()},
    **dict.fromkeys(_PUBLIC_METHODS, PUBLIC),
}

_DEVICE_SERVICE = "/fleet.jobs.v1.DeviceJobService/"
# A request of these methods can name several devices.
_MULTI_DEVICE_METHODS = tuple(
    f"{_DEVICE_SERVICE}{name}"
    for name in ("ReportExecutions", "StartNextExecutions", "UpdateFacts")
)


def allowed_roles(method: str) -> frozenset[Role] | None:
    """The roles that may call `method`, or PUBLIC. Empty if the table lacks the method."""
    return POLICY.get(method, frozenset())


def allowed_methods(roles: frozenset[Role]) -> list[str]:
    """The full names of the methods that these roles may call, sorted, without public methods."""
    return sorted(
        method[1:].replace("/", ".")
        for method, allowed in POLICY.items()
        if allowed and roles & allowed
    )


def may_call(role: Role, method: str) -> bool:
    """Whether a caller with only this role may call `method`."""
    allowed = allowed_roles(method)
    return allowed is PUBLIC or role in allowed


def is_public(method: str) -> bool:
    """Whether `method` needs no authentication."""
    return allowed_roles(method) is PUBLIC


def is_device_method(method: str) -> bool:
    """Whether a device calls `method`, or a bridge for a device."""
    return method.startswith(_DEVICE_SERVICE)


def needs_device(method: str, roles: frozenset[Role]) -> bool:
    """Whether a caller with these roles must be a device or name one in x-device-id.

    A bridge names its devices in the requests of _MULTI_DEVICE_METHODS instead.
    """
    if method in _MULTI_DEVICE_METHODS and Role.BRIDGE in roles:
        return False
    return is_device_method(method)


def authorize(method: str, caller: Principal | None) -> None:
    """Raise RoleRequired or DeviceRequired unless `caller` may call `method`."""
    allowed = allowed_roles(method)
    if allowed is PUBLIC:
        return
    if caller is None or not caller.roles & allowed:
        raise RoleRequired(sorted(allowed))
    if caller.device_id is None and needs_device(method, caller.roles):
        raise DeviceRequired
