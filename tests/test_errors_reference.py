"""The contract agrees with jobs_grpc/errors.py."""

import pytest
from fleet.jobs.v1.error_reason_pb2 import ErrorReason

from jobs_grpc.errors import BY_REASON, JobsError
from jobs_grpc.rpc.error_status import DOMAIN, error_info
from tools.errors_reference import Reason, reasons

REASONS = list(reasons())


def test_every_reason_has_one_class() -> None:
    assert sorted(BY_REASON) == sorted(reason.name for reason in REASONS)
    assert len(JobsError.__subclasses__()) == len(REASONS)


def test_reasons_are_numbered_without_gaps() -> None:
    assert sorted(ErrorReason.values()) == list(range(len(REASONS) + 1))


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.name)
def test_contract_has_the_status_and_the_metadata_of_the_error(reason: Reason) -> None:
    sent = error_info(reason.sample(), "demo")

    assert reason.status == BY_REASON[reason.name].code.name
    assert (reason.error_info["reason"], reason.error_info["domain"]) == (reason.name, DOMAIN)
    assert (sent.reason, sent.metadata.keys()) == (reason.name, reason.metadata.keys())
