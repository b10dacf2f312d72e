"""Writes what follows from jobs_grpc/errors.py and the comments of error_reason.proto.

That is the reasons in docs/reference/errors.md, the SQLSTATEs in raise_error.sql, and the examples
of errors for the OpenAPI document.
"""

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fleet.jobs.v1.device_jobs_pb2 import DeviceExecution
from google.protobuf.descriptor_pb2 import FileDescriptorSet

import jobs_grpc.db.sqlstates  # noqa: F401 - it declares some of BY_SQLSTATE
from jobs_grpc.errors import BY_REASON, BY_SQLSTATE, JobsError, Limit, Violation

ROOT = Path(__file__).parents[1]
CONTRACT = ROOT / "generated/fleet/jobs/v1/descriptors.binpb"
_PAGE = ROOT / "docs/reference/errors.md"
_SQL = ROOT / "jobs_grpc/db/sql/functions/internal/raise_error.sql"
_OPENAPI = ROOT / "tools/openapi"

_EXECUTION = json.loads((_OPENAPI / "examples.json").read_text("utf-8"))["GetExecution"]["response"]

# As google.rpc.Code maps them to HTTP.
HTTP_STATUSES = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 410,
    "UNIMPLEMENTED": 501,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
}

# Arguments of the constructors of errors that the metadata in error_reason.proto does not have.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "INVALID_FIELD": {
        "violations": [
            Violation(
                "document_type",
                "document_type must be 1–100 characters without control characters",
            )
        ]
    },
    "MALFORMED_REQUEST": {"message": "The body is not valid JSON: unexpected end of input"},
    "INVALID_PAGE_TOKEN": {
        "message": "page_token is invalid; omit it to start from the first page"
    },
    "DUPLICATE_METADATA": {"message": "X-Tenant-Id was sent more than once; send it once"},
    "INVALID_METADATA": {"message": "X-Tenant-Id must be printable ASCII"},
    "INVALID_TOKEN": {"problem": "has expired"},
    "INVALID_CERTIFICATE": {"problem": "has expired"},
    "ROLE_REQUIRED": {"roles": ["admin", "operator"]},
    "JOB_ALREADY_EXISTS": {"deleted": False},
    "TARGET_EMPTY": {"failed_in": None, "selector": "model=x200"},
    "STAGE_EMPTY": {"selector": None},
    "EXPIRY_TOO_EARLY": {
        "seconds": 184_800,
        "seconds_left": 86_400,
        "stages": [
            {"stage": 0, "bake_seconds": 172_800},
            {
                "stage": 1,
                "devices": 1000,
                "releases_per_minute": 5,
                "release_seconds": 12_000,
                "bake_seconds": 0,
            },
        ],
        "stage_count": 2,
        "is_scheduled": False,
    },
    "STAGE_NOT_APPROVABLE": {"cause": "NOT_OPEN", "status": "IN_PROGRESS", "open_stage": 0},
    "START_NOT_APPROVABLE": {"cause": "FINISHED"},
    "JOB_NOT_ADVANCEABLE": {"stage": 1, "open_stage": 0, "last_stage": 2, "is_started": True},
    "JOB_NOT_UPDATABLE": {"changes_start": False},
    "EXECUTION_CHANGED": {
        "current_execution": DeviceExecution(
            **{key: _EXECUTION[key] for key in ("job_id", "device_id", "version")},
            execution_number=_EXECUTION["execution_number"],
        )
    },
    "LIMIT_EXCEEDED": {"limit": Limit.TENANT_CALLS, "retry_after": 1},
    "QUERY_TIMEOUT": {"seconds": 60.0},
}


