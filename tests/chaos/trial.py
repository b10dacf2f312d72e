"""One trial: faults under traffic, then a recount."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg

from tests.chaos.event_checks import check_events, read_log
from tests.chaos.event_readers import EventReaders
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.history import History, Job
from tests.chaos.recount import check_limits, check_stored
from tests.chaos.system import System, running_system
from tests.chaos.traffic import Traffic
from tests.chaos.webhook_receiver import running_receiver

_MAX_HISTORIES = 5


async def run_trial(
    folder: Path,
    gateway_binary: Path,
    *,
    faults: int,
    seed: int,
    late_after: float = 5.0,
    stop: asyncio.Event | None = None,
    progress: Callable[[int, str], None] = lambda done, name: None,
) -> History:
    """Inject faults under traffic and check that the service keeps its guarantees.

    `stop` ends the faults early; the recount follows. `progress` is called before each fault with
    the number of faults so far and the next one's name. The service passed if the returned history
    has no violations. One is that a process answers, or a timeout is stored, more than `late_after`
    seconds too late.
    """
    history = History()
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    wrong: list[Job] = []
    async with (
        running_receiver(folder, history) as webhooks,
        running_system(folder, gateway_binary, history, variables=webhooks.variables) as system,
    ):
        await webhooks.subscribe(system)
        traffic = Traffic(system, history, seed)
        readers = EventReaders(system, history, seed)
        async with readers.running():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(traffic.run())
                try:
                    for fault in _choose(faults, rng):
                        if stop and stop.is_set():
                            break
                        progress(history.faults, fault.__name__)
                        history.faults += 1
                        history.note("faults", fault.__name__)
                        await fault(system, rng)
                        await system.wait_until_all_answer(late_after)
                        wrong += await check_limits(system, history)
                        await asyncio.sleep(rng.uniform(0.1, 0.6))
                finally:
                    traffic.stop()
            progress(history.faults, "recount")
            wrong += await check_stored(system, history, late_after)
            log = await read_log(system, history)
            await readers.check(log)
        await webhooks.check(log)
        wrong += await check_events(system, history, log)
        await _describe(system, history, wrong)
    return history


def _choose(count: int, rng: random.Random) -> list[Fault]:
    """Return `count` faults in random order, with each kind equally often."""
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += rng.sample(FAULTS, len(FAULTS))
    return chosen[:count]


async def _describe(system: System, history: History, jobs: list[Job]) -> None:
    """Add the rows and the events of the wrong jobs to the violations."""
    async with system.owner() as owner:
        for tenant, job_id in list(dict.fromkeys(jobs))[:_MAX_HISTORIES]:
            rows = [
                *await _rows(owner, "jobs.jobs", tenant, job_id),
                *await _rows(owner, "jobs.job_progress", tenant, job_id),
                *await _rows(owner, "jobs.job_executions", tenant, job_id),
                *await _rows(owner, "jobs.events", tenant, job_id),
            ]
            history.violations[f"history of {tenant} {job_id}"] = [*history.events(job_id), *rows]


async def _rows(owner: asyncpg.Connection, table: str, tenant: str, job_id: str) -> list[str]:
    rows = await owner.fetch(
        f"SELECT t::text FROM {table} t WHERE tenant_id = $1 AND job_id = $2", tenant, job_id
    )
    return [f"{table}: {row[0]}" for row in rows]


def report(history: History, seed: int) -> str:
    """Return the outcome of a trial as text."""
    acknowledged = ", ".join(f"{count:,} {name}" for name, count in history.summary().items())
    seconds = time.monotonic() - history.started_at
    lines = [
        f"{history.faults} faults with seed {seed} in {seconds:.0f} s;"
        f" {history.violation_counts.total():,} violations",
        f"acknowledged: {acknowledged}",
        *(f"  {count:8,}  {name}" for name, count in sorted(history.calls.items())),
    ]
    if history.skipped:
        lines.append(f"without {history.skipped}")
    if history.violations:
        lines += ["faults:", *history.events("faults")]
        for kind, examples in history.violations.items():
            count = history.violation_counts[kind]
            lines += [f"{count:,} × {kind}, such as:" if count else f"{kind}:", *examples]
    return "\n".join(lines)
