"""Two tenants with the same devices and groups: neither sees or changes what the other has."""

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from fleet.jobs.v1 import fleet_pb2 as pb

from tests.support.callers import Fleet, Operator
from tests.support.failures import expect_error
from tests.support.scale import SCALE
from tests.support.server import Server

DEVICES = [f"d{n}" for n in range(12)]
GROUPS = [f"g{n}" for n in range(4)]
ZONES = ["", "UTC", "Europe/Berlin"]


@dataclass
class TenantModel:
    """Makes random calls as one tenant, and compares each response with what the tenant has."""

    fleet: Fleet
    operator: Operator
    random: random.Random
    devices: dict[str, pb.Device] = field(default_factory=dict)
    queues: dict[str, list[str]] = field(default_factory=dict)
    """The jobs of each device, also of removed ones, in the order of the queue."""
    jobs: int = 0

    async def call(self) -> None:
        """Make one random call."""
        reads = (self.get, self.get, self.groups)
        writes = (self.update, self.update, self.delete, self.create)
        await self.random.choice((*reads, *writes))()

    async def get(self) -> None:
        name = self.random.choice(DEVICES)
        if name not in self.devices:
            await expect_error("DEVICE_NOT_FOUND", self.fleet.get(name))
            return
        response = await self.fleet.get(name)
        assert response.device == self.devices[name]
        assert [e.job_id for e in response.executions] == self.queues.get(name, [])

    async def update(self) -> None:
        names = self.random.sample(DEVICES, self.random.randint(1, 4))
        allow_missing = self.random.random() < 0.7
        # Each value names the tenant.
        devices = [
            pb.Device(
                device_id=name,
                labels={f"k{self.random.randint(0, 5)}": self.fleet.tenant},
                time_zone=self.random.choice(ZONES),
                group_ids=sorted(self.random.sample(GROUPS, self.random.randint(0, 3))),
            )
            for name in names
        ]
        removed = f"k{self.random.randint(6, 9)}"
        mask = ["labels", "time_zone", "group_ids"]
        missing = [name for name in names if name not in self.devices]
        if missing and not allow_missing:
            failure = await expect_error("DEVICE_NOT_FOUND", self.fleet.update(*devices, mask=mask))
            assert all(name in failure.message for name in missing)
            return
        response = await self.fleet.update(
            *devices, mask=mask, remove_labels=[removed], allow_missing=allow_missing
        )
        assert response.registered_count == len(missing)
        for device in devices:
            new = pb.Device(device_id=device.device_id)
            stored = self.devices.setdefault(device.device_id, new)
            stored.labels.update(device.labels)
            stored.time_zone = device.time_zone
            stored.group_ids[:] = device.group_ids

    async def groups(self) -> None:
        counts = {
            group: sum(group in device.group_ids for device in self.devices.values())
            for group in GROUPS
        }
        response = await self.fleet.groups()
        assert {g.group_id: g.device_count for g in response.groups} == {
            group: count for group, count in counts.items() if count
        }

    async def delete(self) -> None:
        names = self.random.sample(DEVICES, self.random.randint(1, 3))
        response = await self.fleet.delete(*names)
        assert response.deleted_count == sum(name in self.devices for name in names)
        assert response.ended_execution_count == sum(len(self.queues.get(n, [])) for n in names)
        for name in names:
            self.devices.pop(name, None)
            self.queues.pop(name, None)

    async def create(self) -> None:
        if not self.devices:
            return
        self.jobs += 1
        # Both tenants have the same job_ids.
        response = await self.operator.create(job_id=f"j{self.jobs}", target_all=True)
        assert response.execution_count == len(self.devices)
        for name in self.devices:
            self.queues.setdefault(name, []).append(f"j{self.jobs}")


@pytest.mark.slow
async def test_random_calls_of_two_tenants_with_the_same_devices_see_only_their_own(
    server: Server, tenant: str
) -> None:
    models = [
        TenantModel(server.fleet(name), server.operator(name), random.Random(seed))  # noqa: S311
        for seed, name in enumerate((f"{tenant}-a", f"{tenant}-b"))
    ]

    async def run(model: TenantModel) -> None:
        for _ in range(200 * SCALE):
            await model.call()

    await asyncio.gather(*map(run, models))
