"""Implements FleetService: each method validates, calls the store and converts the result."""

import json

from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1 import fleet_pb2_grpc

from jobs_grpc.auth.principal import current_principal
from jobs_grpc.contract.methods import page_size
from jobs_grpc.db.store import Row, Store
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.services import pagination, validation
from jobs_grpc.services.conversions import MessageFields, timestamp_fields
from jobs_grpc.services.selectors import parse_field


class FleetService(fleet_pb2_grpc.FleetServiceServicer):
    """The directory of devices and groups, documented in fleet.proto.

    Large pages are converted in `slots`, so that other calls run in between.
    """

    def __init__(self, store: Store, slots: FairSlots) -> None:
        self._store = store
        self._slots = slots

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: object
    ) -> pb.ListDevicesResponse:
        limit = page_size(request)
        validation.require_valid(request)
        selector = parse_field("selector", request.selector)
        devices = await self._store.list_devices(
            current_principal().tenant_id,
            terms=selector.terms_json,
            prefix=request.device_id_prefix,
            after=pagination.parse_device_token(request),
            limit=limit,
        )
        # The last row may only say where the next page starts.
        next_page = devices[-1]["device_id"] if devices and devices[-1]["labels"] is None else ""
        response = pb.ListDevicesResponse()
        is_full = await pagination.fill_page(
            response.devices,
            map(device_fields, devices[:-1] if next_page else devices),
            limit,
            self._pause,
        )
        if is_full:
            next_page = response.devices[-1].device_id
        if next_page:
            response.next_page_token = pagination.device_token(request, next_page)
        return response

    async def _pause(self) -> None:
        await self._slots.pause(current_principal().tenant_id)


def device_fields(row: Row) -> MessageFields:
    """The fields of a Device."""
    return {
        "device_id": row["device_id"],
        "labels": json.loads(row["labels"]),
        "time_zone": row["time_zone"],
        "group_ids": row["group_ids"],
        "last_seen_at": timestamp_fields(row["last_seen_at"]),
    }
