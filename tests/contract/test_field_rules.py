"""The limits that the contract declares: each is supported, and equal fields have equal limits."""

from collections import defaultdict
from collections.abc import Iterator

import pytest
from buf.validate import validate_pb2 as validate
from fleet.jobs.v1 import device_jobs_pb2, jobs_pb2
from google.protobuf.descriptor import FieldDescriptor

from jobs_grpc.contract.field_rules import check, rules_of
from jobs_grpc.contract.value_rules import compile_rules


def request_fields() -> Iterator[FieldDescriptor]:
    """The fields of all requests."""
    for file in (jobs_pb2.DESCRIPTOR, device_jobs_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            if message.name.endswith("Request"):
                yield from message.fields


@pytest.mark.parametrize("name", ["job_id", "device_id", "etag", "failure_codes", "reason"])
def test_fields_of_one_name_have_the_same_limits(name: str) -> None:
    limits = defaultdict(set)
    for field in request_fields():
        if field.name == name:
            rules = field.GetOptions().Extensions[validate.field]
            limits[f"{rules.string} {rules.repeated}"].add(field.full_name)

    assert len(limits) == 1, limits


def test_texts_and_lists_of_requests_have_a_maximum() -> None:
    for field in request_fields():
        rules = field.GetOptions().Extensions[validate.field]
        if field.is_repeated:
            assert rules.repeated.max_items, field.full_name
        elif field.type == field.TYPE_STRING and field.name != "page_token":
            assert rules.string.max_len or "," in rules.string.pattern, field.full_name


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
