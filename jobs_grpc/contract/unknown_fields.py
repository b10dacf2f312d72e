"""Refuses fields of requests that this version of the contract does not have.

A newer client may rely on such a field, for example for safety, so it must not be dropped.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from jobs_grpc.contract.field_rules import rules_of
from jobs_grpc.errors import InvalidField, Violation

# Maximum bytes of unknown fields that are searched for their numbers, which takes about 1 us a byte
# and blocks the event loop.
_MAX_SEARCHED_BYTES = 1000


def refuse_unknown_fields(request: Message) -> None:
    """Raise InvalidField if a request, or a message of the contract in it, has unknown fields.

    Those of other messages, such as google.protobuf.Struct, are discarded, unless all unknown
    fields take more than 1,000 bytes. Each call pays for the sizes (about 1 us), and only one with
    unknown fields for the search.
    """
    raw = request.SerializeToString()
    request.DiscardUnknownFields()
    unknown_bytes = len(raw) - request.ByteSize()
    if not unknown_bytes:
        return
    if unknown_bytes > _MAX_SEARCHED_BYTES:
        problem = f"the request has {unknown_bytes} bytes of unknown fields"
        raise InvalidField([Violation("", f"{problem}; the client is newer than the server")])
    found = _find(type(request).FromString(raw))
    if violations := list(islice(found, InvalidField.MAX_VIOLATIONS)):
        raise InvalidField(violations)


def _find(message: Any, path: str = "") -> Iterator[Violation]:
    owner, unknown = path.removesuffix(".") or "the request", UnknownFieldSet(message)
    for index in range(len(unknown)):
        number = unknown[index].field_number
        problem = f"{owner} has the unknown field {number}; the client is newer than the server"
        yield Violation(f"{path}{number}", problem)
    for field, value in message.ListFields():
        nested = field.message_type
        if nested is None or nested.file.package != message.DESCRIPTOR.file.package:
            continue
        if not field.is_repeated:
            yield from _find(value, f"{path}{field.name}.")
        elif not nested.GetOptions().map_entry:
            # A list with more elements is refused anyway.
            high = rules_of(type(message), field.name).repeated.max_items
            for index, element in enumerate(islice(value, high)):
                yield from _find(element, f"{path}{field.name}[{index}].")
