"""The requests of operators, at random: jobs with every feature, their changes and reads."""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fleet.jobs.v1 import events_pb2 as event_pb
from fleet.jobs.v1 import fleet_pb2 as fleet_pb
from fleet.jobs.v1 import jobs_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.harness.system import DEVICES_PER_TENANT, GROUPS, device_names

RINGS = ("a", "b")
"""The values of the label `ring`, which selectors of jobs name."""
TEMPORARY = [f"t{number}" for number in range(8)]
"""Devices of each tenant that are registered and deleted all the time. They are in no group."""
DEVICES = [*device_names(), *TEMPORARY]

_LISTED = 10
SIZES = {
    "target_device_id": 1,
    "target_device_ids": _LISTED,
    "target_group_id": DEVICES_PER_TENANT // len(GROUPS),
}
"""The numbers of executions of targets that no change of the directory changes."""

_A_DAY = Duration(seconds=24 * 3600)
_OPEN = pb.StartWindow(start_time="00:00", duration=_A_DAY)
MATCHES = {
    **{f"ring={ring}": f"d.labels ->> 'ring' = '{ring}'" for ring in RINGS},
    "group=south,ring!=a": "d.labels ->> 'ring' IS DISTINCT FROM 'a' AND 'south' = ANY (d.groups)",
    "group in (north,south)": "d.groups && '{north,south}'",
    "fact.version!=2": "d.facts ->> 'version' IS DISTINCT FROM '2'",
}
"""The same selectors, as the service stores them, as conditions on a device."""
_ACTIONS = (pb.FailureCriterion.PAUSE, pb.FailureCriterion.PAUSE, pb.FailureCriterion.CANCEL)
_RETRIED = (pb.JobExecution.FAILED, pb.JobExecution.REJECTED)

Change = Callable[[str, random.Random], Sequence[Any]]
"""Returns requests that change a job."""


def random_job(job_id: str, rng: random.Random) -> pb.CreateJobRequest:
    """Return a job. A job named closed-… has start windows."""
    request = pb.CreateJobRequest(
        job_id=job_id,
        document_type="reboot",
        execution_events=rng.random() < 0.4,
        priority=rng.choice((pb.Job.LOW, pb.Job.NORMAL, pb.Job.HIGH)),
    )
    kind = rng.random()
    if kind < 0.15:
        request.target_device_id = rng.choice(device_names())
    elif kind < 0.4:
        request.target_group_id = rng.choice(GROUPS)
    elif kind < 0.5:
        request.target_device_ids.device_ids.extend(rng.sample(device_names(), _LISTED))
    elif kind < 0.75:
        request.target_selector = rng.choice([*MATCHES])
    else:
        request.target_all = True
    if job_id.startswith("job-") and kind >= 0.5 and rng.random() < 0.4:
        request.continuous = True
        if rng.random() < 0.3:
            request.max_joins_per_hour = rng.randint(1, 5)
    if kind > 0.3 and rng.random() < 0.5:
        if rng.random() < 0.3:
            request.rollout.stages.add(selector=f"ring={rng.choice(RINGS)}", allow_empty=True)
        stage = request.rollout.stages.add(percent=20)
        if rng.random() < 0.5:
            stage.gate.min_succeeded_percent = rng.randint(20, 60)
            stage.gate.bake_time.seconds = rng.randint(0, 1)
            stage.gate.require_approval = rng.random() < 0.5
        request.rollout.stages.add(remainder=True)
        request.rollout.max_in_progress = rng.randint(3, 20)
        if rng.random() < 0.5:
            request.rollout.stages[-1].releases_per_minute = 600
    if rng.random() < 0.4:
        action = rng.choice(_ACTIONS)
        request.failure_criteria.add(percent=rng.randint(20, 60), min_finished=5, action=action)
    if rng.random() < 0.3:
        request.start_at.FromDatetime(datetime.now(UTC) + timedelta(seconds=rng.uniform(0, 4)))
    if rng.random() < 0.3:
        # The other final statuses are random, too, so most failures recover.
        request.retry_policy.rules.add(
            max_attempts=rng.randint(2, 4),
            initial_backoff=Duration(seconds=1),
            max_backoff=Duration(seconds=2),
        )
    if job_id.startswith("job-"):
        request.require_start_approval = rng.random() < 0.2
    if job_id.startswith("closed-"):
        request.start_windows.append(_OPEN)
        request.never_expires = True
    return request


