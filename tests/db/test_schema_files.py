"""The order of views and functions, and the errors that they raise."""

import json

import pytest

from jobs_grpc.db.schema import SchemaError, order_by_dependency
from jobs_grpc.db.sqlstates import domain_error
from jobs_grpc.errors import BY_SQLSTATE


def test_order_puts_each_file_after_those_that_it_names() -> None:
    code = {
        "a_view": "CREATE VIEW jobs.a_view AS SELECT jobs.status_at(1) FROM jobs.details",
        "details": "CREATE VIEW jobs.details",
        "status_at": "-- See jobs.a_view.\nCREATE FUNCTION jobs.status_at() AS 'jobs.z_status()'",
        "z_status": "CREATE FUNCTION jobs.z_status() -- then jobs.status_at",
    }

    assert order_by_dependency(code) == ["details", "z_status", "status_at", "a_view"]


def test_order_fails_when_files_name_each_other_in_a_cycle() -> None:
    code = {"a": "jobs.b()", "b": "jobs.c()", "c": "jobs.a()"}

    with pytest.raises(SchemaError, match="cycle: a -> b -> c -> a"):
        order_by_dependency(code)


def test_each_sqlstate_becomes_its_exception() -> None:
    """With only the facts that the SQL of each error sends."""
    args = {"tenant_id": "t", "job_id": "j", "device_id": "d", "max_targets": 1}
    args |= {"max_active_jobs": 1, "webhook_id": "w", "max_devices": 1}
    stages = {"status": "CANCELED", "open_stage": 0}
    facts: dict[str, dict[str, object]] = {
        "JB002": {"group_id": "g"},
        "JB004": {"deleted": True},
        "JB016": stages | {"etag": "1"},
        "JB020": stages | {"cause": "FINISHED"},
        "JB022": {"stage": 1, "open_stage": 0, "last_stage": 1, "is_started": True},
        "JB023": {"changes_start": False},
        "JB024": {"problem": "must not change"},
        "JB026": {"group_id": "g", "selector": None},
        "JB031": {"device_ids": ["d"], "count": 1},
        "JB034": {"failed_in": None, "selector": "a=b"},
        "JB035": {"device_count": "1", "expected_count": "2"},
        "JB027": {
            "seconds": 2,
            "seconds_left": 1,
            "stages": [],
            "stage_count": 0,
            "is_scheduled": False,
        },
        "JB039": {"position": 1, "purged_position": 2},
        "JB040": {"position": 2, "last_position": 1},
        "JB048": {"cause": "FINISHED", "status": "CANCELED"},
    }

    assert sorted(BY_SQLSTATE) == [f"JB{number:03}" for number in range(1, len(BY_SQLSTATE) + 1)]
    for sqlstate, error_type in BY_SQLSTATE.items():
        hint = json.dumps(facts[sqlstate]) if sqlstate in facts else ""
        assert type(domain_error(sqlstate, args, "0", hint)) is error_type
    assert domain_error("JB000", args, "") is None
    assert domain_error("42883", args, "", "You might need to add explicit type casts.") is None
