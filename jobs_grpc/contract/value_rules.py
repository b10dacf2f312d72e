"""Compiles the buf.validate options of a single value to functions."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC
from typing import Any, TypeAlias

from buf.validate import validate_pb2 as validate
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

IsValid: TypeAlias = Callable[[Any], object]
"""Returns something true if a value is valid. Often a method of a built-in type, which is fast."""

Describe: TypeAlias = Callable[[Any], str]
"""Says what an invalid value must be, as it follows the name of the field."""

Rule: TypeAlias = tuple[IsValid, Describe]

# A pattern is a set of characters, and possibly how many of them a text has.
_PATTERN = re.compile(r"\^(\[.+\])(?:\*|\{(\d+),(\d+)\})\$")
_CHARACTERS = {
    r"[^\x00]": " without U+0000",
    r"[^\x00-\x1f\x7f-\x9f]": " without control characters",
    "[A-Za-z0-9._:-]": " of A-Z a-z 0-9 . _ : -",
    "[A-Za-z0-9_-]": " of A-Z a-z 0-9 _ -",
}

# Other patterns, and what they describe.
_FORMS = {r"^[a-z]{1,20}\.[a-z_]{1,30}$": "must be a type of events, such as job.created"}


def compile_rules(field: FieldDescriptor, rules: validate.FieldRules) -> Rule | None:
    """Compile the rules of a value; None if there are none."""
    kind = rules.WhichOneof("type")
    if kind is None:
        require_supported(rules, ("ignore",), field.full_name)
        is_time = field.message_type and field.message_type.full_name == "google.protobuf.Timestamp"
        return _TIME if is_time else None
    if kind not in _KINDS:
        raise NotImplementedError(f"{field.full_name}: rules of {kind} are not supported")
    supported, compile_kind = _KINDS[kind]
    require_supported(rules, ("ignore", "required", kind), field.full_name)
    require_supported(getattr(rules, kind), supported, field.full_name)
    return compile_kind(field, rules)


def require_supported(rules: Message, supported: Sequence[str], where: str) -> None:
    """Raise NotImplementedError if an option is set that is not among the `supported` ones."""
    for option, _ in rules.ListFields():
        if option.name not in supported:
            raise NotImplementedError(f"{where}: {option.full_name} is not supported")


def _is_time(value: Any) -> bool:
    try:
        value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        return False
    return True


# The range of google.protobuf.Timestamp.
_TIME: Rule = (_is_time, lambda _: "must be a time in the years 1 to 9999")


def _text(field: FieldDescriptor, rules: validate.FieldRules) -> Rule:
    options = rules.string
    if options.max_len and not (options.min_len or options.pattern):
        any_text = f"must be at most {options.max_len} characters"
        return lambda value, high=options.max_len: len(value) <= high, lambda _: any_text
    if form := _FORMS.get(options.pattern):
        return re.compile(options.pattern.replace("$", r"\Z")).match, lambda _: form
    match = _PATTERN.fullmatch(options.pattern)
    if match is None or match[1] not in _CHARACTERS or not (match[3] or options.max_len):
        raise NotImplementedError(f"{field.full_name}: this pattern is not supported")
    low, high = int(match[2] or options.min_len), int(match[3] or options.max_len)
    excluded = [*options.not_in]
    count = f"{low}–{high}" if low else f"at most {high}"
    text = f"must be {count} characters{_CHARACTERS[match[1]]}"
    empty_text = "is required" if rules.required and not options.min_len else text
    others = "|".join(map(re.escape, excluded))
    not_excluded = f"(?!(?:{others})\\Z)" if excluded else ""
    is_valid = re.compile(f"{not_excluded}{match[1]}{{{low},{high}}}").fullmatch
    excluded_text = f"must not be {' or '.join(excluded)}"
    texts = dict.fromkeys(excluded, excluded_text) | {"": empty_text}
    return is_valid, lambda value: texts.get(value, text)


def _number(_: FieldDescriptor, rules: validate.FieldRules) -> Rule:
    limits = rules.int64 if rules.HasField("int64") else rules.int32
    low, high, text = limits.gte, 2**63 - 1, f"must be {limits.gte} or more"
    if limits.HasField("lte"):
        high = limits.lte
        text = f"must be from {low} to {high}"
    return range(low, high + 1).__contains__, lambda _: text


def _choice(field: FieldDescriptor, rules: validate.FieldRules) -> Rule:
    names: Any = field.enum_type and field.enum_type.values_by_number
    numbers = {*(getattr(rules.enum, "in") or names)} - {*rules.enum.not_in}
    text = f"must be one of {', '.join(names[number].name for number in sorted(numbers) if number)}"
    if rules.enum.defined_only:
        return numbers.__contains__, lambda value: f"{value} is unknown; it {text}"
    return numbers.__contains__, lambda _: text


def _duration(_: FieldDescriptor, rules: validate.FieldRules) -> Rule:
    """Durations are stored as whole seconds."""
    low, high = rules.duration.gte.seconds, rules.duration.lte.seconds
    text = f"must be {low}–{high} whole seconds"
    return lambda value: not value.nanos and low <= value.seconds <= high, lambda _: text


def _mask(_: FieldDescriptor, rules: validate.FieldRules) -> Rule:
    paths = getattr(rules.field_mask, "in")
    text, allowed = f"must name one or more of {', '.join(paths)}", {*paths}
    return lambda value: value.paths and allowed.issuperset(value.paths), lambda _: text


_Compile: TypeAlias = Callable[[FieldDescriptor, validate.FieldRules], Rule]

# The options that are supported of each kind of rules.
_KINDS: dict[str, tuple[Sequence[str], _Compile]] = {
    "string": (("min_len", "max_len", "pattern", "not_in"), _text),
    "int32": (("gte", "lte"), _number),
    "int64": (("gte", "lte"), _number),
    "enum": (("in", "not_in", "defined_only"), _choice),
    "duration": (("gte", "lte"), _duration),
    "field_mask": (("in",), _mask),
}
