"""Who may call what: the whole of it is the table below."""

from collections.abc import Mapping

from jobs_grpc.auth.principal import Role

Allowed = frozenset[Role]

PUBLIC = None
"""Callable without authentication: health checks and reflection act for no tenant."""

_READ: Allowed = frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN})
_OPERATE: Allowed = frozenset({Role.OPERATOR, Role.ADMIN})
_DELETE: Allowed = frozenset({Role.ADMIN})
# A device as itself only; a bridge as any device of its tenant, which it names.
_DEVICE: Allowed = frozenset({Role.DEVICE, Role.BRIDGE})

POLICY: Mapping[str, Allowed | None] = {
    "/fleet.jobs.v1.JobService/ListJobs": _READ,
    "/fleet.jobs.v1.JobService/GetJob": _READ,
    "/fleet.jobs.v1.JobService/ListJobExecutions": _READ,
    "/fleet.jobs.v1.JobService/ListExecutionAttempts": _READ,
    "/fleet.jobs.v1.JobService/WatchJob": _READ,
    "/fleet.jobs.v1.JobService/CreateJob": _OPERATE,
    "/fleet.jobs.v1.JobService/CancelJob": _OPERATE,
    "/fleet.jobs.v1.JobService/CancelExecution": _OPERATE,
    "/fleet.jobs.v1.JobService/RetryExecutions": _OPERATE,
    "/fleet.jobs.v1.JobService/DeleteJob": _DELETE,
    "/fleet.jobs.v1.DeviceJobService/ListPendingExecutions": _DEVICE,
    "/fleet.jobs.v1.DeviceJobService/StartNextExecution": _DEVICE,
    "/fleet.jobs.v1.DeviceJobService/StartExecution": _DEVICE,
    "/fleet.jobs.v1.DeviceJobService/GetExecution": _DEVICE,
    "/fleet.jobs.v1.DeviceJobService/UpdateExecution": _DEVICE,
    "/fleet.jobs.v1.DeviceJobService/WatchPendingExecutions": _DEVICE,
    "/fleet.jobs.v1.DeviceJobService/ReportExecutions": _DEVICE,
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/List": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    # Tells the contract, which is public; JOBS_REFLECTION=false takes it away.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}

_DEVICE_SERVICE = "/fleet.jobs.v1.DeviceJobService/"
_REPORT_EXECUTIONS = f"{_DEVICE_SERVICE}ReportExecutions"


def allowed_roles(method: str) -> Allowed | None:
    """The roles that may call `method`, or PUBLIC. Empty if the table lacks the method."""
    return POLICY.get(method, frozenset())


def is_public(method: str) -> bool:
    """Whether `method` needs no authentication."""
    return allowed_roles(method) is PUBLIC


def needs_device(method: str, roles: frozenset[Role]) -> bool:
    """Whether the caller must be, or name, one device. A bridge's reports each name their own."""
    if method == _REPORT_EXECUTIONS and Role.BRIDGE in roles:
        return False
    return method.startswith(_DEVICE_SERVICE)
