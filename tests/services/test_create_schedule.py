"""Start times, start windows, retry policies and priorities: checks and repeats of CreateJob."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobs_grpc.services.schedule import MAX_POLICY_BYTES, MAX_SCHEDULE_BYTES
from tests.support.callers import Operator
from tests.support.database import Database
from tests.support.failures import expect_error, invalid_fields

FAILED, TIMED_OUT = pb.JobExecution.FAILED, pb.JobExecution.TIMED_OUT
REJECTED = pb.JobExecution.REJECTED
MONDAY, SUNDAY = pb.StartWindow.MONDAY, pb.StartWindow.SUNDAY
NIGHT = pb.StartWindow(start_time="22:00", duration=Duration(seconds=6 * 3600))


def _window(**fields: Any) -> pb.StartWindow:
    window = pb.StartWindow(**{"start_time": "22:00"} | fields)
    if not window.HasField("duration"):
        window.duration.FromSeconds(6 * 3600)
    return window


def _policy(*rules: dict[str, Any]) -> pb.RetryPolicy:
    return pb.RetryPolicy(rules=[pb.RetryRule(**{"max_attempts": 3} | rule) for rule in rules])


def _in(**time: float) -> Timestamp:
    return Timestamp(seconds=int((datetime.now(UTC) + timedelta(**time)).timestamp()))


@pytest.fixture
async def fleet(database: Database, operator: Operator) -> Operator:
    await database.add_devices(operator.tenant, 1)
    await database.set_time_offset(0)
    return operator


INVALID: list[tuple[str, dict[str, Any]]] = [
    *(
        (f"start_windows[{len(windows) - 1}].{field}", {"start_windows": windows})
        for field, windows in (
            ("start_time", [_window(start_time="24:00")]),
            ("start_time", [NIGHT, _window(start_time="7:00")]),
            ("start_time", [_window(start_time="٠٧:00")]),
            ("start_time", [_window(start_time="")]),
            ("days", [_window(days=[MONDAY, MONDAY])]),
            ("days", [_window(days=[0])]),
            ("days", [_window(days=[8])]),
            ("duration", [_window(duration=Duration(seconds=899))]),
            ("duration", [_window(duration=Duration(seconds=86_401))]),
            ("duration", [_window(duration=Duration(seconds=930))]),
            ("duration", [pb.StartWindow(start_time="22:00")]),
        )
    ),
    ("start_windows", {"start_windows": [NIGHT] * 15}),
    *(
        ("window_time_zone", {"start_windows": [NIGHT], "window_time_zone": zone})
        for zone in ("CET", "Europe/Berlin1", "device")
    ),
    ("window_time_zone", {"start_windows": [], "window_time_zone": "UTC"}),
    ("window_time_zone", {"start_windows": [], "window_time_zone": "DEVICE"}),
    *(
        (f"retry_policy.rules[{len(rules) - 1}].{field}", {"retry_policy": _policy(*rules)})
        for field, rules in (
            ("max_attempts", [{"max_attempts": 0}]),
            ("max_attempts", [{"max_attempts": 1}]),
            ("max_attempts", [{"max_attempts": 11}]),
            ("statuses", [{}, {"statuses": [pb.JobExecution.SUCCEEDED]}]),
            ("failure_codes", [{"statuses": [FAILED, REJECTED]}]),
            ("failure_codes", [{"statuses": [REJECTED], "failure_codes": ["BUSY", ""]}]),
            ("failure_codes[0]", [{"failure_codes": ["a b"]}]),
            ("initial_backoff", [{"initial_backoff": Duration()}]),
            ("max_backoff", [{"max_backoff": Duration(seconds=299)}]),
            ("backoff_multiplier", [{"backoff_multiplier": 11}]),
        )
    ),
    ("retry_policy.rules", {"retry_policy": _policy(*[{}] * 11)}),
    ("retry_policy", {"retry_policy": _policy({"failure_codes": [f"{n:064}" for n in range(64)]})}),
    ("priority", {"priority": 4}),
    ("start_at", {"start_at": Timestamp(seconds=2**40)}),
]


async def test_create_and_update_reject_an_invalid_schedule(fleet: Operator) -> None:
    await fleet.create(job_id="j", target_all=True)
    before = await fleet.get("j")

    for field, fields in INVALID:
        failure = await expect_error("INVALID_FIELD", fleet.create(target_all=True, **fields))
        assert {*failure.violations} == {field}
        assert field in failure.message or "is unknown" in failure.message
        if field != "priority":  # It can't change.
            assert await invalid_fields(fleet.update("j", *fields, **fields)) == [field]

    assert await fleet.get("j") == before
    assert len((await fleet.list()).jobs) == 1


async def test_update_ignores_a_schedule_that_the_mask_does_not_name(fleet: Operator) -> None:
    await fleet.create(job_id="j", target_all=True)

    job = await fleet.update(
        "j",
        "description",
        description="d",
        start_windows=[pb.StartWindow()],
        window_time_zone="CET",
        retry_policy=pb.RetryPolicy(rules=[pb.RetryRule()]),
    )

    assert job.description == "d"
    assert not job.start_windows


async def test_create_returns_the_schedule_in_the_canonical_form(fleet: Operator) -> None:
    start_at = _in(days=89)
    windows = [
        _window(days=[SUNDAY, MONDAY], start_time="00:05", duration=Duration(seconds=900)),
        _window(days=range(1, 8), start_time="23:59", duration=Duration(seconds=86_400)),
        _window(days=[MONDAY, SUNDAY], start_time="00:05", duration=Duration(seconds=900)),
    ]
    policy = _policy(
        {"failure_codes": ["NETWORK", "DISK", "NETWORK"], "max_attempts": 10},
        {"failure_codes": ["", "X"]},
        {
            "statuses": [TIMED_OUT],
            "initial_backoff": Duration(seconds=604_800),
            "backoff_multiplier": 1,
        },
    )

    await fleet.create(
        job_id="j",
        target_all=True,
        never_expires=True,
        start_at=start_at,
        start_windows=windows,
        window_time_zone="Europe/Berlin",
        retry_policy=policy,
        priority=pb.Job.HIGH,
    )

    job = await fleet.get("j")
    assert (job.start_at, job.window_time_zone) == (start_at, "Europe/Berlin")
    assert job.priority == pb.Job.HIGH
    windows[0].days[:] = [MONDAY, SUNDAY]
    assert list(job.start_windows) == [
        windows[0],
        _window(start_time="23:59", duration=Duration(seconds=86_400)),
    ]
    minutes_5, day, week = (Duration(seconds=s) for s in (300, 86_400, 604_800))
    backoff = {"initial_backoff": minutes_5, "backoff_multiplier": 2, "max_backoff": day}
    assert job.retry_policy == _policy(
        {
            "statuses": [FAILED, TIMED_OUT, REJECTED],
            "failure_codes": ["DISK", "NETWORK"],
            "max_attempts": 10,
            **backoff,
        },
        {"statuses": [FAILED, TIMED_OUT], "failure_codes": ["", "X"], **backoff},
        {
            "statuses": [TIMED_OUT],
            "initial_backoff": week,
            "backoff_multiplier": 1,
            "max_backoff": week,
        },
    )


async def test_create_returns_the_time_zone_of_the_windows(fleet: Operator) -> None:
    for zone in ("", "UTC", "DEVICE"):
        request = {"start_windows": [NIGHT], "window_time_zone": zone}
        job_id = (await fleet.create(target_all=True, **request)).job_id
        assert (await fleet.get(job_id)).window_time_zone == (zone or "UTC")


async def test_create_returns_no_schedule_when_it_has_none(fleet: Operator) -> None:
    await fleet.create(job_id="j", target_all=True, retry_policy=pb.RetryPolicy())

    job = await fleet.get("j")
    assert not any(job.HasField(field) for field in ("start_at", "retry_policy"))
    assert (list(job.start_windows), job.window_time_zone) == ([], "")
    assert job.priority == pb.Job.NORMAL


START = _in(days=1)
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"start_at": START}, {"start_at": START}),
    ({"start_windows": [NIGHT]}, {"start_windows": [NIGHT], "window_time_zone": "UTC"}),
    (
        {"start_windows": [NIGHT, _window(days=[MONDAY])]},
        {"start_windows": [_window(days=[MONDAY]), _window(days=range(1, 8)), NIGHT]},
    ),
    ({"priority": pb.Job.NORMAL}, {}),
    ({"retry_policy": pb.RetryPolicy()}, {"expires_in_hours": 24}),
    (
        {"retry_policy": _policy({"failure_codes": ["B", "A"]})},
        {
            "retry_policy": _policy(
                {
                    "statuses": [REJECTED, FAILED, TIMED_OUT],
                    "failure_codes": ["A", "B", "A"],
                    "initial_backoff": Duration(seconds=300),
                    "backoff_multiplier": 2,
                    "max_backoff": Duration(seconds=86_400),
                }
            ),
            "expires_in_hours": 24,
        },
    ),
]


async def test_repeated_create_with_the_same_schedule_returns_the_first_response(
    fleet: Operator,
) -> None:
    for number, (first, repeated) in enumerate(SAME):
        job_id = f"j{number}"
        response = await fleet.create(job_id=job_id, target_all=True, **first)
        for fields in (first, repeated):
            assert await fleet.create(job_id=job_id, target_all=True, **fields) == response


OTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"start_at": START}, {}),
    ({"start_at": START}, {"start_at": START, "expires_in_hours": 24}),
    ({"start_at": START}, {"start_at": Timestamp(seconds=START.seconds, nanos=1000)}),
    ({"start_windows": [NIGHT]}, {}),
    ({"start_windows": [NIGHT]}, {"start_windows": [NIGHT], "window_time_zone": "DEVICE"}),
    ({"start_windows": [NIGHT]}, {"start_windows": [_window(days=[MONDAY])]}),
    ({"start_windows": [NIGHT]}, {"start_windows": [NIGHT], "expires_in_hours": 24}),
    ({"priority": pb.Job.HIGH}, {"priority": pb.Job.LOW}),
    ({"priority": pb.Job.HIGH}, {}),
    ({"retry_policy": _policy({})}, {}),
    ({"retry_policy": _policy({})}, {"retry_policy": _policy({"max_attempts": 4})}),
    (
        {"retry_policy": _policy({}, {"max_attempts": 4})},
        {"retry_policy": _policy({"max_attempts": 4}, {})},
    ),
]


async def test_create_is_rejected_when_job_id_exists_with_another_schedule(fleet: Operator) -> None:
    for number, (first, other) in enumerate(OTHER):
        job_id = f"j{number}"
        await fleet.create(job_id=job_id, target_all=True, **first)
        repeated = fleet.create(job_id=job_id, target_all=True, **other)
        await expect_error("JOB_ALREADY_EXISTS", repeated)


def test_largest_schedule_is_within_its_maximum_size() -> None:
    codes = [f"{code:064}" for code in range(100)]
    windows = [_window(days=range(1, 7), start_time="23:59")] * 14
    rest = {"backoff_multiplier": 10, "initial_backoff": Duration(seconds=604_800)}
    policy = _policy({"failure_codes": codes[:59], "statuses": [FAILED]}, *[rest] * 9)
    assert 0.9 * MAX_POLICY_BYTES < policy.ByteSize() <= MAX_POLICY_BYTES
    # What the response has although the request does not.
    for rule in policy.rules:
        rule.statuses[:] = [FAILED, TIMED_OUT, REJECTED]
        rule.max_backoff.FromSeconds(604_800)
        rule.initial_backoff.FromSeconds(604_800)
        rule.backoff_multiplier = 2
    job = pb.Job(
        start_at=START,
        start_windows=windows,
        window_time_zone="x" * 64,
        retry_policy=policy,
        next_openings=[START] * 7,
    )

    assert job.ByteSize() <= MAX_SCHEDULE_BYTES < 1.4 * job.ByteSize()