def random_changes(job_id: str, rng: random.Random) -> Sequence[Any]:
    """Return a change of a job, or two. A job named keep-… is only paused, closed-… only closed."""
    if job_id.startswith("keep-"):
        return [pb.PauseJobRequest(job_id=job_id)]
    if job_id.startswith("closed-"):
        return [_update(job_id, ["start_windows"], start_windows=[_closed_window()])]
    (change,) = rng.choices([*_CHANGES], weights=[*_CHANGES.values()])
    return change(job_id, rng)


def all_reads(job_id: str, rng: random.Random) -> Sequence[Any]:
    device = rng.choice(DEVICES)
    return (
        pb.GetJobRequest(job_id=job_id, executions_limit=10),
        pb.ListJobsRequest(status=rng.choice(pb.Job.Status.values()), limit=20),
        pb.ListJobExecutionsRequest(
            job_id=job_id, status=rng.choice(pb.JobExecution.Status.values())
        ),
        pb.ListExecutionAttemptsRequest(job_id=job_id, device_id=device),
        pb.ExplainExecutionRequest(job_id=job_id, device_id=device),
        pb.GetFailureSummaryRequest(job_id=job_id),
        pb.GetJobTimelineRequest(job_id=job_id),
        event_pb.ListJobEventsRequest(job_id=job_id),
        fleet_pb.PreviewTargetRequest(target_selector=rng.choice([*MATCHES])),
    )


def _some(rng: random.Random, *requests: Any) -> Sequence[Any]:
    return [request for request in requests if rng.random() < 0.7]


def _update(job_id: str, paths: Sequence[str], **fields: Any) -> pb.UpdateJobRequest:
    request = pb.UpdateJobRequest(job_id=job_id, **fields)
    request.update_mask.paths.extend(paths)
    return request


def _change_criteria(job_id: str, rng: random.Random) -> Sequence[Any]:
    criterion = pb.FailureCriterion(percent=rng.randint(20, 60), min_finished=5)
    return [_update(job_id, ["failure_criteria"], failure_criteria=[criterion])]


def _change_windows(job_id: str, rng: random.Random) -> Sequence[Any]:
    window = _OPEN if rng.random() < 0.6 else _closed_window()
    # It can be later than the expiry until the window opens.
    return [_update(job_id, ["start_windows", "expires_at"], start_windows=[window])]


def _closed_window() -> pb.StartWindow:
    """A window that opens on another day of the week."""
    day = datetime.now(UTC) + timedelta(days=3)
    days = [pb.StartWindow.Day.values()[day.isoweekday()]]
    return pb.StartWindow(days=days, start_time="12:00", duration=_A_DAY)


_CHANGES: Mapping[Change, int] = {
    lambda job, rng: [pb.CancelJobRequest(job_id=job, force=rng.random() < 0.4)]: 3,
    lambda job, rng: _some(rng, pb.PauseJobRequest(job_id=job), pb.ResumeJobRequest(job_id=job)): 3,
    lambda job, rng: _some(
        rng,
        pb.ApproveStageRequest(job_id=job, stage=rng.randrange(2)),
        pb.AdvanceJobRequest(job_id=job, stage=rng.randint(1, 2)),
    ): 3,
    lambda job, rng: _some(
        rng,
        pb.RejectStageRequest(job_id=job, stage=rng.randrange(2)),
        pb.ResumeJobRequest(job_id=job),
    ): 1,
    lambda job, rng: [pb.ApproveStartRequest(job_id=job)]: 3,
    lambda job, rng: [pb.RejectStartRequest(job_id=job)]: 1,
    _change_criteria: 1,
    lambda job, rng: [_update(job, ["continuous"])]: 1,
    _change_windows: 3,
    lambda job, rng: [pb.RetryExecutionsRequest(job_id=job, statuses=_RETRIED)]: 3,
    lambda job, rng: [
        pb.CancelExecutionRequest(
            job_id=job, device_id=rng.choice(DEVICES), force=rng.random() < 0.5
        )
    ]: 3,
    lambda job, rng: [pb.DeleteJobRequest(job_id=job)]: 2,
}
"""The changes, with their weights."""
