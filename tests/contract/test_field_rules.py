"""The limits that the contract declares: each is supported, and equal fields have equal limits."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from buf.validate import validate_pb2 as validate
from fleet.jobs.v1 import jobs_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from jobs_grpc.contract.field_rules import check, rules_of
from jobs_grpc.contract.methods import SERVICES
from jobs_grpc.contract.value_rules import compile_rules

# Its messages accept statuses as numbers.
pb: Any = jobs_pb2

# Fields of requests that may have any value of their type.
WITHOUT_RULE = {
    # page_tokens.py rejects tokens that the server has not made.
    "fleet.jobs.v1.ListJobsRequest.page_token",
    "fleet.jobs.v1.ListJobExecutionsRequest.page_token",
    "fleet.jobs.v1.ListExecutionAttemptsRequest.page_token",
    "fleet.jobs.v1.ListPendingExecutionsRequest.page_token",
    "fleet.jobs.v1.ListDevicesRequest.page_token",
    "fleet.jobs.v1.ListGroupsRequest.page_token",
    "fleet.jobs.v1.ListJobEventsRequest.page_token",
    # They are only compared with the stored numbers.
    "fleet.jobs.v1.UpdateExecutionRequest.expected_version",
    "fleet.jobs.v1.UpdateExecutionRequest.execution_number",
    # UpdateWebhook ignores the output of a Webhook.
    *(
        f"fleet.jobs.v1.Webhook.{output}"
        for output in (
            *("webhook_id", "disabled_cause", "purged_position", "last_http_status", "last_error"),
            "failure_count",
        )
    ),
}


def request_messages() -> set[Descriptor]:
    """The requests of all methods, and the messages of the contract in their fields."""
    found: set[Descriptor] = set()
    new = {method.input_type for service in SERVICES for method in service.methods}
    while new:
        found |= new
        types = {field.message_type for message in new for field in message.fields}
        new = {
            type_
            for type_ in types
            if type_
            and type_.full_name.startswith("fleet.")
            and not type_.GetOptions().map_entry  # check_labels checks labels
        } - found
    return found


def request_fields() -> Iterator[FieldDescriptor]:
    """The fields of all requests, and of the messages in them."""
    for message in request_messages():
        yield from message.fields


def rules_of_field(field: FieldDescriptor) -> validate.FieldRules:
    rules: validate.FieldRules = field.GetOptions().Extensions[validate.field]
    return rules


def has_limits(field: FieldDescriptor, rules: validate.FieldRules) -> bool:
    """Whether `rules` limit a value, or an element, of the field's type."""
    if field.enum_type:
        return bool(getattr(rules.enum, "in") or rules.enum.defined_only)
    match field.type:
        case field.TYPE_STRING:
            return bool(rules.string.max_len or "," in rules.string.pattern)
        case field.TYPE_BYTES:
            return bool(rules.bytes.max_len)
        case field.TYPE_INT32:
            return rules.int32.HasField("gte")
        case field.TYPE_INT64:
            return rules.int64.HasField("gte")
        case field.TYPE_BOOL | field.TYPE_MESSAGE:
            return True  # The fields of a message have rules of their own.
    return False


def test_walk_reaches_messages_that_requests_contain() -> None:
    names = {message.name for message in request_messages()}

    assert names >= {"CreateJobRequest", "Rollout", "Stage", "Gate", "FailureCriterion"}
    assert names >= {"ExecutionReport", "UpdateExecutionRequest"}
    assert "Job" not in names


@pytest.mark.parametrize("name", ["job_id", "device_id", "etag", "failure_codes", "reason"])
def test_fields_of_one_name_have_the_same_limits(name: str) -> None:
    limits = defaultdict(set)
    for field in request_fields():
        if field.name == name:
            rules = validate.FieldRules()
            rules.CopyFrom(rules_of_field(field))
            rules.string.ClearField("not_in")  # of new IDs
            limits[f"{rules.string} {rules.repeated}"].add(field.full_name)

    assert len(limits) == 1, limits


