"""The descriptions of the errors agree with jobs_grpc/errors.py.

There are three: docs/reference/errors.md, error_reason.proto and the docstring of errors.py.
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from fleet.jobs.v1.error_reason_pb2 import ErrorReason

from jobs_grpc import errors
from jobs_grpc.rpc.error_status import DOMAIN, error_info

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
PROTO = (ROOT / "protos/fleet/jobs/v1/error_reason.proto").read_text(encoding="utf-8")

REASONS = ErrorReason.keys()[1:]
CLASSES = {ErrorReason.Name(error.reason): error for error in errors.JobsError.__subclasses__()}

# As google.rpc.Code maps them to HTTP.
HTTP_STATUSES = {
    "INVALID_ARGUMENT": "400",
    "FAILED_PRECONDITION": "400",
    "UNAUTHENTICATED": "401",
    "PERMISSION_DENIED": "403",
    "NOT_FOUND": "404",
    "ALREADY_EXISTS": "409",
    "ABORTED": "409",
    "RESOURCE_EXHAUSTED": "429",
    "INTERNAL": "500",
    "UNAVAILABLE": "503",
}

ARGUMENTS: dict[str, Any] = {
    "message": "m",
    "violations": [],
    "problem": "has expired",
    "roles": ["admin"],
    "value": 1,
    "seconds": 30.0,
    "current_execution": DeviceExecution(),
}


def sample_error(error: type[errors.JobsError]) -> errors.JobsError:
    """An error of the class with any arguments."""
    parameters = inspect.signature(error).parameters.values()
    required = {
        p.name: ARGUMENTS.get(p.name, 0 if p.annotation == int | None else "x")
        for p in parameters
        if p.default is inspect.Parameter.empty
    }
    return error(**required)


def sent_metadata(error: type[errors.JobsError]) -> set[str]:
    """The metadata keys of an error of the class, as a caller receives them."""
    return {*error_info(sample_error(error), "demo").metadata}


def test_every_reason_has_one_class() -> None:
    assert sorted(CLASSES) == sorted(REASONS)
    assert len(errors.JobsError.__subclasses__()) == len(REASONS)


def test_reasons_are_numbered_without_gaps() -> None:
    assert sorted(ErrorReason.values()) == list(range(len(REASONS) + 1))


def test_errors_page_lists_every_reason_with_its_statuses() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d+)\b[\d, ]*\|", PAGE, re.MULTILINE)

    codes = {reason: CLASSES[reason].code.name for reason in REASONS}
    assert rows == [(reason, codes[reason], HTTP_STATUSES[codes[reason]]) for reason in REASONS]


def test_errors_page_lists_every_metadata_key() -> None:
    keys = {key for error in CLASSES.values() for key in sent_metadata(error)}

    listed = PAGE.partition("The metadata keys are")[2].partition(";")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == keys


def test_module_docstring_lists_every_class_with_its_status_and_reason() -> None:
    rows = re.findall(
        r"^    [├└]── (\w+) +(\w+) +(\w+)$", inspect.getdoc(errors) or "", re.MULTILINE
    )

    assert rows == [
        (CLASSES[reason].__name__, CLASSES[reason].code.name, reason) for reason in REASONS
    ]


@pytest.mark.parametrize("reason", REASONS)
def test_reason_has_a_sample_error_info(reason: str) -> None:
    comment = re.search(rf"((?:  //[^\n]*\n)+)  {reason} = \d+;", PROTO)
    assert comment
    sample = json.loads(
        re.sub(r"^  //", "", comment[1].partition("ErrorInfo:")[2], flags=re.MULTILINE)
    )

    assert (sample["reason"], sample["domain"]) == (reason, DOMAIN)
    assert sample.get("metadata", {}).keys() == sent_metadata(CLASSES[reason])
