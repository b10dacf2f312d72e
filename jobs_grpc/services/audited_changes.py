"""What a call has changed, for its line in the audit log."""

import json
from collections import Counter
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple

from fleet.jobs.v1 import fleet_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from jobs_grpc.db.store import Row

_changes: ContextVar[dict[str, Any] | None] = ContextVar("audited_changes", default=None)

# Maximum bytes of all changes of a call as written in the log, and the lengths to which values are
# cut until they fit. The names of the fields always fit.
_MAX_BYTES = 1024
_LENGTHS = (1024, 256, 128, 64, 32, 8)

# Maximum keys of labels.
_MAX_LABELS = 20


class _Change(NamedTuple):
    old: Any
    new: Any


def audited_changes() -> dict[str, Any] | None:
    """Return what the current call has changed; None: it has noted nothing."""
    return _changes.get()


def note_changed_fields(paths: Iterable[str], before: Message, after: Message) -> None:
    """Note the old and the new values of the fields that a mask names."""
    _note({path: _Change(_value(before, path), _value(after, path)) for path in sorted(paths)})


def note_device_changes(
    request: fleet_pb2.UpdateDevicesRequest, label_counts: Counter[str], row: Row
) -> None:
    """Note the most frequent keys of labels, and numbers: `row` is that of update_devices.sql."""
    changes: dict[str, Any] = {name: row[f"{name}_count"] for name in ("registered", "updated")}
    for field in sorted({*request.update_mask.paths} - {"labels"}):
        changes[field] = len(request.devices)
    if label_counts:
        changes["label_count"] = len(label_counts)
        changes["labels"] = dict(label_counts.most_common(_MAX_LABELS))
    if request.remove_labels:
        changes["remove_labels"] = [*request.remove_labels]
    _note(changes)


def _note(changes: dict[str, Any]) -> None:
    """Note the changes; values that do not fit are cut, as text."""
    for length in _LENGTHS:
        cut = {field: _cut(value, length) for field, value in changes.items()}
        # The text format quotes the JSON, which is longer than what the JSON format has.
        if len(json.dumps(json.dumps(cut))) <= _MAX_BYTES:
            break
    _changes.set(cut)


def _cut(value: Any, length: int) -> Any:
    if isinstance(value, _Change):
        return {"old": _cut(value.old, length), "new": _cut(value.new, length)}
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= length else f"{text[:length]}..."


def _value(message: Any, path: str) -> Any:
    """Return a field as JSON; None if it is not set or empty."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.has_presence and not message.HasField(name):
        return None
    only = type(message)(**{name: getattr(message, name)})
    fields = json_format.MessageToDict(only, preserving_proto_field_name=True)
    # The JSON of a message leaves out false and 0, which are values.
    return fields.get(name, None if field.is_repeated else field.default_value)
