"""Implements FleetService: each method validates, calls the store and converts the result."""

import json

from fleet.jobs.v1 import fleet_pb2 as pb
from fleet.jobs.v1 import fleet_pb2_grpc

from jobs_grpc.auth.principal import current_principal
from jobs_grpc.config import LimitsConfig
from jobs_grpc.contract.methods import page_size
from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import EvaluationRunning
from jobs_grpc.limits.fair_slots import FairSlots
from jobs_grpc.services import validation
from jobs_grpc.services.audited_changes import note_device_changes
from jobs_grpc.services.device_update import device_changes
from jobs_grpc.services.job_request import target_request
from jobs_grpc.services.page_tokens import page_token, parse_token
from jobs_grpc.services.response_pages import fill_page
from jobs_grpc.services.rollout_validation import check_rollout
from jobs_grpc.services.row_conversions import (
    MessageFields,
    execution_fields_with_job_id,
    timestamp_fields,
)
from jobs_grpc.services.selectors import parse_field
from jobs_grpc.services.target_hints import preview_hints
from jobs_grpc.services.targets import (
    EvaluationLimit,
    check_target,
    has_large_list,
    preview_fields,
    selector_terms,
    target_device_ids,
)
from jobs_grpc.services.tenant_cache import TenantCache

# The executions that GetDevice returns.
_QUEUE_LIMIT = 100
# A page of ListGroups ends when it has counted so many devices.
_MAX_COUNTED = 100_000
# The executions that one DeleteDevices ends, and how long it waits for each lock: longer than
# migrate waits for a table, so that a call behind it goes on in its pauses.
_MAX_ENDED = 1000
_LOCK_WAIT_MS = 10_000
# What ListLabels reads and returns at most, as fleet.proto says.
_LABEL_LIMITS = {
    "max_devices": 50_000,
    "max_pairs": 200_000,
    "max_labels": 50,
    "max_values": 50,
    "max_groups": 200,
}
# The limits of GetFleetSummary.
_SUMMARY_LIMITS = {"max_jobs": 10_000, "max_failures": 20}


