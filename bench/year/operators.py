"""The operators of a tenant: they create jobs, watch them, and change them."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import events_pb2, fleet_pb2
from fleet.jobs.v1 import jobs_pb2 as pb

from bench.year.calls import Callers
from bench.year.fleet import BRICKED_CODE, MODELS, RETRIED_CODE, RINGS, Device, device
from bench.year.ledger import LedgerJob, seconds
from bench.year.scale import Scale, Step
from tests.harness.ledger import OperatorCall
from tests.machine import messages
from tests.model.criteria import Criterion
from tests.model.retries import Rule
from tests.model.stages import Stage
from tests.model.windows import Window

# Days of a month. All are part of each month, so that months can be compared.
_RELEASE_DAYS = (2, 4, 6, 8, 10)
_EMERGENCY_DAYS = (5, 9, 19)
_REMOVAL_DAYS = (3, 15, 25)
_ENROLLMENT_DAYS = range(1, 8)
_ENROLLMENT_STEP = 6
_BRAKE_DAY = 4
"""The day on which one device more than `max_joins_per_hour` allows is enrolled."""
_VERIFICATION_DAYS = 5
"""How long devices can join the verification of a rollout."""

# Kinds of a rollout, by the last digit of the number of the tenant plus the month.
_ADVANCED, _FORCE_CANCELED, _CANCELED_BY_TRIP, _FIXED, _CANCELED, _PAUSED = 9, 7, 1, 4, 8, 6

_NIGHT = Window(127, 22 * 60, 6 * 60)
_EARLY = Window(127, 2 * 60, 3 * 60)
_HOUR = 3600
# The longest backoff is shorter than a step.
_RETRIES = Rule(("FAILED",), (RETRIED_CODE,), initial_backoff=300, max_backoff=1200, multiplier=2)
# Kinds of a daily job.
_SCHEDULED, _WINDOWED, _WITH_RETRIES = 1, 2, 3
_REMOVED = 5
_ENROLLED = 3


class Operators:
    """The operators of one tenant."""

    def __init__(self, calls: Callers, tenant: str, scale: Scale) -> None:
        self._calls = calls
        self._ledger = calls.ledger
        self._tenant = tenant
        self._number = int(tenant[1:])
        self._scale = scale
        self._directory = calls.ledger.directories[tenant]

    async def prepare(self, step: Step) -> None:
        """Act before the devices do."""
        at = step.at
        for job in self._ledger.open_jobs(self._tenant):
            if job.kind == "firmware":
                await self._operate_rollout(job, at)
        actions = (
            *(self._register_again, self._create_daily, self._create_emergency),
            *(self._create_rollout, self._cancel_executions, self._read, self._delete),
        )
        # At night, they do nothing.
        if step.number:
            await actions[step.number - 1](step)

    async def watch(self, step: Step) -> None:
        """Look at the rollouts and at closed windows after the devices have acted."""
        for job in self._ledger.open_jobs(self._tenant):
            if job.kind == "firmware":
                await self._look(job)
            if device_id := job.closed_device():
                await self._ask_closed_device(job, device_id, step.at)
        await self._enroll(step)

    # Creation

    async def _create_daily(self, step: Step) -> None:
        cohort = step.day % self._scale.cohorts
        variant = self._number % 5
        settings: dict[str, Any] = {
            "expires_after": 25 * _HOUR,
            "timeout": _HOUR,
            "labels": frozenset({("kind", "config")}),
            "execution_events": variant == 0,
        }
        if variant == _SCHEDULED:
            settings["start"] = seconds(step.at) + 5 * _HOUR
        elif variant == _WINDOWED:
            settings |= {"windows": (_EARLY,), "zone": None, "expires_after": 49 * _HOUR}
        elif variant == _WITH_RETRIES:
            settings["policy"] = (_RETRIES,)
        selector = f"cohort={cohort},model in (m1,m2),site!=closed"
        digest = ""
        if self._number % 2 == 0:
            request = fleet_pb2.PreviewTargetRequest(target_selector=selector)
            if preview := await self._calls.read(self._tenant, request):
                digest = preview.preview.target_digest
        devices = self._directory.matching("cohort", cohort)
        job = await self._create(
            *("config", f"{step.at:%m%d}", selector, devices, settings),
            variant=variant,
            expected_target_digest=digest,
        )
        if job and step.at.day in _REMOVAL_DAYS:
            await self._remove_devices(job)

    async def _create_emergency(self, step: Step) -> None:
        await self._cancel_scheduled(step)
        at = step.at
        if at.day not in _EMERGENCY_DAYS:
            return
        site = (at.day + at.month + self._number) % 50
        settings = {
            "priority": "HIGH",
            "expires_after": 49 * _HOUR,
            "timeout": _HOUR // 2,
            "execution_events": True,
        }
        devices = self._directory.matching("site", site)
        await self._create("emergency", f"{at:%m%d}", f"site={site}", devices, settings)

    async def _create_rollout(self, step: Step) -> None:
        at = step.at
        release_day = _RELEASE_DAYS[self._number % len(_RELEASE_DAYS)]
        if at.day == release_day + _VERIFICATION_DAYS:
            job = self._ledger.jobs.get((self._tenant, f"verification-{at:%m}"))
            if job and not job.is_canceled:
                await self._cancel(job, force=False)
        if at.day != release_day:
            return
        variant = (self._number + at.month) % 10
        model = at.month % len(MODELS)
        gate = Stage(min_succeeded_percent=50, bake=6 * _HOUR, advance_after=36 * _HOUR)
        canary, early = ((("ring", "in", (ring,)),) for ring in RINGS[:2])
        settings = {
            "priority": "LOW",
            "expires_after": 145 * _HOUR,
            "timeout": 2 * _HOUR,
            "windows": (_NIGHT,),
            "zone": None,
            "policy": (_RETRIES,),
            "rollout": [
                replace(gate, claim=canary, require_approval=variant % 2 == 0),
                replace(gate, claim=early),
                Stage(),
            ],
            "criteria": [
                Criterion(
                    codes=(BRICKED_CODE,),
                    percent=20,
                    min_finished=3,
                    action="CANCEL" if variant == _CANCELED_BY_TRIP else "PAUSE",
                )
            ],
            "execution_events": variant == 0,
        }
        devices = self._directory.matching("model", model)
        selector = f"model={MODELS[model]}"
        job = await self._create(
            "firmware", f"{at:%m}", selector, devices, settings, variant=variant
        )
        if job:
            job.is_bad = variant in (_FORCE_CANCELED, _CANCELED_BY_TRIP, _FIXED)
        await self._create_verification(f"{at:%m}")

    async def _create_verification(self, month: str) -> None:
        """Create a continuous job for devices when they report the version of the month."""
        early = RINGS[1]
        terms = ("fact.version", "in", (month,)), ("ring", "in", (early,))
        settings = {
            "target": terms,
            # More join in an hour than the default of the join brake allows.
            "max_joins": self._scale.devices,
            "timeout": _HOUR,
        }
        selector = f"fact.version={month},ring={early}"
        devices = self._directory.targeted(terms)
        await self._create("verification", month, selector, devices, settings)

    async def _enroll(self, step: Step) -> None:
        """Let devices join a continuous job of the first week of a month by a label.

        The devices have acted, so those that join act in the next step.
        """
        month, day = f"{step.at:%m}", step.at.day
        job = self._ledger.jobs.get((self._tenant, f"enrollment-{month}"))
        if job and job.model.joins_stopped:
            await self._release_brake(job)
        if step.number != _ENROLLMENT_STEP or day not in _ENROLLMENT_DAYS:
            return
        if day == _ENROLLMENT_DAYS[0]:
            settings: dict[str, Any] = {
                "target": (("enrolled", "in", (month,)),),
                "max_joins": _ENROLLED,
                "timeout": _HOUR,
                "execution_events": True,
            }
            await self._create("enrollment", month, f"enrolled={month}", [], settings)
        elif job and day == _ENROLLMENT_DAYS[-1]:
            request = pb.UpdateJobRequest(job_id=job.job_id)
            request.update_mask.paths.append("continuous")
            if await self._change(job, request) is not None:
                job.change(target=None)
        elif job:
            await self._enroll_devices(month, day)

    async def _enroll_devices(self, month: str, day: int) -> None:
        """Label devices of a site and a device that is registered for the first time."""
        new = device(len(self._directory.by_id), self._scale.cohorts)
        count = _ENROLLED if day == _BRAKE_DAY else _ENROLLED - 1
        chosen = [*self._directory.matching("site", day)[:count], new]
        if await self._register(chosen, enrolled=month):
            self._directory.add(new)
            self._directory.unreported[new.device_id] = month
            self._ledger.done["devices registered for the first time"] += 1
            for each in chosen:
                self._directory.set_value(each.device_id, "enrolled", month)

    async def _release_brake(self, job: LedgerJob) -> None:
        """Check that the join brake has stopped a job, and let the other devices join."""
        found = await self._get(job)
        if found is None:
            return
        if (found.pause.cause, found.total_executions) != (pb.Pause.JOINS, len(job.executions)):
            self._ledger.problem("the join brake differs", f"{self._tenant} {found}")
        await self._resume(job)
        job.change(joins_stopped=False, hour=None)
        # A full scan looks at all devices.
        self._directory.changed.update(self._directory.by_id)

    async def _create(
        self,
        kind: str,
        date: str,
        selector: str,
        devices: list[Device],
        settings: dict[str, Any],
        *,
        variant: int = 0,
        **fields: Any,
    ) -> LedgerJob | None:
        """Create a job with settings of the model."""
        if not devices and "target" not in settings:
            return None
        fields |= messages.job(settings, "") | {"job_id": f"{kind}-{date}", "document_type": kind}
        request = pb.CreateJobRequest(target_selector=selector, **fields)
        response, call, user = await self._calls.change(self._tenant, request)
        if response is None:
            return None
        if response.execution_count != len(devices):
            self._ledger.problem(
                "a job has other devices",
                f"{self._tenant} {request.job_id}: {response.execution_count}, not {len(devices)}",
            )
            return None
        by_id = {device.device_id: device for device in devices}
        job = self._ledger.add(self._tenant, request.job_id, kind, by_id, settings)
        job.variant = variant
        job.calls[user] = call
        return job

    # Rollouts

    async def _operate_rollout(self, job: LedgerJob, at: datetime) -> None:
        found = await self._look(job)
        if found is None or job.is_canceled:
            return
        if any(stage.awaiting_approval for stage in found.stages):
            await self._change(job, pb.ApproveStageRequest(job_id=job.job_id, comment="looks good"))
        if found.pause.cause == pb.Pause.GATE_NOT_MET:
            await self._cancel(job, force=False)
            return
        age = at - job.created_at
        if job.is_bad and job.criterion_tripped and job.is_paused:
            if job.variant == _FIXED:
                await self._fix(job)
            else:
                await self._cancel(job, force=True)
        elif job.variant == _CANCELED and age > timedelta(hours=30):
            await self._cancel(job, force=False)
        elif job.variant == _ADVANCED and found.stages[0].state == pb.JobStage.OPEN:
            if age > timedelta(hours=14):
                await self._change(job, pb.AdvanceJobRequest(job_id=job.job_id, stage=1))
        elif job.variant == _PAUSED and job.is_paused:
            await self._resume(job)
        elif job.variant == _PAUSED and timedelta(hours=26) < age < timedelta(hours=28):
            await self._change(job, pb.PauseJobRequest(job_id=job.job_id, reason="holiday"))
            job.change(pause_cause="OPERATOR")
        await self._look(job)

    async def _look(self, job: LedgerJob) -> pb.Job | None:
        """Read a rollout: which stages are open, and whether a failure criterion has tripped."""
        found = await self._get(job)
        if found is None:
            return None
        states = [stage.state for stage in found.stages]
        open_stage = sum(state != pb.JobStage.PENDING for state in states) - 1
        if job.model.rollout:
            job.change(rollout=replace(job.model.rollout, open_stage=open_stage))
        if found.HasField("trip") and not job.criterion_tripped:
            job.criterion_tripped = True
            self._ledger.done["rollouts whose criterion tripped"] += 1
            if not job.is_bad:
                self._ledger.problem(
                    "a failure criterion of a good release trips", f"{self._tenant} {found}"
                )
            if found.status == pb.Job.CANCELED:
                job.cancel(force=False)
            else:
                job.change(pause_cause="FAILURE_CRITERION")
        # Only in small fleets, whose canaries are a few devices.
        if found.pause.cause == pb.Pause.GATE_NOT_MET and not job.is_paused:
            self._ledger.done["rollouts whose gate was not met"] += 1
            job.change(pause_cause="GATE_NOT_MET")
        if (found.status == pb.Job.PAUSED) != job.is_paused and not job.is_finished:
            self._ledger.problem(
                "a pause is lost or invented", f"{self._tenant} {job.job_id}: {found.status}"
            )
        self._compare(job, found)
        return found

    async def _get(self, job: LedgerJob) -> pb.Job | None:
        request = pb.GetJobRequest(job_id=job.job_id, executions_limit=0)
        response = await self._calls.read(self._tenant, request)
        return None if response is None else cast("pb.Job", response.job)

    def _compare(self, job: LedgerJob, found: pb.Job) -> None:
        """Compare counts. Timeouts are stored a moment after they pass, so they are left out."""
        counts = found.execution_counts
        expected = [job.counts[name] for name in ("SUCCEEDED", "FAILED", "REJECTED")]
        if [counts.succeeded, counts.failed, counts.rejected] != expected:
            self._ledger.problem(
                "GetJob shows other counts",
                f"{self._tenant} {job.job_id}: {counts}, not {expected}",
            )

    async def _fix(self, job: LedgerJob) -> None:
        request = pb.RetryExecutionsRequest(
            job_id=job.job_id, statuses=[pb.JobExecution.FAILED], failure_codes=[BRICKED_CODE]
        )
        failed = [
            device_id
            for device_id, execution in job.executions.items()
            if (execution.status, execution.code) == ("FAILED", BRICKED_CODE)
        ]
        response = await self._change(job, request)
        if response is None:
            return
        if response.retried_count != len(failed):
            self._ledger.problem(
                "RetryExecutions retries others", f"{job.job_id}: {response}, not {len(failed)}"
            )
        job.is_bad = False
        for device_id in failed:
            job.retry(device_id, self._ledger.now())
        await self._resume(job)

    async def _resume(self, job: LedgerJob) -> None:
        await self._change(job, pb.ResumeJobRequest(job_id=job.job_id))
        job.change(pause_cause=None)

    async def _cancel(self, job: LedgerJob, *, force: bool) -> None:
        request = pb.CancelJobRequest(job_id=job.job_id, reason="superseded", force=force)
        if await self._change(job, request) is not None:
            job.cancel(force=force)

    async def _ask_closed_device(self, job: LedgerJob, device_id: str, at: datetime) -> None:
        """Let a device try to start outside its window, and ask why it does not start."""
        request = device_pb.StartExecutionRequest(job_id=job.job_id)
        _, reason = await self._calls.device(self._tenant, device_id, request)
        explain = pb.ExplainExecutionRequest(job_id=job.job_id, device_id=device_id)
        answer = await self._calls.read(self._tenant, explain)
        kinds = [blocker.kind for blocker in answer.blockers] if answer else []
        self._ledger.done["starts tried outside a window (all must be refused)"] += 1
        if reason != "EXECUTION_NOT_DUE" or pb.StartBlocker.WINDOW_CLOSED not in kinds:
            self._ledger.problem(
                "a device starts outside its window",
                f"{job.job_id} {job.devices[device_id]} at {at}: {reason or 'started'}, {answer}",
            )

    # Other changes

    async def _cancel_scheduled(self, step: Step) -> None:
        """Cancel some daily jobs before they start."""
        job = self._ledger.jobs.get((self._tenant, f"config-{step.at:%m%d}"))
        if not job or job.is_finished:
            return
        if job.variant == _SCHEDULED and (step.day + self._number) % 10 == 0:
            await self._cancel(job, force=False)

    async def _cancel_executions(self, step: Step) -> None:
        """Cancel the execution of one device of each job in which devices wait."""
        for job in self._ledger.open_jobs(self._tenant):
            waiting = job.waiting_devices()
            if not waiting or job.is_paused:
                continue
            request = pb.CancelExecutionRequest(job_id=job.job_id, device_id=waiting[0])
            if await self._change(job, request) is not None:
                job.end(waiting[0])

    async def _remove_devices(self, job: LedgerJob) -> None:
        """Remove devices of a job, and their executions of all jobs."""
        chosen = sorted(job.devices)[:_REMOVED]
        ended = [
            (other, device_id)
            for other in self._ledger.open_jobs(self._tenant)
            for device_id in chosen
            if device_id in other.executions and other.executions[device_id].status == "QUEUED"
        ]
        request = fleet_pb2.DeleteDevicesRequest(device_ids=chosen)
        response, call, user = await self._calls.change(self._tenant, request)
        if response is None:
            return
        found = response.deleted_count, response.ended_execution_count
        if found != (len(chosen), len(ended)):
            self._ledger.problem(
                "DeleteDevices ends others", f"{self._tenant} {chosen}: {found}, not {len(ended)}"
            )
        for other, device_id in ended:
            other.end(device_id, "DEVICE_DELETED")
            # Its events are those of a CancelExecution.
            other.calls[user] = OperatorCall(
                *(call.tenant, other.job_id, "CancelExecution", call.started_at, call.ended_at),
                accepted=True,
            )
        self._directory.remove(chosen)
        self._ledger.done["removed devices"] += len(chosen)

    async def _register_again(self, step: Step) -> None:
        """Register the removed devices again."""
        devices = [self._directory.by_id[each] for each in sorted(self._directory.removed)]
        if devices and await self._register(devices):
            self._directory.removed.clear()
            # They report the version that they were repaired with.
            self._directory.unreported |= {d.device_id: f"{step.at:%m}" for d in devices}

    async def _register(self, devices: Iterable[Device], **labels: str) -> bool:
        """Register devices, or change the labels of those that are registered."""
        request = fleet_pb2.UpdateDevicesRequest(allow_missing=True)
        request.update_mask.paths.extend(("labels", "time_zone"))
        for each in devices:
            request.devices.add(
                device_id=each.device_id, labels=each.labels | labels, time_zone=each.zone
            )
        return await self._calls.read(self._tenant, request) is not None

    async def _delete(self, step: Step) -> None:
        """Delete a daily job that has finished, once a week."""
        day = step.at - timedelta(days=5)
        job = self._ledger.jobs.get((self._tenant, f"config-{day:%m%d}"))
        if (step.day + self._number) % 7 or not job or not job.finished_at or job.deleted_at:
            return
        if found := await self._get(job):
            self._compare(job, found)
        request = pb.DeleteJobRequest(job_id=job.job_id)
        if await self._change(job, request) is not None:
            job.deleted_at = self._ledger.now()

    async def _read(self, step: Step) -> None:
        job_id = f"config-{step.at:%m%d}"
        for request in (
            pb.ListJobsRequest(),
            pb.ListJobsRequest(selector="kind=config", limit=10),
            pb.GetJobRequest(job_id=job_id),
            pb.ListJobExecutionsRequest(job_id=job_id),
            pb.GetFailureSummaryRequest(job_id=job_id),
            events_pb2.ListJobEventsRequest(job_id=job_id),
            fleet_pb2.ListDevicesRequest(selector="ring=canary"),
        ):
            await self._calls.read(self._tenant, request)

    async def _change(self, job: LedgerJob, request: Any) -> Any:
        """Make a call that changes a job."""
        response, call, user = await self._calls.change(self._tenant, request)
        job.calls[user] = call
        return response
