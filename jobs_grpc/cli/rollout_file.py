"""Reads the file of --rollout."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass

from jobs_grpc.cli.errors import CliError, ExitCode
from jobs_grpc.cli.files import read_text

_FIELDS = ("rollout", "failure_criteria", "start_windows", "window_time_zone", "retry_policy")

# Users try the words of --stage here.
_OPTION_WORDS = {"rest": "remainder"}

_INTEGER = "must be a whole number"
_PROBLEMS = {
    FieldDescriptor.CPPTYPE_INT32: _INTEGER,
    FieldDescriptor.CPPTYPE_BOOL: "must be true or false",
    FieldDescriptor.CPPTYPE_STRING: "must be text",
}


def read_rollout_file(path: str) -> dict[str, Any]:
    """Read a file with some of _FIELDS. Returns those that it has, as parameters of a client."""
    text = read_text(path)
    request = pb.CreateJobRequest()
    try:
        fields = json.loads(text) if path.endswith(".json") else _parse_yaml(path, text)
        _check_fields("", fields, request.DESCRIPTOR, _FIELDS)
        json_format.ParseDict(fields, request)
    except (ValueError, json_format.ParseError) as e:
        raise CliError(f"{path}: {' '.join(str(e).split())}", ExitCode.USAGE) from None
    except RecursionError:
        raise CliError(f"{path}: nested too deeply", ExitCode.USAGE) from None
    return {
        field.name: getattr(request, field.name)
        for field in request.DESCRIPTOR.fields
        if {field.name, field.json_name} & {*fields}
    }


def _check_fields(
    path: str, fields: object, descriptor: Descriptor, names: Sequence[str] = ()
) -> None:
    """Raise ValueError with the path of the first field that is unknown or has a wrong value.

    `names` are the fields that are known; empty: all fields of the message.
    """
    prefix = f"{path}: " if path else ""
    names = names or [field.name for field in descriptor.fields]
    if not isinstance(fields, dict):
        raise ValueError(f"{prefix}must have fields: {', '.join(names)}")
    # ParseDict also accepts the names of the REST API, such as displayName.
    by_name = {
        name: f for f in descriptor.fields if f.name in names for name in (f.name, f.json_name)
    }
    for name, value in fields.items():
        if (field := by_name.get(name)) is None:
            raise ValueError(f"{prefix}unknown field {name}{_suggestion(name, names)}")
        # Everything but the failure criteria is in the rollout.
        field_path = f"{path}.{field.name}" if path not in ("", "rollout") else field.name
        if not field.is_repeated:
            _check_value(field_path, value, field, descriptor)
        elif not isinstance(value, list):
            raise ValueError(f"{field_path}: must be a list")
        else:
            for index, item in enumerate(value):
                _check_value(f"{field_path}[{index}]", item, field, descriptor)
    for oneof in descriptor.oneofs:
        given = [f.name for f in oneof.fields if {f.name, f.json_name} & {*fields}]
        if len(given) > 1:
            raise ValueError(f"{prefix}only one of {', '.join(given)} is possible")


def _check_value(path: str, value: object, field: FieldDescriptor, parent: Descriptor) -> None:
    if field.message_type == Duration.DESCRIPTOR:
        problem = "must be a number of seconds, such as 600s"
    elif field.message_type is not None:
        _check_fields(path, value, field.message_type)
        return
    elif field.enum_type is not None:
        names = [value.name for value in field.enum_type.values[1:]]
        problem = f"must be one of {', '.join(names)}"
    else:
        problem = _PROBLEMS[field.cpp_type]
    try:
        json_format.ParseDict(
            {field.name: [value] if field.is_repeated else value},
            GetMessageClass(parent)(),
        )
    except json_format.ParseError:
        raise ValueError(f"{path}: {problem}") from None


def _suggestion(name: object, names: Sequence[str]) -> str:
    similar = difflib.get_close_matches(str(name), names, 1)
    suggested = _OPTION_WORDS.get(str(name)) or (similar[0] if similar else "")
    return f"; did you mean {suggested}?" if suggested else f"; the fields are {', '.join(names)}"


def _parse_yaml(path: str, text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise CliError(
            f'{path}: YAML needs `pip install "jobs-grpc[cli]"`; a .json file works without it',
            ExitCode.USAGE,
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from None
