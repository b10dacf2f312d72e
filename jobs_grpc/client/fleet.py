"""FleetClient: the operators' API for devices."""

from collections.abc import Callable, Iterable
from typing import Unpack

from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1 import fleet_pb2_grpc
from fleet.jobs.v1 import jobs_pb2 as jobs_pb
from google.protobuf.field_mask_pb2 import FieldMask

from jobs_grpc.client.operator_client import OperatorClient, Pager
from jobs_grpc.client.requests import Page, Target, build_request, id_list
from jobs_grpc.contract.field_rules import rules_of

# The maximum of one call.
_MAX_DELETED = rules_of(pb.DeleteDevicesRequest, "device_ids").repeated.max_items


class FleetClient(OperatorClient):
    """Calls FleetService for one tenant. See OperatorClient for common parameters and errors."""

    _stub = fleet_pb2_grpc.FleetServiceStub

    def devices(
        self, selector: str = "", *, device_id_prefix: str = "", **page: Unpack[Page]
    ) -> Pager[pb.Device]:
        """List the devices that match a selector, by device_id ascending."""
        return self._pager(pb.ListDevicesRequest, pb.ListDevicesResponse, "devices", locals())

    async def preview_target(
        self, *, rollout: jobs_pb.Rollout | None = None, **fields: Unpack[Target]
    ) -> jobs_pb.TargetPreview:
        """Return what a target and a rollout select now."""
        request = build_request(pb.PreviewTargetRequest, locals())
        return (await self._calls.unary(request, pb.PreviewTargetResponse)).preview

    async def get(self, device_id: str) -> pb.GetDeviceResponse:
        """Return a device and its queue."""
        request = pb.GetDeviceRequest(device_id=device_id)
        return await self._calls.unary(request, pb.GetDeviceResponse)

    async def update(
        self,
        devices: Iterable[pb.Device],
        fields: Iterable[str] = (),
        *,
        remove_labels: Iterable[str] = (),
        allow_missing: bool = False,
    ) -> pb.UpdateDevicesResponse:
        """Change `fields` of up to 1,000 devices: labels, time_zone, group_ids.

        With `allow_missing`, register the devices that do not exist.
        """
        paths = [*fields]
        request = pb.UpdateDevicesRequest(
            devices=devices,
            update_mask=FieldMask(paths=paths) if paths else None,
            remove_labels=remove_labels,
            allow_missing=allow_missing,
        )
        return await self._calls.unary(request, pb.UpdateDevicesResponse)

    async def delete(
        self,
        device_ids: Iterable[str],
        *,
        on_progress: Callable[[pb.DeleteDevicesResponse], None] | None = None,
    ) -> pb.DeleteDevicesResponse:
        """Remove devices, in calls for 100, each repeated until none of their executions remains.

        Returns the sums of all calls, and passes them to `on_progress` after each call. If a retry
        follows a lost response, they are too small.
        """
        total = pb.DeleteDevicesResponse()
        ids = [*dict.fromkeys(id_list(device_ids))]
        # The server rejects an empty request.
        for start in range(0, len(ids) or 1, _MAX_DELETED):
            request = pb.DeleteDevicesRequest(device_ids=ids[start : start + _MAX_DELETED])
            has_more = True
            while has_more:
                response = await self._calls.unary(request, pb.DeleteDevicesResponse)
                has_more = response.has_more
                total.deleted_count += response.deleted_count
                total.ended_execution_count += response.ended_execution_count
                if on_progress:
                    on_progress(total)
        return total

    def groups(self, *, group_id_prefix: str = "", **page: Unpack[Page]) -> Pager[pb.Group]:
        """List the groups, in the order of group_id."""
        return self._pager(pb.ListGroupsRequest, pb.ListGroupsResponse, "groups", locals())

    async def labels(self) -> pb.ListLabelsResponse:
        """Return the labels of devices with their values, and the groups: at most a minute old."""
        return await self._calls.unary(pb.ListLabelsRequest(), pb.ListLabelsResponse)

    async def summary(self) -> pb.GetFleetSummaryResponse:
        """Return devices by last seen, active jobs and failures: at most a minute old."""
        return await self._calls.unary(pb.GetFleetSummaryRequest(), pb.GetFleetSummaryResponse)
