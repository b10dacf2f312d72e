"""Reads the times of options."""

import re
import zoneinfo
from datetime import UTC, date, datetime, timedelta, tzinfo

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}

_FROM_NOW = re.compile(r"\+(\d{1,6}(?:\.\d+)?)([smhd])")
_LOCAL_TIME = re.compile(r"(today|tomorrow|\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}(?::\d{2})?)(?: (\S+))?")
_ACCEPTED = (
    "must be a time such as '2030-01-31 02:00 Europe/Berlin', 'tomorrow 02:00' (local time if there"
    " is no zone), 2030-01-31T01:00:00Z, +2h or now"
)


def parse_time(text: str, now: datetime | None = None) -> datetime:
    """Read a time, and return it in UTC. Raises ValueError with a message for the user.

    If the clock shows a local time twice, returns the first of both.
    """
    now = now or datetime.now(UTC)
    text = " ".join(text.split())
    if text == "now":
        return now
    if match := _FROM_NOW.fullmatch(text):
        return now + timedelta(seconds=float(match[1]) * UNITS[match[2]])
    try:
        if match := _LOCAL_TIME.fullmatch(text):
            local, zone = _local_time(now, *match.groups())
        else:
            local, zone = datetime.fromisoformat(text), None
        return local.astimezone(UTC) if local.tzinfo else _to_utc(local, zone)
    except _ClockError:
        raise
    except (ValueError, OverflowError):
        raise ValueError(_ACCEPTED) from None


class _ClockError(ValueError):
    """The time zone is unknown, or its clock skips the time."""


def _local_time(
    now: datetime, day: str, time: str, zone_name: str | None
) -> tuple[datetime, tzinfo | None]:
    zone = _zone(zone_name) if zone_name else None
    today = now.astimezone(zone).date()
    on = {"today": today, "tomorrow": today + timedelta(days=1)}.get(day)
    return datetime.fromisoformat(f"{on or date.fromisoformat(day)} {time}"), zone


def _to_utc(local: datetime, zone: tzinfo | None) -> datetime:
    if _is_skipped(local, zone):
        later = local.replace(second=0)
        while _is_skipped(later, zone):
            later += timedelta(minutes=1)
        raise _ClockError(
            f"{local} does not exist in {zone or 'the local time zone'}: the clock skips it;"
            f" the next valid time is {later:%Y-%m-%d %H:%M}"
        )
    return _moment(local, zone)


def _is_skipped(local: datetime, zone: tzinfo | None) -> bool:
    return _moment(local, zone).astimezone(zone).replace(tzinfo=None) != local


def _moment(local: datetime, zone: tzinfo | None) -> datetime:
    return (local.replace(tzinfo=zone) if zone else local.astimezone()).astimezone(UTC)


def _zone(name: str) -> tzinfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise _ClockError(f"{name} is not a time zone, such as Europe/Berlin") from None
