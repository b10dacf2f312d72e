"""Random calls around devices and lists: FleetService, targets, and what readers page through."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fleet.jobs.v1 import fleet_pb2
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.machine import messages
from tests.machine.machine import SEED, Machine, outcome
from tests.machine.operators import CODES, create_for
from tests.model import operator_calls
from tests.model.device_calls import queue
from tests.model.execution import FAILURES
from tests.model.job import Job
from tests.model.stages import Stage, claims, divide
from tests.model.targets import Term, matching
from tests.model.tenant import Call
from tests.support import random_selectors
from tests.support.callers import all_executions, all_jobs
from tests.support.waiting import TIMEOUT

# The field of a bucket, by the status that readers see and whether the attempt failed by itself.
_TIMELINE_COUNTS = {
    ("SUCCEEDED", False): "succeeded_count",
    **dict.fromkeys(((status, True) for status in FAILURES), "failed_count"),
    ("REJECTED", False): "canceled_count",
    ("TIMED_OUT", False): "expired_count",
}


async def create_with_target(m: Machine) -> None:
    """Call PreviewTarget, then CreateJob, with a random kind of target.

    If both accept it, the job must match the preview.
    """
    target, devices, reason, terms = _target(m)
    settings = m.profile.settings(m)
    if settings.get("is_continuous") and m.random.random() < 0.6:
        # Few devices match random selectors.
        registered = [device.device_id for device in m.state.devices]
        target, devices, reason, terms = {"target_all": True}, registered, "", []
    ends_with_remainder = settings.get("rollout", [])[-1:] in ([], [Stage()], [Stage(rate=1)])
    is_continuous = settings.pop("is_continuous", False)
    if is_continuous and terms is not None and ends_with_remainder:
        settings["target"] = tuple(terms)
        reason = ""
    if reason != "DEVICE_NOT_FOUND":
        target |= await _preview(m, target, devices, settings.get("rollout", ()))
    if reason:
        _, got = await outcome(m.operator.create(job_id="rejected", **target))
        assert got == reason
    else:
        await create_for(m, devices, settings, target)


async def _preview(
    m: Machine, target: dict[str, Any], devices: list[str], stages: Sequence[Stage]
) -> dict[str, Any]:
    """Preview a target. Return the field of CreateJob that expects its digest."""
    rollout = messages.rollout(stages, SEED) if stages else None
    preview = await m.fleet.preview(**target, rollout=rollout)
    assert preview.device_count == len(devices)
    assert preview.device_ids == sorted(devices, key=str.encode)[:20]
    claimed = claims(stages, m.state.devices)
    if stages and devices:
        ends = divide(stages, devices, claimed)[0].last_ranks
        assert [sum(preview.stage_sizes[: n + 1]) for n in range(len(stages))] == [*ends]
    # Digests are equal if and only if the devices and their stages are.
    content = frozenset((device, claimed.get(device)) for device in devices)
    assert m.digests.setdefault(preview.target_digest, content) == content
    assert len({*m.digests.values()}) == len(m.digests)
    return {"expected_target_digest": preview.target_digest}


def _target(m: Machine) -> tuple[dict[str, Any], list[str], str, list[Term] | None]:
    """Return a target of a request, its devices, and the reason if it fails.

    The last element is the terms of a target that a continuous job can have.
    """
    terms: list[Term]
    known = m.state.devices
    registered = [device.device_id for device in known]
    match m.choice(["all", "all", "device", "devices", "selector", "selector", "failed", "group"]):
        case "device":
            device = m.device()
            found = [device] if device in registered else []
            return {"target_device_id": device}, found, "" if found else "DEVICE_NOT_FOUND", None
        case "devices":
            ids = [m.device() for _ in range(m.random.randint(2, 10))]
            missing = "" if {*ids} <= {*registered} else "DEVICE_NOT_FOUND"
            return (
                {"target_device_ids": pb.DeviceIds(device_ids=ids)},
                sorted({*ids}),
                missing,
                None,
            )
        case "group":
            group = random_group(m)
            terms = [("group", "in", (group,))]
            found = matching(terms, known)
            return {"target_group_id": group}, found, "" if found else "GROUP_EMPTY", terms
        case "selector":
            terms = random_selectors.terms(m.random, known) or [("k", "missing", ())]
            found = matching(terms, known)
            text = random_selectors.spell(m.random, terms)
            return {"target_selector": text}, found, "" if found else "TARGET_EMPTY", terms
        case "failed" if m.state.jobs:
            return *_failed(m), None
    return {"target_all": True}, registered, "", []


def _failed(m: Machine) -> tuple[dict[str, Any], list[str], str]:
    """Devices that failed in a job, with some statuses and codes, and that match a selector."""
    job = m.job()
    statuses = m.random.sample(FAILURES, m.random.choice([0, 0, 1, 2]))
    codes = m.random.sample(CODES, m.random.choice([0, 0, 1, 2]))
    terms = random_selectors.terms(m.random, m.state.devices, max_terms=m.random.randrange(2))
    failed = {
        each.device
        for each in job.executions
        if each.status in (statuses or FAILURES) and (not codes or each.code in codes)
    }
    found = [device for device in matching(terms, m.state.devices) if device in failed]
    failed_in = pb.FailedIn(
        job_id=job.job_id,
        statuses=[pb.JobExecution.Status.Value(status) for status in statuses],
        failure_codes=codes,
        selector=random_selectors.spell(m.random, terms),
    )
    return {"target_failed_in": failed_in}, found, "" if found else "TARGET_EMPTY"


def random_group(m: Machine) -> str:
    """A group of a device, or one without devices."""
    return m.choice([*sorted(m.choice(m.devices).groups), "empty-group"])


def random_stages(m: Machine) -> list[Stage]:
    """Random stages whose claims often overlap, and a last stage for the remaining devices."""
    groups = [*sorted(m.choice(m.devices).groups), "empty-group"]
    stages: list[Stage] = []
    for _ in range(m.random.randrange(5)):
        terms = random_selectors.terms(m.random, m.devices, max_terms=1) or [("k", "exists", ())]
        claims = [(("group", "in", (m.choice(groups),)),), tuple(terms)]
        stages.append(m.choice([Stage(count=1), *(Stage(claim=claim) for claim in claims)]))
    return [*stages, Stage()]


async def register(m: Machine) -> None:
    """UpdateDevices with one device."""
    device = random_selectors.device(m.random, m.device())
    sent = fleet_pb2.Device(
        device_id=device.device_id, labels=dict(device.labels), group_ids=sorted(device.groups)
    )
    before = m.state.device(device.device_id)
    await m.both(
        Call(operator_calls.register, device),
        m.fleet.update(sent, mask=["labels", "group_ids"], allow_missing=True),
    )
    can_join = any(job.target is not None for job in m.state.jobs)
    if can_join and m.state.device(device.device_id) != before:
        m.changed_devices.add(device.device_id)


async def delete_devices(m: Machine) -> None:
    """DeleteDevices. The last device stays."""
    devices = [device.device_id for device in m.devices[:-1]]
    some = m.random.sample(devices, m.random.randint(1, 2))
    call = Call(operator_calls.delete_devices, some)
    response, counts = await m.both(call, m.fleet.delete(*some))
    assert (response.deleted_count, response.ended_execution_count) == counts


async def list_devices(m: Machine) -> None:
    """ListDevices, ListGroups, GetCaller, and what is at most a minute old."""
    terms = random_selectors.terms(m.random, m.devices)
    page = await m.fleet.list(selector=random_selectors.spell(m.random, terms))
    assert [each.device_id for each in page.devices] == matching(terms, m.state.devices)
    for each in page.devices:
        device = m.state.device(each.device_id)
        assert device is not None
        assert device.labels == frozenset(each.labels.items())
    groups = await m.fleet.groups()
    counts = Counter(group for device in m.state.devices for group in device.groups)
    assert {group.group_id: group.device_count for group in groups.groups} == counts
    assert (await m.fleet.labels()).complete
    summary = await m.fleet.summary()
    assert sum(count for _, count in summary.last_seen.ListFields()) == summary.device_count
    caller = await m.operator.get_caller()
    assert (caller.tenant_id, caller.user_id) == (m.tenant, "olivia")


async def list_jobs(m: Machine) -> None:
    """ListJobs by labels and by status, in pages."""
    team = m.choice(["a", "b"])
    found = await all_jobs(m.operator, selector=f"team={team}", limit=2)
    labeled = {job.job_id for job in m.state.jobs if ("team", team) in job.labels}
    assert {job.job_id for job in found} == labeled
    status = m.choice(["IN_PROGRESS", "COMPLETED", "CANCELED", "PAUSED", "SCHEDULED"])
    found = await all_jobs(m.operator, status=status, limit=2)
    with_status = {job.job_id for job in m.state.jobs if job.visible_status == status}
    assert {job.job_id for job in found} == with_status


async def read_job(m: Machine) -> None:
    """ListJobExecutions in pages, GetExecution, GetJobTimeline and WatchJob."""
    job = m.job()
    await _read_timeline(m, job)
    executions = await all_executions(m.operator, job.job_id, limit=m.random.randint(1, 3))
    statuses = {each.device_id: pb.JobExecution.Status.Name(each.status) for each in executions}
    assert statuses == {each.device: job.visible(each) for each in job.executions}
    for device, status in statuses.items():
        execution, reason = await outcome(m.caller(device).get(job.job_id))
        assert reason == ("EXECUTION_NOT_FOUND" if status == "HELD" else None)
        assert reason or pb.JobExecution.Status.Name(execution.status) == status
    stub: Any = m.operator.stub
    request = pb.WatchJobRequest(job_id=job.job_id)
    call = stub.WatchJob(request, metadata=m.operator.metadata, timeout=TIMEOUT)
    response = await call.read()
    call.cancel()
    assert pb.Job.Status.Name(response.job.status) == job.visible_status


async def _read_timeline(m: Machine, job: Job) -> None:
    expected = Counter(
        _TIMELINE_COUNTS[job.visible(each), each.code is not None]
        for each in job.executions
        if job.visible(each) not in ("QUEUED", "HELD", "IN_PROGRESS")
    )
    counts: Counter[str] = Counter()
    for bucket in (await m.operator.timeline(job.job_id)).buckets:
        for field, count in bucket.ListFields()[1:]:
            counts[field.name] += count
    assert counts == expected


async def get_device(m: Machine) -> None:
    """UpdateFacts and GetDevice: the queue also has the executions that wait."""
    device = m.device()
    facts = {"position": f"{m.position}"}
    _, facts_reason = await outcome(m.caller(device).facts(facts, replace=True))
    response, reason = await outcome(m.fleet.get(device))
    assert facts_reason == reason
    if m.state.device(device) is None:
        assert reason == "DEVICE_NOT_FOUND"
    else:
        assert [each.job_id for each in response.executions] == queue(m.state, device)
        assert response.device.facts == facts
