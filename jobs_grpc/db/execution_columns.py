"""The columns of executions in SQL and in rows, from the fields of JobExecution in the contract.

A column has the name of its field. In the SQL of a view or function,
`/* for each FIELD: s.FIELD */` stands for a list with one element for each field: the text after
the colon, with the name of the field in place of FIELD, and its SQL type in place of TYPE. A word
before FIELD selects fields:

other     all but device_id, status and status_details; of these, readers get the last two only as
          far as a response has room
frequent  the times, number and version that each execution has
rare      the others: those of `other` that are not `frequent`
reported  those that reports set: see REPORTED

The lists are not in functions that SQL shares, because these cost time: see
docs/decisions/rows-of-arrays.md.
"""

import re

from fleet.jobs.v1.jobs_pb2 import JobExecution
from google.protobuf.descriptor import FieldDescriptor

FIELDS = tuple(field for field in JobExecution.DESCRIPTOR.fields if field.name != "job_id")
"""The fields of JobExecution except job_id, which only lists for a device fill."""

REPORTED = ("reported_by",)
"""The fields, next to status_details, that hold what the starts and reports of an attempt have set.

Each is an optional field of the contract, a column of job_executions and execution_attempts, and
the last attribute of the type execution_change. It is NULL at the start of an attempt; a report
that does not set it keeps it.
"""

_FIRST = ("device_id", "status", "status_details")
_FREQUENT = ("queued_at", "started_at", "last_updated_at", "execution_number", "version")
_RARE = tuple(field.name for field in FIELDS if field.name not in (*_FIRST, *_FREQUENT))
_SETS = {
    "": (*_FIRST, *_FREQUENT, *_RARE),
    "other": (*_FREQUENT, *_RARE),
    "frequent": _FREQUENT,
    "rare": _RARE,
    "reported": REPORTED,
}

_MESSAGE_TYPES = {"Timestamp": "timestamptz", "Struct": "jsonb"}
_SMALL_NUMBERS = {"stage"}

_LIST = re.compile(r"/\* for each (\w*) ?\bFIELD: (.+?) \*/", re.DOTALL)


def with_columns(sql: str) -> str:
    """Return the SQL of a view or function with its lists of columns."""
    sql = _LIST.sub(lambda match: _list(_SETS[match[1]], match[2]), sql)
    if "/* for each" in sql:
        raise ValueError("a list `/* for each … */` has no `FIELD:`")
    return sql


def page_column(name: str) -> str:
    """Return the column of execution_page with the values of a field: its plural."""
    return {"status": "statuses", "status_details": "status_details"}.get(name, f"{name}s")


def _list(names: tuple[str, ...], element: str) -> str:
    return ", ".join(
        element.replace("FIELD", name).replace("TYPE", _SQL_TYPES[name]) for name in names
    )


def _sql_type(field: FieldDescriptor) -> str:
    if field.message_type:
        return _MESSAGE_TYPES[field.message_type.name]
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT32:
        return "smallint" if field.name in _SMALL_NUMBERS else "integer"
    return {FieldDescriptor.CPPTYPE_BOOL: "boolean"}.get(field.cpp_type, "text")


_SQL_TYPES = {field.name: _sql_type(field) for field in FIELDS}
