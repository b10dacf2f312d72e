"""Changes of the device directory during a trial, and the check of what is stored of them."""

import asyncio
import random
import time

import asyncpg
import grpc
from fleet.jobs.v1 import fleet_pb2 as pb
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.client.errors import from_rpc_error
from tests.chaos.history import History
from tests.chaos.system import System, device_names

RINGS = ("a", "b")
"""The values of the label `ring`, which selectors of jobs name."""
TEMPORARY = [f"t{number}" for number in range(8)]
"""Devices of each tenant that are registered and deleted all the time. They are in no group."""

_DEVICES_PER_CALL = 5
# By then, a call that failed for its client, such as one of a frozen server, has ended.
_MAX_RUNNING_SECONDS = 60
_STORED = """
    SELECT s.tenant_id, s.device_id, d.labels ->> 'ring' AS ring
    FROM public.device_state s LEFT JOIN jobs.devices d USING (tenant_id, device_id)
"""


async def change_directory(
    system: System, history: History, tenant: str, rng: random.Random, deadline: float
) -> None:
    """Change the labels of devices, register devices, or delete some."""
    server = rng.randrange(2)
    ring: str | None = rng.choice(RINGS)
    request: pb.UpdateDevicesRequest | pb.DeleteDevicesRequest
    if rng.random() < 0.3:
        names, ring = rng.sample(TEMPORARY, 2), None
        request = pb.DeleteDevicesRequest(device_ids=names)
    else:
        is_new = rng.random() < 0.4
        names = rng.sample(TEMPORARY if is_new else device_names(), _DEVICES_PER_CALL)
        request = pb.UpdateDevicesRequest(
            devices=[pb.Device(device_id=name, labels={"ring": ring or ""}) for name in names],
            update_mask=FieldMask(paths=["labels"]),
            allow_missing=is_new,
        )
    method = type(request).__name__.removesuffix("Request")
    call = getattr(system.fleet(server), method)
    started = time.monotonic()
    try:
        # Without a user, whom the events of ended executions would name.
        await call(request, metadata=[("x-tenant-id", tenant)], timeout=deadline)
    except grpc.aio.AioRpcError as e:
        error = from_rpc_error(e)
        history.failed(server, method, "directory", error, e.debug_error_string())
        for name in names:
            history.possible_rings[tenant, name][ring] = time.monotonic()
        await asyncio.sleep(rng.uniform(0, 0.2))
        return
    history.answered()
    for name in names:
        history.rings[tenant, name] = ring
        history.possible_rings[tenant, name] = {
            possible: failed
            for possible, failed in history.possible_rings[tenant, name].items()
            if failed > started - _MAX_RUNNING_SECONDS
        }


async def check_directory(owner: asyncpg.Connection, history: History) -> None:
    """Check that devices have the labels of the last acknowledged change, or of one that failed."""
    stored = {
        (row["tenant_id"], row["device_id"]): row["ring"] for row in await owner.fetch(_STORED)
    }
    for device, ring in history.rings.items():
        found = stored.get(device)
        if found != ring and found not in history.possible_rings[device]:
            history.add_violation(
                "an acknowledged change of a device is lost", f"{device} has {found}, not {ring}"
            )
