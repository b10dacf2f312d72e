"""Each method of the contract declares its rules, and they fit its messages."""

import pytest
from fleet.jobs.v1 import jobs_pb2, options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from jobs_grpc.auth.roles import Role
from jobs_grpc.contract.methods import METHODS, SERVICES, page_size

DESCRIPTORS = [method for service in SERVICES for method in service.methods]


def rules_of(method: MethodDescriptor) -> options_pb2.MethodRules:
    return method.GetOptions().Extensions[options_pb2.method]


def _page_fields(message: Descriptor) -> list[str]:
    return [
        field.name
        for field in message.fields
        if field.GetOptions().HasExtension(options_pb2.default_page_size)
    ]


def _is_job(field: FieldDescriptor) -> bool:
    return field.message_type is jobs_pb2.Job.DESCRIPTOR and not field.is_repeated


@pytest.mark.parametrize("method", DESCRIPTORS, ids=lambda method: method.name)
def test_method_declares_all_of_its_rules(method: MethodDescriptor) -> None:
    rules = rules_of(method)

    assert rules.permission, "option (method).permission is missing"
    assert 0 < len(rules.summary) <= 50
    assert rules.summary[0].isupper()
    assert not rules.summary.endswith(".")
    reads = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    if method.name.startswith(("Get", "List", "Watch")):
        assert reads, "option idempotency_level = NO_SIDE_EFFECTS is missing"
    if rules.permission == options_pb2.MethodRules.READ:
        assert reads, "the permission READ is for methods without side effects"


@pytest.mark.parametrize("method", DESCRIPTORS, ids=lambda method: method.name)
def test_declared_content_and_page_size_fit_the_messages(method: MethodDescriptor) -> None:
    response, content = method.output_type, rules_of(method).response
    if method.client_streaming or method.server_streaming:
        # Each message of a stream reserves its own memory.
        assert not content
    elif method.name != "CreateJob":  # Only with validate_only does the response have a job.
        has_job = any(map(_is_job, response.fields))
        assert (content == options_pb2.MethodRules.JOB) == has_job
    is_page = "next_page_token" in response.fields_by_name or method.name in (
        # The next page of ListEvents begins at a position.
        *("GetJob", "WatchPendingExecutions", "ListEvents"),
    )
    assert len(_page_fields(method.input_type)) == is_page
    # One of each kind; and at most 14 KiB, which an item has room for with its document.
    small_lists = ("blockers", "ended_executions")
    has_list = any(
        field.message_type and field.is_repeated and field.name not in small_lists
        for field in response.fields
    )
    # WatchEvents reserves memory for the events that it has read.
    is_reserved = method.client_streaming or method.name == "WatchEvents"
    assert is_page or content or is_reserved or not has_list


def test_summaries_are_unique() -> None:
    assert len({method.summary for method in METHODS.values()}) == len(METHODS)


def test_permissions_are_for_known_roles() -> None:
    for value in options_pb2.MethodRules.Permission.DESCRIPTOR.values[1:]:
        roles = value.GetOptions().Extensions[options_pb2.roles]
        assert roles, value.name
        assert set(roles) <= set(Role), value.name


def test_page_size_is_what_the_request_asks_for_or_else_the_default() -> None:
    assert page_size(jobs_pb2.ListJobsRequest()) == 50
    assert page_size(jobs_pb2.ListJobsRequest(limit=0)) == 0
    assert page_size(jobs_pb2.GetJobRequest(executions_limit=7)) == 7
