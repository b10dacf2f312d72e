"""Draw docs/rollouts/timeline.svg: a rollout of five stages with a bad release.

Run by `make rollout-timeline`. A simulated fleet of 2,000 devices carries out the job on a real
server. 8 % of the devices fail with the code FLASH, so the job pauses; then the bug is fixed, the
failed devices are retried, the job is resumed, and it completes. Takes two minutes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import matplotlib as mpl
from fleet.jobs.v1 import jobs_pb2 as pb
from fleet.jobs.v1 import jobs_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from bench.environment import environment
from jobs_grpc.dev.simulator.behavior import Bug, DeviceBehavior
from jobs_grpc.dev.simulator.fleet import Fleet, run_fleet
from jobs_grpc.dev.simulator.totals import Totals

mpl.use("svg")

from matplotlib import pyplot as plt

mpl.rcParams["svg.hashsalt"] = "rollout"
mpl.rcParams["svg.fonttype"] = "none"

PICTURE = Path(__file__).parents[1] / "docs" / "rollouts" / "timeline.svg"

DEVICES = 2000
METADATA = (("x-tenant-id", "timeline"), ("x-user-id", "olivia"))

# Label and color, from the bottom of the picture to its top.
_STATUSES = {
    "succeeded": ("SUCCEEDED", "#2ca02c"),
    "failed": ("FAILED", "#d62728"),
    "in_progress": ("IN_PROGRESS", "#1f77b4"),
    "queued": ("QUEUED", "#c7c7c7"),
    "held": ("HELD", "#eeeeee"),
}

Sample = tuple[float, pb.Job]
"""Seconds since the creation of the job, and its state."""


async def main() -> None:
    """Run the rollout and draw it."""
    async with environment() as env:
        await env.owner.execute(
            "INSERT INTO public.device_state (tenant_id, device_id)"
            " SELECT 'timeline', 'device-' || n FROM generate_series(1, $1) AS n",
            DEVICES,
        )
        async with (
            env.maintaining_server(JOBS_MAX_TENANT_CALLS="1000") as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            samples = await _run_rollout(jobs_pb2_grpc.JobServiceStub(channel), server.address)
    _draw(samples)
    print(f"wrote {PICTURE.relative_to(Path.cwd())}")


async def _run_rollout(stub: "jobs_pb2_grpc.JobServiceAsyncStub", address: str) -> list[Sample]:
    gate = pb.Gate(min_succeeded_percent=90, bake_time=Duration(seconds=4))
    request = pb.CreateJobRequest(
        job_id="firmware-2.1",
        document_type="firmware",
        target_all=True,
        rollout=pb.Rollout(
            stages=[
                *(pb.Stage(percent=percent, gate=gate) for percent in (1, 4, 15, 30)),
                pb.Stage(remainder=True, releases_per_minute=6000),
            ],
            max_in_progress=200,
            seed="timeline",
        ),
        failure_criteria=[pb.FailureCriterion(percent=5, min_finished=100)],
    )
    await stub.CreateJob(request, metadata=METADATA)
    started = time.monotonic()
    samples: list[Sample] = []

    fleet = Fleet(
        server=address,
        tenant="timeline",
        device_ids=[f"device-{number}" for number in range(1, DEVICES + 1)],
        behavior=DeviceBehavior((1.0, 4.0), 0, 0, 0, 0, seed=1, bugs=[Bug(0.08, "FLASH")]),
        poll=True,
        poll_interval=1.0,
        bridge=True,
        timeout=30,
    )
    async with _running(fleet):
        await _sample_until(stub, samples, started, pb.Job.PAUSED)
        for _ in range(20):  # Started devices finish; the operator looks at the failures.
            await _sample(stub, samples, started)
            await asyncio.sleep(0.5)
    fixed = replace(fleet, behavior=replace(fleet.behavior, bugs=[]))
    async with _running(fixed):
        retry = pb.RetryExecutionsRequest(
            job_id="firmware-2.1", statuses=[pb.JobExecution.FAILED], failure_codes=["FLASH"]
        )
        await stub.RetryExecutions(retry, metadata=METADATA)
        await stub.ResumeJob(pb.ResumeJobRequest(job_id="firmware-2.1"), metadata=METADATA)
        await _sample_until(stub, samples, started, pb.Job.COMPLETED)
    await _sample(stub, samples, started)
    return samples


@asynccontextmanager
async def _running(fleet: Fleet) -> AsyncIterator[None]:
    task = asyncio.create_task(run_fleet(fleet, Totals()))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _sample_until(
    stub: Any, samples: list[Sample], started: float, status: pb.Job.Status.ValueType
) -> None:
    async with asyncio.timeout(300):
        while True:
            job = await _sample(stub, samples, started)
            if job.status == status:
                return
            await asyncio.sleep(0.25)


async def _sample(stub: Any, samples: list[Sample], started: float) -> pb.Job:
    request = pb.GetJobRequest(job_id="firmware-2.1", executions_limit=0)
    job: pb.Job = (await stub.GetJob(request, metadata=METADATA)).job
    samples.append((time.monotonic() - started, job))
    return job


def _draw(samples: list[Sample]) -> None:
    times = [seconds for seconds, _ in samples]
    drawing, axis = plt.subplots(figsize=(9, 4))
    axis.stackplot(
        times,
        *([getattr(job.execution_counts, name) for _, job in samples] for name in _STATUSES),
        labels=[label for label, _ in _STATUSES.values()],
        colors=[color for _, color in _STATUSES.values()],
        linewidth=0,
    )
    last = samples[-1][1]
    for index, stage in enumerate(last.stages):
        opened = stage.opened_at.ToDatetime() - last.created_at.ToDatetime()
        seconds = max(opened.total_seconds(), 0)
        axis.axvline(seconds, color="#444444", linewidth=0.8, linestyle=":")
        axis.text(seconds, DEVICES * 1.02, f" stage {index}", fontsize=8, ha="left")
    paused = [seconds for seconds, job in samples if job.status == pb.Job.PAUSED]
    axis.axvspan(paused[0], paused[-1], color="#ffbf00", alpha=0.35, linewidth=0)
    axis.text(
        (paused[0] + paused[-1]) / 2,
        DEVICES * 0.5,
        "PAUSED:\n5 % of the finished\ndevices failed",
        ha="center",
        va="center",
        fontsize=8,
    )
    axis.set_xlim(0, times[-1])
    axis.set_ylim(0, DEVICES)
    axis.set_xlabel("seconds")
    axis.set_ylabel("devices")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=5, frameon=False)
    drawing.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    drawing.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    asyncio.run(main())
