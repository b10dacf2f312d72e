"""Jobs of the demo fleet, which show what a rollout can do while its devices are simulated."""

from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from jobs_grpc.client import JobsClient

# The release that a tenth of the simulated devices cannot install.
BAD_RELEASE = "2.1"


async def create_demo_jobs(jobs: JobsClient) -> None:
    """Create three jobs, unless the tenant has any job: one completes, one waits for an approval,
    and one pauses after failures.
    """
    if await anext(aiter(jobs.list(limit=1)), None) is not None:
        return
    await jobs.create(
        "config",
        {"interval_seconds": 60},
        job_id="config-1",
        target_group_id="west",
        description="Report every minute",
        rollout=pb.Rollout(stages=[pb.Stage(remainder=True)], max_in_progress=40),
    )
    approval = pb.Gate(require_approval=True)
    await jobs.create(
        "certificates",
        {"issuer": "fleet-2026"},
        job_id="certificates-1",
        target_group_id="south",
        description="Replace the certificates of 2025",
        rollout=pb.Rollout(
            stages=[
                pb.Stage(display_name="First tenth", percent=10, gate=approval),
                pb.Stage(display_name="Rest", remainder=True),
            ]
        ),
    )
    bake = pb.Gate(min_succeeded_percent=80, bake_time=Duration(seconds=20))
    await jobs.create(
        "firmware",
        {"version": BAD_RELEASE},
        job_id=f"firmware-{BAD_RELEASE}",
        target_all=True,
        labels={"release": BAD_RELEASE},
        rollout=pb.Rollout(
            stages=[
                pb.Stage(display_name="Canary", selector="ring=canary", gate=bake),
                pb.Stage(display_name="Early", selector="ring=early", gate=bake),
                pb.Stage(display_name="Broad", remainder=True, releases_per_minute=120),
            ]
        ),
        failure_criteria=[
            pb.FailureCriterion(percent=8, min_finished=100, action=pb.FailureCriterion.PAUSE)
        ],
    )
