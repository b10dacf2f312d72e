"""The forecast of CreateJob, and start windows in the check of the expiry."""

import functools
import heapq
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1.fleet_pb2 import Device
from google.protobuf.duration_pb2 import Duration

from tests.model.windows import Window, Zone
from tests.support.database import Database
from tests.support.failures import expect_error
from tests.support.scale import SCALE
from tests.support.staged_jobs import rollout
from tests.support.world import World

_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
_SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def server_settings(database: Database) -> dict[str, str]:
    """Settings with which the server accepts bake_time."""
    return {"JOBS_OWNER_DATABASE_URL": database.owner_dsn}


@dataclass
class Stage:
    """A stage of a plan. Times are in seconds."""

    size: int
    rate: int | None
    min_succeeded_percent: int | None
    bake: int
    advance_after: int | None


@dataclass
class Plan:
    """A job whose devices start as soon as they can and succeed at once."""

    start: datetime
    stages: list[Stage]
    windows: list[Window]
    zones: list[str]
    """Device n has the zone n, or the last one."""

    def can_start(self, zone: str, seconds: Fraction) -> Fraction:
        """When a device that is released after so many seconds can start."""
        if not self.windows:
            return seconds
        start = self.start.replace(tzinfo=None)
        released_at = start + float(seconds) * _SECOND
        if _zone(zone).is_open(self.windows, released_at):
            return seconds
        (opening,) = _zone(zone).next_openings(self.windows, released_at, 1)
        return Fraction((opening - start) // _MICROSECOND, 10**6)

    def last_start(self) -> Fraction:
        """Simulate the devices one by one. Return the seconds until the last one has started.

        And until all stages are open, if the last ones are empty.
        """
        opened = Fraction(0)
        released = Fraction(0)  # With the part of the next release that has passed.
        starts: list[Fraction] = []
        first = 0
        waiting: list[int] = []  # Devices of earlier stages that are not released.
        for number, stage in enumerate(self.stages):
            devices = range(first, first + stage.size)
            first += stage.size
            in_order = [*waiting, *devices]
            released_at = {
                device: opened + max(Fraction(0), (device + 1 - released) * 60 / stage.rate)
                if stage.rate
                else opened
                for device in in_order
            }
            started = {
                device: self.can_start(self.zones[min(device, len(self.zones) - 1)], at)
                for device, at in released_at.items()
            }
            if number == len(self.stages) - 1:
                return max(opened, *starts, *started.values())
            ends = heapq.nsmallest(stage.size, (started[device] for device in devices))
            percent = stage.min_succeeded_percent
            needed = ceil(Fraction((100 if percent is None else percent) * stage.size, 100))
            met = ends[needed - 1] if needed else opened
            opens = max(met, opened) + (stage.bake if stage.size else 0)
            if stage.advance_after is not None:
                opens = min(opens, opened + stage.advance_after)
            waiting = [device for device in in_order if released_at[device] > opens]
            starts += [started[device] for device in in_order if device not in waiting]
            if stage.rate:
                released = min(Fraction(first), released + (opens - opened) * stage.rate / 60)
            else:
                released = Fraction(first)
            opened = opens
        raise AssertionError("a plan has stages")


@functools.cache
def _zone(name: str) -> Zone:
    """A time zone in 2026 and 2027. The model has naive times in UTC."""
    first = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    return Zone(ZoneInfo(name), first, first + timedelta(days=730))


def _random_plan(rng: random.Random) -> Plan:
    sizes = [rng.randint(0 if n else 1, 12) for n in range(rng.randint(1, 4))]
    stages = [
        Stage(
            size=size,
            rate=rng.choice([None, None, 1, 2, 3, 60]),
            min_succeeded_percent=rng.choice([None, None, 1, 50, 51, 100]),
            bake=rng.choice([0, 1, 3600, 20 * 3600]),
            advance_after=rng.choice([None, None, None, 90, 5 * 3600]),
        )
        for size in sizes
    ]
    windows = [
        Window(
            rng.choice([127, 127, 31, 96, 1]), rng.randrange(24 * 60), rng.choice([15, 90, 1440])
        )
        for _ in range(rng.choice([0, 1, 1, 2]))
    ]
    # Some weeks contain a change of the clock.
    month, day = rng.choice([(3, 24), (7, 1), (10, 20)])
    start = datetime(2026, month, day, tzinfo=UTC)
    start += timedelta(seconds=rng.randrange(7 * 24 * 3600))
    return Plan(start, stages, windows, [rng.choice(_ZONES)])


async def _computed_seconds(database: Database, plan: Plan, zones: Sequence[str]) -> float:
    stages = [
        {
            "releases_per_minute": stage.rate,
            "min_succeeded_percent": stage.min_succeeded_percent,
            "bake_seconds": stage.bake,
            "advance_after_seconds": stage.advance_after,
        }
        for stage in plan.stages
    ]
    result = await database.owner.fetchval(
        "SELECT jobs.minimum_rollout_time($1, $2, $3, $4, $5)",
        json.dumps(stages),
        [stage.size for stage in plan.stages],
        plan.start,
        [n for w in plan.windows for n in (w.days, w.minute, w.minutes)] or None,
        zones,
    )
    return float(json.loads(result)["seconds"])


async def test_time_until_the_last_start_is_that_of_simulated_devices(database: Database) -> None:
    rng = random.Random(35)  # noqa: S311 - repeatable on purpose
    for number in range(100 * SCALE):
        plan = _random_plan(rng)

        seconds = await _computed_seconds(database, plan, plan.zones)

        assert abs(seconds - float(plan.last_start())) < 0.001, (number, plan)


async def test_devices_start_before_an_empty_last_stage_opens(database: Database) -> None:
    """They start at 13:27. The last stage opens 20 hours later, when no window is open."""
    plan = Plan(
        datetime(2026, 10, 26, 11, 57, 5, tzinfo=UTC),
        [
            Stage(5, rate=None, min_succeeded_percent=51, bake=20 * 3600, advance_after=None),
            Stage(0, rate=None, min_succeeded_percent=50, bake=0, advance_after=None),
        ],
        [Window(days=31, minute=13 * 60 + 27, minutes=15)],
        ["UTC"],
    )

    seconds = await _computed_seconds(database, plan, plan.zones)

    assert seconds == float(plan.last_start()) == (21 * 60 + 29) * 60 + 55


async def test_time_is_a_lower_bound_when_devices_have_time_zones(database: Database) -> None:
    rng = random.Random(36)  # noqa: S311 - repeatable on purpose
    exact = 0
    for number in range(50 * SCALE):
        plan = _random_plan(rng)
        devices = sum(stage.size for stage in plan.stages)
        plan.zones = [rng.choice(_ZONES) for _ in range(devices)]

        seconds = await _computed_seconds(database, plan, sorted({*plan.zones}))

        simulated = float(plan.last_start())
        assert seconds < simulated + 0.001, (number, plan)
        exact += seconds > simulated - 0.001
    assert exact > 15 * SCALE


async def test_forecast_counts_from_the_start_of_the_job(world: World) -> None:
    await world.add_devices(120)
    start_at = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    gate = pb.Gate(bake_time=Duration(seconds=3600))
    request: dict[str, Any] = {
        "job_id": "j",
        "target_all": True,
        "start_at": start_at,
        "rollout": rollout(
            {"device_count": 60, "releases_per_minute": 10, "gate": gate},
            {"remainder": True, "releases_per_minute": 1},
        ),
    }

    forecast = (await world.operator.create(**request, validate_only=True)).forecast

    last_start_at = start_at + timedelta(hours=2, minutes=6)
    assert forecast.last_start_at.ToDatetime(UTC) == last_start_at
    assert forecast.summary == (
        f"The last device can start at {last_start_at:%Y-%m-%dT%H:%M:%SZ} at the earliest,"
        " after 2 h 6 min:"
        " stage 0: 6 min for 60 devices at 10 per minute + 1 h of bake_time;"
        " stage 1: 1 h for 60 devices at 1 per minute"
    )
    assert [stage.duration.seconds for stage in forecast.stages] == [3960, 3600]
    assert not (await world.operator.create(**request)).HasField("forecast")


async def test_forecast_is_the_start_when_all_devices_can_start_at_once(world: World) -> None:
    await world.add_devices(1)
    before = await world.database.owner.fetchval("SELECT jobs.clock_time()")

    response = await world.operator.create(target_all=True, validate_only=True)

    last_start_at = response.forecast.last_start_at.ToDatetime(UTC)
    assert timedelta(0) <= last_start_at - before < timedelta(minutes=1)
    assert "after" not in response.forecast.summary
    assert not response.forecast.stages


def _window(opens_at: datetime, minutes: int = 15) -> pb.StartWindow:
    """A window in UTC that opens at this time, each week."""
    return pb.StartWindow(
        days=[pb.StartWindow.Day.values()[opens_at.isoweekday()]],
        start_time=f"{opens_at:%H:%M}",
        duration=Duration(seconds=60 * minutes),
    )


def _in_days(days: float) -> datetime:
    at = datetime.now(UTC) + timedelta(days=days)
    return at.replace(second=0, microsecond=0)


async def test_forecast_says_how_many_nights_a_rate_takes(world: World) -> None:
    await world.add_devices(20)
    first_night = _in_days(1)

    response = await world.operator.create(
        target_all=True,
        start_at=first_night,
        start_windows=[
            pb.StartWindow(start_time=f"{first_night:%H:%M}", duration=Duration(seconds=15 * 60))
        ],
        rollout=rollout({"remainder": True, "releases_per_minute": 1}),
        validate_only=True,
    )

    # Fifteen devices start in the first night; the others are released after it.
    forecast = response.forecast
    assert forecast.last_start_at.ToDatetime(UTC) == first_night + timedelta(days=1)
    assert forecast.summary.endswith(
        "at the earliest, after 1 d: stage 0: 20 min for 20 devices at 1 per minute"
        " + 23 h 40 min until a start window opens"
    )
    (stage,) = forecast.stages
    assert (stage.release_time.seconds, stage.window_time.seconds) == (1200, 85_200)
    # The default expiry.
    assert response.expires_at.ToDatetime(UTC) == first_night + timedelta(hours=48)


async def test_forecast_has_the_last_time_zone_of_the_devices(world: World) -> None:
    await world.add_devices(["tokyo", "new-york", "unknown", "honolulu"])
    fleet = world.fleet
    for device, zone in (("tokyo", "Asia/Tokyo"), ("new-york", "America/New_York")):
        await fleet.update(Device(device_id=device, time_zone=zone), mask=["time_zone"])
    # No call stores an abbreviation, and CreateJob ignores it as well.
    await world.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, time_zone) VALUES ($1, 'honolulu', 'HST')"
    )
    opens_at = _in_days(2).replace(hour=2, minute=0)
    request: dict[str, Any] = {
        "start_windows": [_window(opens_at)],
        "window_time_zone": "DEVICE",
        "validate_only": True,
    }

    for target, zone in (
        ({"target_all": True}, "America/New_York"),
        ({"target_device_id": "tokyo"}, "Asia/Tokyo"),
        ({"target_device_id": "unknown"}, "UTC"),
        ({"target_device_id": "honolulu"}, "UTC"),
    ):
        response = await world.operator.create(**request, **target)

        expected = opens_at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        assert response.forecast.last_start_at.ToDatetime(UTC) == expected, zone
        assert not response.forecast.stages[0].stage


