"""Random calls around devices and lists: FleetService, targets, and what readers page through."""

from collections import Counter
from typing import Any

from fleet.jobs.v1 import fleet_pb2
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.machine.machine import Machine, outcome
from tests.machine.operators import create_for
from tests.model import operator_calls
from tests.model.device_calls import queue
from tests.model.execution import FAILURES
from tests.model.targets import Device, matching
from tests.model.tenant import Call
from tests.support.callers import all_executions, all_jobs
from tests.support.waiting import TIMEOUT


async def create_with_target(m: Machine) -> None:
    """PreviewTarget and CreateJob with each kind of target."""
    target, devices, reason = _target(m)
    if reason:
        _, got = await outcome(m.operator.create(job_id="rejected", **target))
        assert got == reason
        return
    preview = await m.fleet.preview(**target)
    assert preview.device_count == len(devices)
    await create_for(m, devices, m.profile.settings(m), target)


def _target(m: Machine) -> tuple[dict[str, Any], list[str], str]:
    """Return a target of a request, its devices, and the reason if it fails."""
    registered = [device.device_id for device in m.state.devices]
    device = m.device()
    match m.choice(["all", "all", "device", "devices", "selector", "failed", "group"]):
        case "device":
            found = [device] if device in registered else []
            return {"target_device_id": device}, found, "" if found else "DEVICE_NOT_FOUND"
        case "devices":
            ids = pb.DeviceIds(device_ids=[device, "c"])
            missing = "" if device in registered else "DEVICE_NOT_FOUND"
            return {"target_device_ids": ids}, sorted({device, "c"}), missing
        case "group":
            found = matching([("group", "in", ("north",))], m.state.devices)
            return {"target_group_id": "north"}, found, "" if found else "GROUP_EMPTY"
        case "selector":
            found = matching([("ring", "in", ("x",))], m.state.devices)
            return {"target_selector": "ring=x"}, found, "" if found else "TARGET_EMPTY"
        case "failed" if m.state.jobs:
            job = m.job()
            failed = {each.device for each in job.executions if each.status in FAILURES}
            found = [each for each in registered if each in failed]
            failed_in = pb.FailedIn(job_id=job.job_id)
            return {"target_failed_in": failed_in}, found, "" if found else "TARGET_EMPTY"
    return {"target_all": True}, registered, ""


async def register(m: Machine) -> None:
    """UpdateDevices with one device."""
    device_id, ring = m.device(), m.choice("xy")
    groups = m.choice([[], ["north"], ["north", "south"]])
    sent = fleet_pb2.Device(device_id=device_id, labels={"ring": ring}, group_ids=groups)
    device = Device(device_id, frozenset({("ring", ring)}), frozenset(groups))
    await m.both(
        Call(operator_calls.register, device),
        m.fleet.update(sent, mask=["labels", "group_ids"], allow_missing=True),
    )


async def delete_devices(m: Machine) -> None:
    """DeleteDevices. The last device of the profile stays."""
    devices = [device.device_id for device in m.profile.devices[:-1]]
    some = m.random.sample(devices, m.random.randint(1, 2))
    call = Call(operator_calls.delete_devices, some)
    response, counts = await m.both(call, m.fleet.delete(*some))
    assert (response.deleted_count, response.ended_execution_count) == counts


async def list_devices(m: Machine) -> None:
    """ListDevices, GetDevice and ListGroups."""
    text, terms = m.choice(
        [("", []), ("ring=x", [("ring", "in", ("x",))]), ("ring!=x", [("ring", "notin", ("x",))])]
    )
    page = await m.fleet.list(selector=text)
    assert [each.device_id for each in page.devices] == matching(terms, m.state.devices)
    for each in page.devices:
        device = m.state.device(each.device_id)
        assert device is not None
        assert device.labels == frozenset(each.labels.items())
    groups = await m.fleet.groups()
    counts = Counter(group for device in m.state.devices for group in device.groups)
    assert {group.group_id: group.device_count for group in groups.groups} == counts
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
    """ListJobExecutions in pages, GetExecution and WatchJob."""
    job = m.job()
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


async def get_device(m: Machine) -> None:
    """GetDevice: the queue also has the executions that wait."""
    device = m.device()
    response, reason = await outcome(m.fleet.get(device))
    if m.state.device(device) is None:
        assert reason == "DEVICE_NOT_FOUND"
    else:
        assert [each.job_id for each in response.executions] == queue(m.state, device)
