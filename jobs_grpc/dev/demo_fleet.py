"""The demo fleet of `jobs-grpc dev`: 1,000 devices in three groups, with labels and time zones."""

from collections.abc import Iterator

import asyncpg

from jobs_grpc.db.device_import import DeviceRow, import_devices

DEMO_TENANT = "demo"
DEMO_GROUPS = ("north", "south", "west")
DEMO_DEVICE_COUNT = 1000

# The sites of each group, and their time zones.
_SITES = {
    "north": (("oslo", "Europe/Oslo"), ("hamburg", "Europe/Berlin")),
    "south": (("porto", "Europe/Lisbon"), ("athens", "Europe/Athens")),
    "west": (("denver", "America/Denver"), ("seattle", "America/Los_Angeles")),
}
# Of ten devices: 6, 3 and 1.
_MODELS = ("x100",) * 6 + ("x200",) * 3 + ("x300",)
_LABELED = "SELECT EXISTS (SELECT FROM jobs.devices WHERE tenant_id = $1 AND labels <> '{}')"


async def load_demo_fleet(owner_dsn: str) -> None:
    """Add the devices and groups of the tenant "demo" that do not exist yet.

    Adds the labels only if the tenant has none, so that changes of the user stay.
    """
    connection = await asyncpg.connect(owner_dsn, timeout=10)
    try:
        has_labels = await connection.fetchval(_LABELED, DEMO_TENANT)
    finally:
        await connection.close()
    rows = demo_rows()
    if has_labels:
        rows = (DeviceRow(row.device_id, row.group_id) for row in rows)
    await import_devices(owner_dsn, DEMO_TENANT, rows)


def demo_rows() -> Iterator[DeviceRow]:
    """Yield the devices with their groups and labels."""
    # Divisors that differ mix the labels.
    for number in range(1, DEMO_DEVICE_COUNT + 1):
        group = DEMO_GROUPS[number % len(DEMO_GROUPS)]
        site, time_zone = _SITES[group][number // 11 % 2]
        labels = {"site": site, "model": _MODELS[number // 7 % 10], "ring": _ring(number)}
        if number % 200 == 13:
            labels["quarantined"] = "overheating"
        yield DeviceRow(f"device-{number:04}", group, time_zone, labels)


def _ring(number: int) -> str:
    """Return the ring of updates: canary for 1 % of the devices, early for 10 %, or broad."""
    if number % 100 == 7:
        return "canary"
    return "early" if number % 10 == 3 else "broad"
