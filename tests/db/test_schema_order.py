"""The order in which views and functions are created."""

import re

import pytest

from jobs_grpc.db import schema
from jobs_grpc.db.schema import SchemaError, order_by_dependency


def test_order_puts_each_file_after_its_dependencies() -> None:
    code = {
        "a_view": "-- depends on: status_at, details\nCREATE VIEW",
        "details": "CREATE FUNCTION",
        "status_at": "-- Computes a status.\n-- depends on: z_status\nCREATE FUNCTION",
        "z_status": "CREATE FUNCTION",
    }

    assert order_by_dependency(code) == ["details", "z_status", "status_at", "a_view"]


def test_order_fails_when_a_dependency_has_no_file() -> None:
    with pytest.raises(SchemaError, match=r"^a\.sql depends on b, which has no file$"):
        order_by_dependency({"a": "-- depends on: b\n"})


def test_order_fails_when_dependencies_form_a_cycle() -> None:
    code = {"a": "-- depends on: b\n", "b": "-- depends on: c\n", "c": "-- depends on: a\n"}

    with pytest.raises(SchemaError, match="cycle: a -> b -> c -> a"):
        order_by_dependency(code)


def test_each_file_creates_the_object_of_its_name() -> None:
    names = [
        re.search(r"^CREATE OR REPLACE (?:FUNCTION|VIEW) jobs\.(\w+)", sql, re.MULTILINE)[1]  # type: ignore[index]
        for sql in schema.code()
    ]

    assert len(set(names)) == len(names)
    assert names.index("execution_states") < names.index("get_execution")
