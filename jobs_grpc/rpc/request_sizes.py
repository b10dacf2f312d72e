"""The maximum size of the requests of each method."""

# Ids, filters and page tokens of the longest permitted length fit.
_MAX_BYTES = 16 * 1024

# Requests with a document, reports, stages, or the ids of many devices. JOBS_MAX_REQUEST_BYTES
# limits them.
METHODS_WITH_LARGE_REQUESTS = frozenset(
    {
        "/fleet.jobs.v1.JobService/CreateJob",
        "/fleet.jobs.v1.JobService/RetryExecutions",
        "/fleet.jobs.v1.JobService/UpdateJob",
        "/fleet.jobs.v1.DeviceJobService/StartNextExecution",
        "/fleet.jobs.v1.DeviceJobService/StartExecution",
        "/fleet.jobs.v1.DeviceJobService/UpdateExecution",
        "/fleet.jobs.v1.DeviceJobService/ReportExecutions",
    }
)

# The name of a service, or a reflection query.
_MAX_PUBLIC_BYTES = 4096


def fixed_max_request_bytes(method: str, *, public: bool) -> int | None:
    """The maximum size of a request; None if JOBS_MAX_REQUEST_BYTES limits it."""
    if public:
        return _MAX_PUBLIC_BYTES
    return None if method in METHODS_WITH_LARGE_REQUESTS else _MAX_BYTES