def test_values_of_requests_have_limits() -> None:
    without_limits = {
        field.full_name
        for field in request_fields()
        if not field.is_repeated and not has_limits(field, rules_of_field(field))
    }

    assert without_limits == WITHOUT_RULE


def test_lists_of_requests_have_a_maximum_and_limits_of_their_elements() -> None:
    for field in request_fields():
        if field.is_repeated and field.name not in ("labels", "facts"):  # see selectors.py
            rules = rules_of_field(field).repeated
            assert rules.max_items, field.full_name
            # An invalid ID fails only its device; see start_next.py.
            if not field.full_name.endswith(".StartNextExecutionsRequest.device_ids"):
                assert has_limits(field, rules.items), field.full_name


@pytest.mark.parametrize(
    "rules",
    [
        validate.FieldRules(int32=validate.Int32Rules(gt=1)),
        validate.FieldRules(string=validate.StringRules(uuid=True)),
        validate.FieldRules(string=validate.StringRules(pattern="^a+$")),
        validate.FieldRules(string=validate.StringRules(min_len=1)),
        validate.FieldRules(bool=validate.BoolRules(const=True)),
        validate.FieldRules(cel=[validate.Rule(id="x", expression="true")]),
        validate.FieldRules(required=True),
    ],
    ids=str,
)
def test_option_that_is_not_supported_is_not_ignored(rules: validate.FieldRules) -> None:
    field = jobs_pb2.CreateJobRequest.DESCRIPTOR.fields_by_name["job_id"]

    with pytest.raises(NotImplementedError, match="job_id"):
        compile_rules(field, rules)


def test_elements_are_not_read_when_there_are_too_many() -> None:
    request = jobs_pb2.GetFailureSummaryRequest(job_id="j", failure_codes=["a b"] * 101)

    (violation,) = check(request)

    assert violation.field == "failure_codes"
    assert violation.description == "failure_codes must have at most 100 elements"


@pytest.mark.parametrize(
    ("request_", "description"),
    [
        (pb.RetryExecutionsRequest(job_id="j"), "statuses is required"),
        (
            pb.RetryExecutionsRequest(job_id="j", statuses=[4, 3]),
            "statuses[1] must be one of FAILED, TIMED_OUT, REJECTED",
        ),
        (
            pb.RetryExecutionsRequest(job_id="j", statuses=[4] * 17),
            "statuses must have at most 16 elements",
        ),
        (
            pb.ListJobsRequest(statuses=[1, 9]),
            "status 9 is unknown; it must be one of"
            " IN_PROGRESS, COMPLETED, CANCELED, PAUSED, SCHEDULED",
        ),
    ],
    ids=["missing", "other", "too many", "unknown"],
)
def test_violation_of_a_list_says_what_it_must_have(request_: Message, description: str) -> None:
    (violation,) = check(request_)

    assert violation.field == "statuses"
    assert violation.description == description


def test_violation_of_a_nested_list_names_its_field_and_element() -> None:
    criterion = pb.FailureCriterion(statuses=[5, 2], count=1)
    request = jobs_pb2.CreateJobRequest(
        document_type="t", target_all=True, failure_criteria=[criterion]
    )

    (violation,) = check(request)

    assert violation.field == "failure_criteria[0].statuses"
    assert violation.description == (
        "failure_criteria[0].statuses[1] must be one of FAILED, TIMED_OUT, REJECTED"
    )


def test_path_names_the_elements_of_nested_messages() -> None:
    stages = [jobs_pb2.Stage(remainder=True), jobs_pb2.Stage(percent=0)]
    request = jobs_pb2.CreateJobRequest(
        document_type="t", target_all=True, rollout=jobs_pb2.Rollout(stages=stages)
    )

    (violation,) = check(request)

    assert violation.field == "rollout.stages[1].percent"
    assert violation.description == "rollout.stages[1].percent must be from 1 to 100"


def test_rules_of_returns_the_declared_range() -> None:
    limits = rules_of(jobs_pb2.CreateJobRequest, "expires_in_hours").int32

    assert (limits.gte, limits.lte) == (1, 720)
