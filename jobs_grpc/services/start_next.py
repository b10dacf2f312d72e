"""Converts StartNextExecutions: the devices of a request to updates, and outcomes to results."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from fleet.jobs.v1 import device_jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.auth.principal import Principal
from jobs_grpc.contract.field_rules import rules_of
from jobs_grpc.contract.value_rules import compile_rules
from jobs_grpc.db.store import ExecutionUpdate, Row
from jobs_grpc.errors import InvalidField, JobsError, Violation
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services.execution_updates import reported_fields
from jobs_grpc.services.report_stream import item_error
from jobs_grpc.services.response_pages import fill_page
from jobs_grpc.services.row_conversions import MessageFields
from jobs_grpc.services.validation import check_unique, require_valid

_ID_RULE = compile_rules(
    pb.DeviceFacts.DESCRIPTOR.fields_by_name["device_id"], rules_of(pb.DeviceFacts, "device_id")
)

Outcome: TypeAlias = Row | Exception
"""The row of a device, or why it has none."""


def start_updates(
    request: pb.StartNextExecutionsRequest, caller: Principal
) -> list[ExecutionUpdate | InvalidField]:
    """Return the start of each device, or the error of its ID. Raises InvalidField."""
    require_valid(request, check_unique(request.device_ids, "device_ids"))
    reported = reported_fields(request, caller)
    return [
        _invalid_id(device_id, caller)
        or ExecutionUpdate(None, device_id, None, must_be_next=True, reported=reported)
        for device_id in request.device_ids
    ]


def _invalid_id(device_id: str, caller: Principal) -> InvalidField | None:
    assert _ID_RULE is not None  # noqa: S101 - the contract has one
    is_valid, describe = _ID_RULE
    if not is_valid(device_id):
        problem = describe(device_id)
    elif caller.device_id not in (None, device_id):
        problem = "must be the ID of the calling device"
    else:
        return None
    return InvalidField([Violation("device_ids", f"device_id {problem}")])


async def start_response(
    outcomes: Iterable[Outcome],
    fields: Callable[[Row], MessageFields],
    yield_now: YieldNow,
) -> pb.StartNextExecutionsResponse:
    """Return the response with a result for each device.

    `fields` converts a row to the fields of a result. Raises an error that is not about one device,
    such as DatabaseUnavailable: the call is safe to repeat.
    """
    rows: list[Any] = []
    for outcome in outcomes:
        if isinstance(outcome, JobsError) and not isinstance(outcome, InvalidField):
            raise outcome
        rows.append({"error": outcome} if isinstance(outcome, Exception) else outcome)
    response = pb.StartNextExecutionsResponse()
    await fill_page(
        response.results,
        rows,
        lambda row: {"error": item_error(row["error"])} if "error" in row else fields(row),
        len(rows),
        yield_now,
    )
    for _ in rows[len(response.results) :]:
        response.results.add(poll_after=Duration())
    return response