class FleetService(fleet_pb2_grpc.FleetServiceServicer):
    """The directory of devices and groups, documented in fleet.proto.

    Large pages are converted in `slots`, so that other calls run in between.
    """

    def __init__(
        self, store: Store, slots: FairSlots, evaluations: EvaluationLimit, limits: LimitsConfig
    ) -> None:
        self._store = store
        self._yield_now = slots.yield_for_caller
        self._evaluations = evaluations
        self._max_targets = limits.max_targets
        self._max_devices = limits.max_tenant_devices
        self._labels = TenantCache(pb.ListLabelsResponse)
        self._summaries = TenantCache(pb.GetFleetSummaryResponse)
        self.finished = {"REJECTED": 0}
        """Executions that calls have finished, by status."""

    async def ListDevices(
        self, request: pb.ListDevicesRequest, context: object
    ) -> pb.ListDevicesResponse:
        limit = page_size(request)
        validation.require_valid(request)
        selector = parse_field("selector", request.selector)
        (after,) = parse_token(request, str)
        devices = await self._store.list_devices(
            current_principal().tenant_id,
            terms=selector.terms_json,
            prefix=request.device_id_prefix,
            after=after or "",
            limit=limit,
        )
        # The last row may only say where the next page starts.
        next_page = devices[-1]["device_id"] if devices and devices[-1]["labels"] is None else ""
        response = pb.ListDevicesResponse()
        is_full = await fill_page(
            response.devices,
            devices[:-1] if next_page else devices,
            device_fields,
            limit,
            self._yield_now,
        )
        if is_full:
            next_page = response.devices[-1].device_id
        if next_page:
            response.next_page_token = page_token(request, next_page)
        return response

    async def GetDevice(
        self, request: pb.GetDeviceRequest, context: object
    ) -> pb.GetDeviceResponse:
        validation.require_valid(request)
        device, *executions = await self._store.get_device(
            current_principal().tenant_id, device_id=request.device_id, limit=_QUEUE_LIMIT
        )
        response = pb.GetDeviceResponse(device=device_fields(device))
        await fill_page(
            response.executions,
            executions,
            execution_fields_with_job_id,
            _QUEUE_LIMIT,
            self._yield_now,
            used_bytes=response.ByteSize(),
        )
        return response

    async def UpdateDevices(
        self, request: pb.UpdateDevicesRequest, context: object
    ) -> pb.UpdateDevicesResponse:
        changes = await device_changes(request, self._yield_now)
        row = await self._store.update_devices(
            current_principal().tenant_id,
            device_ids=changes.device_ids,
            labels=changes.labels,
            time_zones=changes.time_zones,
            group_ids=changes.group_ids,
            remove_labels=[*request.remove_labels],
            allow_missing=request.allow_missing,
            max_devices=self._max_devices,
        )
        self._labels.invalidate(current_principal().tenant_id)
        note_device_changes(request, changes.label_counts, row)
        return pb.UpdateDevicesResponse(
            registered_count=row["registered_count"], updated_count=row["updated_count"]
        )

    async def DeleteDevices(
        self, request: pb.DeleteDevicesRequest, context: object
    ) -> pb.DeleteDevicesResponse:
        validation.require_valid(request)
        caller = current_principal()
        row = await self._store.delete_devices(
            caller.tenant_id,
            device_ids=[*dict.fromkeys(request.device_ids)],
            max_executions=_MAX_ENDED,
            wait_ms=_LOCK_WAIT_MS,
            user_id=caller.subject,
        )
        self._labels.invalidate(caller.tenant_id)
        self.finished["REJECTED"] += row["ended_count"]
        return pb.DeleteDevicesResponse(
            deleted_count=row["deleted_count"],
            ended_execution_count=row["ended_count"],
            has_more=row["has_more"],
        )

    async def ListGroups(
        self, request: pb.ListGroupsRequest, context: object
    ) -> pb.ListGroupsResponse:
        limit = page_size(request)
        validation.require_valid(request)
        (after,) = parse_token(request, str)
        rows = await self._store.list_groups(
            current_principal().tenant_id,
            prefix=request.group_id_prefix,
            after=after or "",
            limit=limit,
            max_counted=_MAX_COUNTED,
        )
        # The last row has the next group without a count, if there is one.
        has_more = bool(rows) and rows[-1]["device_count"] is None
        response = pb.ListGroupsResponse(groups=map(_group, rows[:-1] if has_more else rows))
        if has_more:
            response.next_page_token = page_token(request, response.groups[-1].group_id)
        return response

    async def ListLabels(
        self, request: pb.ListLabelsRequest, context: object
    ) -> pb.ListLabelsResponse:
        tenant_id = current_principal().tenant_id

        async def compute() -> pb.ListLabelsResponse:
            row = await self._store.list_labels(tenant_id, **_LABEL_LIMITS)
            return pb.ListLabelsResponse(
                labels=json.loads(row["labels"]),
                groups=json.loads(row["groups"]),
                complete=row["complete"],
            )

        return await self._labels.get(
            tenant_id,
            compute,
            keep=lambda response: bool(response.labels or response.groups or not response.complete),
        )

    async def GetFleetSummary(
        self, request: pb.GetFleetSummaryRequest, context: object
    ) -> pb.GetFleetSummaryResponse:
        tenant_id = current_principal().tenant_id

        async def compute() -> pb.GetFleetSummaryResponse:
            return _summary(await self._store.get_fleet_summary(tenant_id, **_SUMMARY_LIMITS))

        return await self._summaries.get(
            tenant_id, compute, keep=lambda response: response.device_count > 0
        )

    async def PreviewTarget(
        self, request: pb.PreviewTargetRequest, context: object
    ) -> pb.PreviewTargetResponse:
        validation.require_valid(request)
        violations = check_target(request)
        violations += check_rollout(request.rollout) if request.HasField("rollout") else []
        validation.raise_for_violations(violations)
        if has_large_list(request):
            await self._yield_now()
        tenant_id = current_principal().tenant_id
        with self._evaluations.evaluation(tenant_id, request, is_preview=True) as may_evaluate:
            if not may_evaluate:
                raise EvaluationRunning
            row = await self._store.preview_target(
                tenant_id,
                request=target_request(request),
                selector_terms=selector_terms(request),
                target_device_ids=target_device_ids(request),
                max_targets=self._max_targets,
            )
            hints = await preview_hints(self._store, tenant_id, request, row, self._yield_now)
        return pb.PreviewTargetResponse(preview=preview_fields(row) | {"hints": hints})


def device_fields(row: Row) -> MessageFields:
    """The fields of a Device."""
    return {
        "device_id": row["device_id"],
        "labels": json.loads(row["labels"]),
        "time_zone": row["time_zone"],
        "group_ids": row["group_ids"],
        "last_seen_at": timestamp_fields(row["last_seen_at"]),
        "facts": json.loads(row["facts"]),
        "facts_updated_at": timestamp_fields(row["facts_updated_at"]),
    }


def _summary(row: Row) -> pb.GetFleetSummaryResponse:
    """Convert a row of get_fleet_summary.sql."""
    last_seen = pb.LastSeenCounts(
        within_hour=row["seen_within_hour"],
        within_day=row["seen_within_day"],
        within_week=row["seen_within_week"],
        earlier=row["seen_earlier"],
        never=row["never_seen"],
    )
    return pb.GetFleetSummaryResponse(
        computed_at=timestamp_fields(row["computed_at"]),
        device_count=sum(count for _, count in last_seen.ListFields()),
        last_seen=last_seen,
        jobs=pb.ActiveJobCounts(
            in_progress=row["in_progress"],
            paused=row["paused"],
            scheduled=row["scheduled"],
            awaiting_approval=row["awaiting_approval"],
        ),
        failures=json.loads(row["failures"]),
        other_failure_count=row["other_failure_count"],
    )


def _group(row: Row) -> pb.Group:
    return pb.Group(group_id=row["group_id"], device_count=row["device_count"])
