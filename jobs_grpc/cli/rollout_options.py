"""The options of `create` and `update` that describe a rollout, and the file of --rollout."""

import argparse
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass

from jobs_grpc.cli import arguments
from jobs_grpc.cli.errors import InvalidInput
from jobs_grpc.cli.fields import Fields, add_fields, forwarded
from jobs_grpc.cli.files import read_text

_FIELDS = ("rollout", "failure_criteria", "start_windows", "window_time_zone", "retry_policy")

# Users try the words of --stage here.
_OPTION_WORDS = {"rest": "remainder"}

_PROBLEMS = {
    FieldDescriptor.CPPTYPE_INT32: "must be a whole number",
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
        raise InvalidInput(f"{path}: {' '.join(str(e).split())}") from None
    except RecursionError:
        raise InvalidInput(f"{path}: nested too deeply") from None
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
        # Error paths omit the leading "rollout.", so they start with "stages[0]".
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
    fields = {field.name: [value] if field.is_repeated else value}
    try:
        json_format.ParseDict(fields, GetMessageClass(parent)())
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
        raise InvalidInput(
            f'{path}: YAML needs `pip install "jobs-grpc[cli]"`; a .json file works without it'
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from None


_GATE: Fields = {
    "--min-succeeded PERCENT": (
        "min_succeeded_percent",
        "open the next stage when this share of a stage has succeeded (default: when all its "
        "devices have finished)",
    ),
    "--bake TIME": ("bake_time", "wait this long after that, such as 10m (units: s, m, h, d)"),
    "--advance-after TIME": (
        "advance_after",
        "open the next stage this long after a stage opened, even if its gate is not met",
    ),
    "--require-approval": ("require_approval", "open the next stage only after `approve`"),
}
_RATE_HELP = "release at most N devices per minute (default: a whole stage at once)"
_LIMIT_HELP = "let at most N devices have the job IN_PROGRESS at a time"

_EXAMPLE = """\
A rollout starts the devices stage by stage. The sizes of --stage are "1%" (of
all devices), "50" (devices), "group:NAME", "where:SELECTOR" or "rest". A group
or a selector without devices is an error, unless it ends with ",allow-empty".
The options for gates apply to each stage except the last. --rollout reads
everything from a YAML or JSON file with fields of CreateJobRequest: `rollout`,
`failure_criteria`, `start_windows`, `window_time_zone` and `retry_policy`.

  rollout:
    stages:
      - display_name: canary
        percent: 1
        gate: {min_succeeded_percent: 95, bake_time: 600s}
      - {display_name: everyone, remainder: true, releases_per_minute: 1000}
    max_in_progress: 500
  failure_criteria:
    - {percent: 5, min_finished: 20}
  start_windows:
    - {days: [SATURDAY, SUNDAY], start_time: "02:00", duration: 14400s}
  window_time_zone: DEVICE
  retry_policy:
    rules:
      - {failure_codes: [NETWORK], max_attempts: 5, initial_backoff: 600s}
"""


def add_rollout_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, and explain them below the list of options."""
    parser.epilog = _EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    group = parser.add_argument_group("rollout")
    arguments.add_options(group, {"--rollout FILE": "read the rollout from this file"})
    stage_help = "add a stage: 1%%, 50, group:NAME, where:SELECTOR or rest"
    arguments.add_repeated(group, "--stage SIZE", stage_help, arguments.stage, "stages")
    add_fields(group, pb.Gate, _GATE, time=arguments.duration)
    add_fields(group, pb.Stage, {"--releases-per-minute N": ("releases_per_minute", _RATE_HELP)})
    add_max_in_progress(group)
    thresholds = {
        f"--{action}-at N": f"{action} the job when N devices have failed, or N%% of the finished "
        f"ones once {arguments.MIN_FINISHED} have finished"
        for action in ("pause", "cancel")
    }
    arguments.add_options(group, thresholds, N=arguments.threshold)
    parser.set_defaults(rollout_group=group)


def add_max_in_progress(parser: "argparse._ActionsContainer") -> None:
    add_fields(parser, pb.Rollout, {"--max-in-progress N": ("max_in_progress", _LIMIT_HELP)})


def read_rollout_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options or the file describe, as parameters of a client."""
    if args.rollout is not None:
        for option in args.rollout_group._group_actions:
            if option.dest != "rollout" and getattr(args, option.dest):
                raise InvalidInput(f"--rollout can't be combined with {option.option_strings[0]}")
        return read_rollout_file(args.rollout)
    actions = {pb.FailureCriterion.PAUSE: args.pause_at, pb.FailureCriterion.CANCEL: args.cancel_at}
    criteria = []
    for action, criterion in actions.items():
        if criterion is not None:
            criterion.action = action
            criteria.append(criterion)
    gate = {name: value for name, value in forwarded(args, pb.Gate).items() if value}
    if gate and len(args.stages) < 2:
        # The last stage has no gate, so the option would have no effect.
        raise InvalidInput("the options for gates need two or more --stage")
    rate, limit = args.releases_per_minute, args.max_in_progress
    if not args.stages and rate is None and limit is None:
        return {"failure_criteria": criteria}
    stages = args.stages or [pb.Stage(remainder=True)]
    rollout = pb.Rollout(stages=stages, max_in_progress=limit)
    for stage in rollout.stages:
        stage.MergeFrom(pb.Stage(releases_per_minute=rate))
    for stage in rollout.stages[:-1]:
        stage.MergeFrom(pb.Stage(gate=pb.Gate(**gate) if gate else None))
    return {"failure_criteria": criteria, "rollout": rollout}


def in_option_words(message: str) -> str:
    """Replace `remainder` by `--stage rest` in the server's message about stages of options."""
    return re.sub(r"(a stage with |rollout\.stages\[\d+\]\.)remainder", "--stage rest", message)