@dataclass(frozen=True)
class Reason:
    """A reason, as error_reason.proto describes it."""

    name: str
    status: str
    """The name of the status code."""
    status_meaning: str
    comment: str

    @property
    def meaning(self) -> str:
        """What the reason means, and what to do."""
        return " ".join(self.comment.partition("Example of an ErrorInfo:")[0].split())

    @cached_property
    def error_info(self) -> Any:
        """The example of the ErrorInfo."""
        return json.loads(self.comment.partition("Example of an ErrorInfo:")[2])

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the example."""
        return dict(self.error_info.get("metadata", {}))

    def sample(self) -> JobsError:
        """Return an error with this reason and the metadata of the example."""
        create: Callable[..., JobsError] = BY_REASON[self.name]
        values = {re.sub("[A-Z]", r"_\g<0>", key).lower(): v for key, v in self.metadata.items()}
        values |= _ARGUMENTS.get(self.name, {})
        return create(**{n: values[n] for n in inspect.signature(create).parameters if n in values})


def reasons() -> Iterator[Reason]:
    """Yield the reasons in the order of the contract."""
    files = FileDescriptorSet.FromString(CONTRACT.read_bytes()).file
    file = next(file for file in files if file.name.endswith("/error_reason.proto"))
    locations = {tuple(location.path): location for location in file.source_code_info.location}
    status = status_meaning = ""
    for index, value in enumerate(file.enum_type[0].value):
        location = locations[5, 0, 2, index]  # enum_type[0].value[index]
        for detached in location.leading_detached_comments:
            status, status_meaning = re.findall(r"Status (\w+)[:.]\s*(.*)", detached, re.DOTALL)[0]
        if value.number:
            yield Reason(value.name, status, status_meaning, location.leading_comments)


def page() -> str:
    """Return docs/reference/errors.md with the current reasons."""
    lines = []
    status = ""
    for reason in reasons():
        if reason.status != status:
            status = reason.status
            meaning = " ".join(f"{reason.status_meaning} REST: {HTTP_STATUSES[status]}.".split())
            lines += ["", f"## {status}", "", meaning[0].upper() + meaning[1:], ""]
        lines += _wrap(f"- `{reason.name}`: {reason.meaning}{_facts(reason)}")
    return _replace(_PAGE, r"(?<=Do not edit. -->\n).*(?=\n<!-- End of the reasons)", [*lines, ""])


def sql() -> str:
    """Return raise_error.sql with the current SQLSTATEs."""
    names = ", ".join(error.upper_name() for _, error in sorted(BY_SQLSTATE.items()))
    lines = textwrap.wrap(names, 96, initial_indent=8 * " ", subsequent_indent=8 * " ")
    return _replace(_SQL, r"(?<='\{\n).*(?=\n    \}')", lines)


def samples() -> str:
    """Return the example of each error for the OpenAPI document, in the format of the gateway."""
    found = {}
    for reason in reasons():
        error = reason.sample()
        sample: dict[str, Any] = {"detail": error.message, "code": error.code.name}
        if error.field_violations:
            sample["field_violations"] = [asdict(v) for v in error.field_violations]
        if error.current_execution:
            without_documents = {"document_params": None, "status_details": None}
            sample["current_execution"] = {**_EXECUTION, **without_documents}
        found[reason.name] = sample
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _facts(reason: Reason) -> str:
    """Return what programs need to know about a reason, as sentences."""
    error_type = BY_REASON[reason.name]
    keys = ", ".join(f"`{key}`" for key in reason.metadata)
    sqlstates = ", ".join(
        f"`{sqlstate}`"
        for sqlstate, error in sorted(BY_SQLSTATE.items())
        if issubclass(error, error_type)
    )
    return (
        (f" Metadata: {keys}." if keys else "")
        + (f" Delay: {error_type.retry_after} s." if error_type.retry_after else "")
        + (f" SQLSTATE: {sqlstates}." if sqlstates else "")
    )


def _wrap(item: str) -> list[str]:
    return textwrap.wrap(item, 120, subsequent_indent="  ", break_on_hyphens=False)


def _replace(path: Path, pattern: str, lines: list[str]) -> str:
    """Return the text of a file with other lines at the pattern."""
    text = path.read_text(encoding="utf-8")
    new_text, count = re.subn(pattern, lambda _: "\n".join(lines), text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{path} must have one place that matches {pattern}")
    return new_text


OUTPUTS: Mapping[Path, Callable[[], str]] = {
    _PAGE: page,
    _SQL: sql,
    _OPENAPI / "sample_errors.json": samples,
}

if __name__ == "__main__":
    for path, render in OUTPUTS.items():
        path.write_text(render(), encoding="utf-8")
