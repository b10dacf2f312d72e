"""Checks the fields of requests by the limits that the contract declares as buf.validate options.

The options are compiled to plain functions when this module is imported. An option that is not
supported raises NotImplementedError then.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from buf.validate import validate_pb2 as validate
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from jobs_grpc.contract.methods import SERVICES
from jobs_grpc.contract.value_rules import Describe, IsValid, compile_rules, require_supported
from jobs_grpc.errors import Violation

# The stubs of protobuf have two types of descriptors that do not fit each other.
Descriptor: TypeAlias = Any

Check: TypeAlias = Callable[[Any, str, list[Violation]], None]
"""Appends violations. The first argument is a message, or the elements of one of its fields; the
second is the path of the message, empty or with a period at the end."""


Value: TypeAlias = tuple[str, IsValid, bool, bool, Describe]
"""The rule of a field with one value: its name, whether a value is valid, whether zero is valid,
whether the field can be unset. One loop over plain tuples is faster than functions or objects."""

_RULES: dict[type[Message], tuple[list[Value], list[Check]]] = {}
"""The rules of values, and the checks of messages, repeated fields and oneofs."""


def check(
    message: Any, path: str = "", violations: list[Violation] | None = None
) -> list[Violation]:
    """Return the violations of all fields. For a part of a request, extend `violations`."""
    if violations is None:
        violations = []
    values, checks = _RULES[type(message)]
    for name, is_valid, is_zero_valid, can_be_unset, describe in values:
        value = getattr(message, name)
        if is_valid(value) if value else is_zero_valid:
            continue
        if not (can_be_unset and not message.HasField(name)):
            violations.append(Violation(path + name, f"{path}{name} {describe(value)}"))
    for check_more in checks:
        check_more(message, path, violations)
    return violations


def rules_of(message: type[Message], name: str) -> validate.FieldRules:
    """Return the declared limits of a field."""
    return _options(message.DESCRIPTOR.fields_by_name[name])


def _options(field: Descriptor) -> validate.FieldRules:
    options: validate.FieldRules = field.GetOptions().Extensions[validate.field]
    return options


def _compile(message: Descriptor) -> None:
    """Compile the rules of a message, and of those in its fields."""
    message_class = GetMessageClass(message)
    if message_class in _RULES:
        return
    require_supported(message.GetOptions().Extensions[validate.message], (), message.full_name)
    values, checks = _RULES[message_class] = [], []
    for field in message.fields:
        options = _options(field)
        if _is_of_contract(field):
            _compile(field.message_type)
        if options.ignore == validate.IGNORE_ALWAYS:
            continue
        if field.is_repeated:
            checks.append(_list_check(field, options))
        elif _is_of_contract(field):
            require_supported(options, (), field.full_name)
            checks.append(_message_check(field.name))
        elif rule := compile_rules(field, options):
            is_valid, describe = rule
            is_ignored = options.ignore == validate.IGNORE_IF_ZERO_VALUE
            can_be_unset = field.has_presence and not options.required
            is_zero_valid = is_ignored or _is_zero_valid(field)
            if field.message_type and can_be_unset:
                checks.append(_optional_check(field.name, is_valid, describe))
            else:
                values.append((field.name, is_valid, is_zero_valid, can_be_unset, describe))
    for oneof in message.oneofs:
        oneof_options = oneof.GetOptions().Extensions[validate.oneof]
        require_supported(oneof_options, ("required",), oneof.full_name)
        if oneof_options.required:
            checks.append(_oneof_check(oneof))


def _is_of_contract(field: Descriptor) -> bool:
    message = field.message_type
    return message is not None and message.full_name.startswith("fleet.")


def _is_zero_valid(field: Descriptor) -> bool:
    rule = compile_rules(field, _options(field))
    return field.message_type is None and (rule is None or bool(rule[0](field.default_value)))


def _message_check(name: str) -> Check:
    def check_message(message: Any, path: str, violations: list[Violation]) -> None:
        if message.HasField(name):
            check(getattr(message, name), f"{path}{name}.", violations)

    return check_message


def _optional_check(name: str, is_valid: IsValid, describe: Describe) -> Check:
    """Compile the rule of a well-known type, such as a Timestamp: most requests leave it unset."""

    def check_optional(message: Any, path: str, violations: list[Violation]) -> None:
        if message.HasField(name):
            value = getattr(message, name)
            if not is_valid(value):
                violations.append(Violation(path + name, f"{path}{name} {describe(value)}"))

    return check_optional


def _list_check(field: Descriptor, options: validate.FieldRules) -> Check:
    """Compile the check of a repeated field. If it has too many elements, none of them is read."""
    require_supported(options, ("required", "repeated"), field.full_name)
    require_supported(options.repeated, ("max_items", "items"), field.full_name)
    required, high = options.required, options.repeated.max_items
    if not high:
        raise NotImplementedError(f"{field.full_name}: a repeated field needs max_items")
    name, check_elements = field.name, _elements_check(field, options.repeated.items)

    def check_list(message: Any, path: str, violations: list[Violation]) -> None:
        elements = getattr(message, name)
        if required and not elements:
            violations.append(Violation(path + name, f"{path}{name} is required"))
        elif len(elements) > high:
            text = f"{path}{name} must have at most {high} elements"
            violations.append(Violation(path + name, text))
        elif elements and check_elements:
            check_elements(elements, path, violations)

    return check_list


def _elements_check(field: Descriptor, options: validate.FieldRules) -> Check | None:
    name = field.name
    if options.ignore == validate.IGNORE_ALWAYS:
        return None
    if _is_of_contract(field):
        require_supported(options, (), field.full_name)

        def check_messages(elements: Any, path: str, violations: list[Violation]) -> None:
            for index, element in enumerate(elements):
                check(element, f"{path}{name}[{index}].", violations)

        return check_messages

    rule = compile_rules(field, options)
    if rule is None:
        return None
    is_valid, describe = rule
    is_enum, only_defined = field.enum_type is not None, options.enum.defined_only
    enum_name = field.enum_type.name.lower() if is_enum else ""

    def check_values(elements: Any, path: str, violations: list[Violation]) -> None:
        for index, value in enumerate(elements):
            if is_valid(value):
                continue
            element = f"{path}{name}[{index}]"
            if is_enum:  # one violation is enough: it lists the valid values
                subject = enum_name if only_defined else element  # "status 9 is unknown"
                violations.append(Violation(path + name, f"{subject} {describe(value)}"))
                return
            violations.append(Violation(element, f"{element} {describe(value)}"))

    return check_values


def _oneof_check(oneof: Descriptor) -> Check:
    """Compile "required". A member with a valid zero, such as an empty ID, counts as unset."""
    name = oneof.name
    text = f"Exactly one of {', '.join(field.name for field in oneof.fields)} must be set"
    can_be_zero = {field.name for field in oneof.fields if _is_zero_valid(field)}

    def check_oneof(message: Any, path: str, violations: list[Violation]) -> None:
        member = message.WhichOneof(name)
        if member is None or (member in can_be_zero and not getattr(message, member)):
            violations.append(Violation(path.removesuffix(".") or name, text))

    return check_oneof


for _service in SERVICES:
    for _method in _service.methods:
        _compile(_method.input_type)
