"""One trial: faults under traffic, then a recount."""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.client import JobsError
from tests.chaos.event_readers import EventReaders, check_webhooks
from tests.chaos.faults import FAULTS, PAST_LEASE, Fault, freeze_server_past_lease
from tests.harness.consumers import running_receiver
from tests.harness.event_checks import check_events
from tests.harness.history import History, ImpossibleHistory, check_history
from tests.harness.ledger import Device, Job, Ledger
from tests.harness.recount import check_limits, check_stored, event_positions
from tests.harness.system import TENANTS, System, running_system
from tests.harness.traffic import Traffic

HISTORY = "history"
"""The folder of the history of calls, in that of the trial."""

_WEBHOOKS_PER_TENANT = 2
_READS_AT_ONCE = 8
_PENDING = device_pb.ListPendingExecutionsRequest(limit=100)
_MAX_HISTORIES = 5
# One fault of a trial is followed by a freeze past the lease for each so many faults.
_FAULTS_PER_LONG_FREEZE = 100


async def run_trial(
    folder: Path,
    gateway_binary: Path,
    *,
    faults: int,
    seed: int,
    late_after: float = 5.0,
    pace: float = 1.0,
    pause: float = 0.0,
    stop: asyncio.Event | None = None,
    progress: Callable[[int, str], None] = lambda done, name: None,
) -> Ledger:
    """Inject faults under traffic and check that the service keeps its guarantees.

    `stop` ends the faults early; the recount follows. `progress` is called before each fault with
    the number of faults so far and the next one's name. The service passed if the returned ledger
    has no problems. One is that a process answers, or a timeout is stored, more than `late_after`
    seconds too late. Faults last `pace` times as long as by default. For `pause` see Traffic.
    """
    ledger, history = Ledger(), History(folder / HISTORY)
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    wrong: list[Job] = []
    async with (
        running_receiver(folder, ledger) as receiver,
        running_system(
            *(folder, gateway_binary, ledger), variables=receiver.variables, history=history
        ) as system,
    ):
        receiver.is_flaky, system.pace = True, pace
        for tenant in TENANTS * _WEBHOOKS_PER_TENANT:
            await receiver.subscribe(system.calls[0], tenant)
        traffic = Traffic(system, ledger, seed=seed, pause=pause)
        readers = EventReaders(system, ledger, seed)
        async with readers.running():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(traffic.run())
                try:
                    for fault in _choose(faults, rng):
                        if stop and stop.is_set():
                            break
                        progress(ledger.done["faults"], fault.__name__)
                        ledger.done["faults"] += 1
                        ledger.note("faults", fault.__name__)
                        await fault(system, rng)
                        await system.wait_until_all_answer(late_after)
                        await _read_unanswered(system, history)
                        wrong += await check_limits(system, ledger)
                        await asyncio.sleep(rng.uniform(0.1, 0.6))
                finally:
                    traffic.stop()
            progress(ledger.done["faults"], "recount")
            jobs = {(call.tenant, call.job_id) for call in ledger.operator_calls.values()}
            await _read(system, jobs)
            history.pass_deadlines()
            wrong += await check_stored(system, ledger, late_after)
            async with system.owner() as owner:
                stored = await event_positions(owner, ledger)
            await readers.check(stored)
            await _read(system, jobs)
        await check_webhooks(
            receiver,
            ledger,
            stored,
            max_repeated=ledger.done["faults"] + 2,
            max_late=ledger.done[PAST_LEASE],
        )
        async with system.owner() as owner:
            events = {
                (t, job): found for t in TENANTS for job, found in readers.of(t).events.items()
            }
            wrong += await check_events(owner, ledger, events)
        await _describe(system, ledger, wrong)
    history.close()
    try:
        ledger.histories = await asyncio.to_thread(check_history, history.folder)
    except ImpossibleHistory as e:
        ledger.problem("no order of calls explains their answers", e)
    return ledger


async def _read_unanswered(system: System, history: History) -> None:
    """Read what the calls without an answer since the last fault may have changed."""
    jobs: set[Job] = set()
    devices: set[Device] = set()
    for call in history.take_unanswered():
        if job_id := getattr(call.request, "job_id", ""):
            jobs.add((call.tenant, job_id))
        names = [call.device, *getattr(call.request, "device_ids", ())]
        devices |= {(call.tenant, name) for name in names if name}
    await _read(system, jobs, devices)


async def _read(system: System, jobs: Collection[Job], devices: Collection[Device] = ()) -> None:
    """Read jobs with their executions, and what devices see, for the history."""
    requests: list[tuple[Any, str, str]] = [
        *((pb.GetJobRequest(job_id=job_id), tenant, "") for tenant, job_id in jobs),
        *((_PENDING, tenant, device) for tenant, device in devices),
    ]
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def read(number: int, request: Any, tenant: str, device: str) -> None:
        async with slots:
            with suppress(JobsError):
                await system.calls[number % 2].call(request, tenant, device=device)

    await asyncio.gather(*(read(number, *each) for number, each in enumerate(requests)))


def _choose(count: int, rng: random.Random) -> list[Fault]:
    """Return `count` faults in random order, with each kind equally often."""
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += rng.sample(FAULTS, len(FAULTS))
    for number in range(count // _FAULTS_PER_LONG_FREEZE):
        chosen[number * _FAULTS_PER_LONG_FREEZE] = freeze_server_past_lease
    return chosen[:count]


async def _describe(system: System, ledger: Ledger, jobs: list[Job]) -> None:
    """Add the rows and the events of the wrong jobs to the problems."""
    async with system.owner() as owner:
        for tenant, job_id in list(dict.fromkeys(jobs))[:_MAX_HISTORIES]:
            lines = ledger.notes(job_id)
            for table in ("jobs", "job_progress", "job_executions", "events"):
                sql = f"SELECT t::text FROM jobs.{table} t WHERE tenant_id = $1 AND job_id = $2"
                rows = await owner.fetch(sql, tenant, job_id)
                lines += [f"{table}: {row[0]}" for row in rows]
            ledger.examples[f"history of {tenant} {job_id}"] = lines


def report(ledger: Ledger, seed: int) -> str:
    """Return the outcome of a trial as text."""
    acknowledged = ", ".join(f"{count:,} {name}" for name, count in ledger.summary().items())
    seconds = time.monotonic() - ledger.started_at
    lines = [
        f"{ledger.done['faults']} faults with seed {seed} in {seconds:.0f} s;"
        f" {ledger.problems.total():,} violations",
        f"acknowledged: {acknowledged}",
        *(f"  {count:8,}  {name}" for name, count in sorted(ledger.done.items())),
    ]
    if ledger.histories:
        lines.append(f"histories: {ledger.histories}")
    if ledger.skipped:
        lines.append(f"without {ledger.skipped}")
    if ledger.examples:
        lines += ["faults:", *ledger.notes("faults")]
        for kind, examples in ledger.examples.items():
            count = ledger.problems[kind]
            lines += [f"{count:,} × {kind}, such as:" if count else f"{kind}:", *examples]
    return "\n".join(lines)
