"""Expects calls to fail and reads their error details."""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from jobs_grpc.errors import BY_REASON


@dataclass
class Failure:
    """The status and the error details of a failed call."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    """Without the tenantId."""
    tenant_id: str | None = None
    violations: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    current: device_pb.DeviceExecution | None = None
    request_id: str | None = None

    def read(self, error: grpc.aio.AioRpcError) -> None:
        """Copy the message, the request id and the details of an error."""
        self.message = error.details() or ""
        for key, value in error.trailing_metadata() or ():
            if key == "x-request-id":
                self.request_id = str(value)
            elif key == "grpc-status-details-bin":
                self._read_details(Status.FromString(value))

    def _read_details(self, status: Status) -> None:
        for packed in status.details:
            info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
            current = device_pb.DeviceExecution()
            if packed.Unpack(info):
                assert info.domain == "jobs-grpc"
                self.reason = info.reason
                self.metadata = dict(info.metadata)
                self.tenant_id = self.metadata.pop("tenantId", None)
            elif packed.Unpack(bad_request):
                self.violations = {v.field: v.description for v in bad_request.field_violations}
            elif packed.Unpack(current):
                self.current = current
            elif packed.Unpack(retry):
                self.retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9


@contextmanager
def expect_failure(code: grpc.StatusCode, reason: str = "") -> Iterator[Failure]:
    """Expect a call in the block to fail; the returned Failure is filled in when the block ends."""
    failure = Failure(code)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        yield failure
    failure.read(raised.value)
    assert (raised.value.code(), failure.reason) == (code, reason), raised.value


async def expect_error(reason: str, call: Awaitable[object]) -> Failure:
    """Expect a call to fail with this reason and its status, and return the failure."""
    with expect_failure(BY_REASON[reason].code, reason) as failure:
        await call
    return failure


async def invalid_fields(call: Awaitable[object]) -> list[str]:
    """Expect a call to fail with INVALID_FIELD, and return the paths of the fields."""
    return [*(await expect_error("INVALID_FIELD", call)).violations]


def check_limit_error(
    failure: Failure, setting: str, value: str, retry_after: float | None
) -> None:
    """Assert that a LIMIT_EXCEEDED error names the setting and has this retry delay, in seconds."""
    assert failure.metadata == {"setting": setting, "value": value}
    assert f"({setting} is {value})" in failure.message
    assert failure.message.endswith("; retry later") == (retry_after is not None)
    assert failure.retry_after == retry_after