async def test_windows_that_open_after_the_expiry_are_rejected(world: World) -> None:
    await world.add_devices(2)
    request: dict[str, Any] = {"target_all": True, "start_windows": [_window(_in_days(3))]}

    failure = await expect_error(
        "EXPIRY_TOO_EARLY", world.operator.create(**request, expires_in_hours=24)
    )
    assert re.match(
        r"Starting all devices takes at least (2 d 23 h 59 min.*|3 d),"
        " but the job expires in 1 d: ",
        failure.message,
    )
    assert failure.message.endswith(
        " until a start window opens. Let it expire later or never, or change the start windows"
    )
    await world.operator.create(**request, expires_in_hours=73)

    default = await world.operator.create(**request)
    left = default.expires_at.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=95) < left <= timedelta(hours=97)


async def test_update_to_windows_that_open_after_the_expiry_is_rejected(world: World) -> None:
    await world.add_devices(["d1", "d2"])
    await world.create(expires_in_hours=24)
    late = [_window(_in_days(3))]

    failure = await expect_error(
        "EXPIRY_TOO_EARLY", world.operator.update("j", "start_windows", start_windows=late)
    )
    assert "but the job expires in" in failure.message
    assert not (await world.operator.get("j")).start_windows

    # Devices that have started can end outside the windows.
    for device in ("d1", "d2"):
        await world.device(device).start("j")
    await world.operator.update("j", "start_windows", start_windows=late)
