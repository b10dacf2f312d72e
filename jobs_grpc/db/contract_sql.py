"""Fills what SQL files take from the contract: lists of columns, and maxima of fields.

`/* for each FIELD: s.FIELD */` stands for a list: see execution_columns.py.
`/* maximum of CreateJobRequest.expires_in_hours */` stands for the maximum of a number.
"""

import re

from fleet.jobs.v1 import jobs_pb2

from jobs_grpc.contract.field_rules import rules_of
from jobs_grpc.db.execution_columns import with_columns

_MAXIMUM = re.compile(r"/\* maximum of (\w+)\.(\w+) \*/")


def with_contract(sql: str) -> str:
    """Return the SQL of a view or function with what it takes from the contract."""
    return _MAXIMUM.sub(_maximum, with_columns(sql))


def _maximum(match: re.Match[str]) -> str:
    rules = rules_of(getattr(jobs_pb2, match[1]), match[2]).int32
    if not rules.HasField("lte"):
        raise ValueError(f"{match[0]}: the field has no maximum")
    return str(rules.lte)
