"""Options that forward a field of a request.

Their types, choices and help come from the contract: from the field, its limits and its comment.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from jobs_grpc.cli import arguments
from jobs_grpc.contract.comments import sentences_of
from jobs_grpc.contract.field_rules import rules_of

Fields: TypeAlias = Mapping[str, str | tuple[str, str]]
"""Maps the usage of an argument to the request field that it sets.

"JOB" and "[STAGE]" are arguments, "--stage N" is an option with a value, and "--force" a flag. A
help that follows the name of the field replaces that of the contract.
"""

FAILURE_CODES = "only failures with one of these codes; '' selects those without a code"
REJECTED_INCLUDES_CANCELED = (
    "this command can't tell CANCELED from REJECTED; --status REJECTED selects both"
)
ETAG: Fields = {"--etag ETAG": ("etag", "fail if the job has another etag (see get --json)")}

EXPIRY: Fields = {
    "--expires-in-hours N": "expires_in_hours",
    "--never-expires": "never_expires",
}

_Container: TypeAlias = "argparse._ActionsContainer"

# How the comment of an optional field says what happens without it.
_DEFAULTS = ("Unset: ", "Empty: ", "Default: ")


def add_fields(
    parser: _Container,
    request: type[Message],
    fields: Fields,
    *,
    time: Callable[[str], object] = arguments.time,
    canceled: str = "",
) -> None:
    """Add an option for each field; `forwarded` returns the values.

    `time` is the type of timestamps or durations. `canceled` is the error for CANCELED, a status
    of executions that only the CLI has.
    """

    def choice(value: str) -> str:
        if canceled and value == "CANCELED":
            raise argparse.ArgumentTypeError(canceled)
        return value

    types = {FieldDescriptor.CPPTYPE_ENUM: choice, FieldDescriptor.CPPTYPE_MESSAGE: time}
    names = []
    for usage, field in fields.items():
        name, help_text = (field, "") if isinstance(field, str) else field
        names.append(name)
        option, _, metavar = usage.partition(" ")
        kind = _options(request, name, types)
        kind["help"] = help_text.replace("%", "%%") or _help(request, name)
        if choices := kind.get("choices"):
            kind["help"] += f": {', '.join(choices)}"
        if not option.startswith("-"):
            nargs = "?" if option.startswith("[") else kind.get("nargs")
            only = {key: kind[key] for key in ("type", "help")}
            parser.add_argument(name, nargs=nargs, metavar=option.strip("[]"), **only)
            continue
        if metavar:
            kind["metavar"] = metavar
        parser.add_argument(option, dest=name, **kind)
    forward(parser, request, *names)


def forward(parser: _Container, request: type[Message], *names: str) -> None:
    """Mark arguments as request fields, so that `forwarded` returns them."""
    before = parser.get_default("forwarded") or []
    parser.set_defaults(forwarded=[*before, *((request, name) for name in names)])


def forwarded(args: argparse.Namespace, request: type[Message] | None = None) -> dict[str, Any]:
    """Return the arguments that set fields, of `request` or of any, for a method of a client."""
    return {name: getattr(args, name) for owner, name in args.forwarded if request in (None, owner)}


def _options(
    request: type[Message], name: str, types: Mapping[int, Callable[[str], object]]
) -> dict[str, Any]:
    """Return the parameters of add_argument that follow from the type and the limits of a field."""
    field, rules = request.DESCRIPTOR.fields_by_name[name], rules_of(request, name)
    options: dict[str, Any] = {}
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return {"action": "store_true"}
        case FieldDescriptor.CPPTYPE_STRING:
            options["type"] = arguments.text
            options["default"] = None if field.has_presence else ""
        case FieldDescriptor.CPPTYPE_INT32:
            options["type"] = arguments.number_of(request, name)
        case FieldDescriptor.CPPTYPE_INT64:
            options["type"] = arguments.position
        case kind:
            options["type"] = types[kind]
    if field.enum_type is not None:
        allowed = getattr((rules.repeated.items if field.is_repeated else rules).enum, "in")
        names = [v.name for v in field.enum_type.values if v.number in allowed or not allowed]
        options["choices"] = [name for name in names if not name.endswith("_UNSPECIFIED")]
    if field.is_repeated:
        options |= {"action": "extend", "nargs": "+", "default": []}
    if rules.required:
        options |= {"required": True, "default": None}
    return options


def _help(request: type[Message], name: str) -> str:
    """Return the first sentence of the comment, the limits, and the default."""
    first, *others = [s for s in sentences_of(request, name) if s != "Required"]
    text = first[:1].lower() + first[1:]
    if request.DESCRIPTOR.fields_by_name[name].enum_type is not None:
        text = text.partition(":")[0]
    if rules_of(request, name).int32.HasField("lte"):
        text += f", {arguments.range_text(request, name)}"
    for sentence in others:
        # Omit the default of a filter: everything is listed without it.
        if sentence.startswith(_DEFAULTS) and not text.startswith("only "):
            text += f" (default: {sentence.partition(': ')[2]})"
    return text.replace("%", "%%")
