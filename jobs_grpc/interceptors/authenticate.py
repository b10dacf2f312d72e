"""Who is calling, from the metadata that a trusted caller states."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs_grpc.errors import CallerAmbiguous, CallerInvalid, DeviceRequired, TenantRequired
from jobs_grpc.interceptors.around import Around, Context, is_infrastructure
from jobs_grpc.principal import IDENTIFIER_RULE, Principal, is_identifier, set_principal

_DEVICE_SERVICE = "/fleet.jobs.v1.DeviceJobService/"

# Brokers and bridges report for devices; each report names its own.
_BRIDGE = f"{_DEVICE_SERVICE}ReportExecutions"


class Authenticate(Around):
    """Requires exactly one x-tenant-id, and one x-device-id of devices; takes an x-user-id."""

    @asynccontextmanager
    async def around(self, method: str, context: Context) -> AsyncIterator[None]:
        if not is_infrastructure(method):
            set_principal(_principal(method, context))
        yield


def _principal(method: str, context: Context) -> Principal:
    tenant_id = _single(context, "x-tenant-id")
    if tenant_id is None:
        raise TenantRequired("The call names no tenant: send x-tenant-id")
    device_id = _single(context, "x-device-id")
    if device_id is None and method.startswith(_DEVICE_SERVICE) and method != _BRIDGE:
        raise DeviceRequired("The call names no device: send x-device-id")
    return Principal(tenant_id, subject=_single(context, "x-user-id"), device_id=device_id)


def _single(context: Context, key: str) -> str | None:
    values = [value for name, value in context.invocation_metadata() or () if name == key]
    if not values:
        return None
    if len(values) > 1:
        raise CallerAmbiguous(f"{key} was sent {len(values)} times; send it once")
    if not isinstance(values[0], str) or not is_identifier(values[0]):
        raise CallerInvalid(f"{key} {IDENTIFIER_RULE}")
    return values[0]
