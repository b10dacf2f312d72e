"""Which roles may call which methods: the table POLICY."""

from collections.abc import Mapping

from jobs_grpc.auth.principal import Principal, Role
from jobs_grpc.errors import DeviceRequired, RoleRequired

PUBLIC = None
"""The entry of methods that need no authentication, because they act for no tenant."""

_READ = frozenset({Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.ADMIN})
_OPERATE = frozenset({Role.OPERATOR, Role.ADMIN})
_APPROVE = frozenset({Role.APPROVER, Role.ADMIN})
_DELETE = frozenset({Role.ADMIN})
# A device acts for itself; a bridge acts for any device of its tenant and names it.
_DEVICE = frozenset({Role.DEVICE, Role.BRIDGE})
_ANY_ROLE = frozenset(Role)

POLICY: Mapping[str, frozenset[Role] | None] = {
    "/fleet.jobs.v1.JobService/ListJobs": _READ,
    "/fleet.jobs.v1.JobService/GetJob": _READ,
    "/fleet.jobs.v1.JobService/ListJobExecutions": _READ,
    "/fleet.jobs.v1.JobService/ListExecutionAttempts": _READ,
    "/fleet.jobs.v1.JobService/GetFailureSummary": _READ,
    "/fleet.jobs.v1.JobService/WatchJob": _READ,
    "/fleet.jobs.v1.JobService/CreateJob": _OPERATE,
    "/fleet.jobs.v1.JobService/CancelJob": _OPERATE,
    "/fleet.jobs.v1.JobService/PauseJob": _OPERATE,
    "/fleet.jobs.v1.JobService/ResumeJob": _OPERATE,
    "/fleet.jobs.v1.JobService/AdvanceJob": _OPERATE,
    "/fleet.jobs.v1.JobService/ApproveStage": _APPROVE,
    "/fleet.jobs.v1.JobService/UpdateJob": _OPERATE,
    "/fleet.jobs.v1.JobService/CancelExecution": _OPERATE,
    "/fleet.jobs.v1.JobService/RetryExecutions": _OPERATE,
    "/fleet.jobs.v1.JobService/DeleteJob": _DELETE,
    "/fleet.jobs.v1.JobService/GetCaller": _ANY_ROLE,
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
    # Reflection reveals only the contract, which is public. JOBS_REFLECTION=false turns it off.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": PUBLIC,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}

_DEVICE_SERVICE = "/fleet.jobs.v1.DeviceJobService/"
_REPORT_EXECUTIONS = f"{_DEVICE_SERVICE}ReportExecutions"


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


def is_public(method: str) -> bool:
    """Whether `method` needs no authentication."""
    return allowed_roles(method) is PUBLIC


def needs_device(method: str, roles: frozenset[Role]) -> bool:
    """Whether a caller with these roles must be a device or name one in x-device-id.

    A bridge names a device in each report of ReportExecutions instead.
    """
    if method == _REPORT_EXECUTIONS and Role.BRIDGE in roles:
        return False
    return method.startswith(_DEVICE_SERVICE)


def authorize(method: str, caller: Principal | None) -> None:
    """Raise RoleRequired or DeviceRequired unless `caller` may call `method`."""
    allowed = allowed_roles(method)
    if allowed is PUBLIC:
        return
    if caller is None or not caller.roles & allowed:
        raise RoleRequired(sorted(allowed))
    if caller.device_id is None and needs_device(method, caller.roles):
        raise DeviceRequired
