"""Errors of calls can be pickled and copied."""

import copy
import pickle
from collections.abc import Callable

import grpc
import pytest
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution, ItemError
from fleet.jobs.v1.error_reason_pb2 import EXECUTION_CHANGED

from jobs_grpc.client.errors import JobsError, create_error, from_item_error
from jobs_grpc.errors import InvalidField, Violation
from tools.errors_reference import Reason, reasons


def _pickled(error: JobsError) -> JobsError:
    result: JobsError = pickle.loads(pickle.dumps(error))  # noqa: S301 - made by this test
    return result


each_way = pytest.mark.parametrize("duplicate", [_pickled, copy.copy, copy.deepcopy])

Duplicate = Callable[[JobsError], JobsError]


def _assert_same(error: JobsError, other: JobsError) -> None:
    assert other is not error
    assert type(other) is type(error)
    assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))


@each_way
@pytest.mark.parametrize("reason", list(reasons()), ids=lambda reason: reason.name)
def test_error_of_each_reason_survives(reason: Reason, duplicate: Duplicate) -> None:
    error = reason.sample()

    _assert_same(error, duplicate(error))


@each_way
@pytest.mark.parametrize("reason", ["JOB_NOT_FOUND", "INVALID_FIELD", "REASON_OF_A_NEWER_VERSION"])
def test_error_of_a_call_survives(reason: str, duplicate: Duplicate) -> None:
    error = create_error(
        grpc.StatusCode.NOT_FOUND,
        "Job not found",
        reason=reason,
        metadata={"jobId": "j"},
        retry_after=1.5,
        request_id="r",
        field_violations=[Violation("job_id", "job_id is required")],
    )

    _assert_same(error, duplicate(error))


@each_way
def test_error_of_a_report_survives_with_the_current_execution(duplicate: Duplicate) -> None:
    execution = DeviceExecution(job_id="j", device_id="d", version=7)
    error = from_item_error(
        ItemError(code=10, reason=EXECUTION_CHANGED, current_execution=execution)
    )

    other = duplicate(error)

    _assert_same(error, other)
    assert other.current_execution == execution


def test_copy_of_an_error_has_no_cause() -> None:
    error = InvalidField([Violation("job_id", "job_id is required")])
    error.__cause__ = ValueError("x")

    assert copy.copy(error).__cause__ is None
