"""The demo fleet of `jobs-grpc dev`: 1,000 devices in three groups."""

from collections.abc import Iterator

from jobs_grpc.db.device_import import Member, import_devices

DEMO_TENANT = "demo"
DEMO_GROUPS = ("north", "south", "west")
DEMO_DEVICE_COUNT = 1000


async def load_demo_fleet(owner_dsn: str) -> None:
    """Add the devices and groups of the tenant "demo" that do not exist yet."""
    await import_devices(owner_dsn, DEMO_TENANT, _demo_members())


def _demo_members() -> Iterator[Member]:
    for number in range(1, DEMO_DEVICE_COUNT + 1):
        yield Member(f"device-{number:04}", DEMO_GROUPS[number % len(DEMO_GROUPS)])
