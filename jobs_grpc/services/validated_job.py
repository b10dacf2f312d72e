"""The job that a CreateJob with validate_only would create."""

from collections.abc import Sequence

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.auth.principal import Principal
from jobs_grpc.db.store import Row
from jobs_grpc.services.conversions import MessageFields, optional_or, timestamp_fields


def validated_job_fields(
    request: pb.CreateJobRequest, job_id: str, caller: Principal, row: Row
) -> MessageFields:
    """The fields of the Job, without created_at and updated_at, from a row of create_job.sql."""
    devices = row["execution_count"]
    stages = _stages(request.rollout.stages, row["stage_sizes"] or ())
    held = sum(stage.execution_counts.held for stage in stages)
    return {
        "job_id": job_id,
        "tenant_id": caller.tenant_id,
        "document_type": request.document_type,
        "document_params": request.document_params,
        "target_device_id": request.target_device_id or None,
        "target_group_id": request.target_group_id or None,
        "target_all": request.target_all or None,
        "status": pb.Job.IN_PROGRESS,
        "expires_at": timestamp_fields(row["expires_at"]),
        "created_by": caller.subject,
        "in_progress_timeout_minutes": optional_or(request, "in_progress_timeout_minutes", None),
        "total_executions": devices,
        "execution_counts": {"queued": devices - held, "held": held},
        "rollout": request.rollout if request.HasField("rollout") else None,
        "failure_criteria": request.failure_criteria,
        "stages": stages,
    }


def _stages(stages: Sequence[pb.Stage], sizes: Sequence[int]) -> list[pb.JobStage]:
    """The states right after creation: empty first stages have passed, and the next is open."""
    job_stages = []
    state = pb.JobStage.OPEN
    for index, (stage, size) in enumerate(zip(stages, sizes, strict=True)):
        is_last = index == len(stages) - 1
        passes = state == pb.JobStage.OPEN and size == 0 and not stage.gate.require_approval
        is_open = state == pb.JobStage.OPEN and (is_last or not passes)
        released = size if is_open and not stage.HasField("releases_per_minute") else 0
        job_stages.append(
            pb.JobStage(
                display_name=stage.display_name,
                state=pb.JobStage.PASSED if passes else state,
                total_executions=size,
                execution_counts=pb.ExecutionCounts(queued=released, held=size - released),
                released_count=released,
            )
        )
        if is_open:
            state = pb.JobStage.PENDING
    return job_stages
