"""The time zones that devices and start windows can have."""

import functools
import zoneinfo

from jobs_grpc.errors import Violation


def check_time_zone(name: str, field: str = "time_zone") -> list[Violation]:
    """Check the name of a time zone. It may be empty."""
    if not name or name in time_zones():
        return []
    problem = "must be an IANA time zone such as Europe/Berlin, or UTC"
    return [Violation(field, f"{field} {problem}")]


@functools.cache
def time_zones() -> frozenset[str]:
    """Return UTC and the names with a "/" in the IANA database of this host.

    PostgreSQL has no daylight saving time in abbreviations such as CET, and reads a name that it
    does not know as a rule of POSIX. Not the names of pg_timezone_names: PostgreSQL reads all its
    files for each query on it.
    """
    return frozenset(name for name in zoneinfo.available_timezones() if "/" in name) | {"UTC"}
