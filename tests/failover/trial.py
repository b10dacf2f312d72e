"""Trials: the primary is lost under traffic, and a standby or a backup takes its place."""

import asyncio
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.client import JobsError
from tests.chaos.event_readers import EventReaders
from tests.failover.nodes import Node
from tests.harness.event_checks import ATTEMPTS
from tests.harness.ledger import Ledger
from tests.harness.recount import check_counts, check_stored, event_positions
from tests.harness.system import TENANTS, System, database_variables, running_system
from tests.harness.traffic import Traffic
from tests.support.processes import output_of
from tests.support.waiting import wait_until, wait_until_true

_PAGE = Path(__file__).parents[2] / "docs" / "operations" / "backup.md"

_LATE_AFTER = 10.0
_PROMOTED_AFTER = 0.5
_DISCONNECTED_SECONDS = 1
_ARCHIVE_TIMEOUT = 2


@dataclass
class Outcome:
    """The figures of a trial, and the ledger with its problems."""

    name: str
    ledger: Ledger = field(default_factory=Ledger)
    figures: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        summary = self.ledger.summary()
        found = f"{summary['jobs']:,} jobs, {summary['reports']:,} reports"
        lines = [
            f"{self.name}: {self.ledger.problems.total():,} violations",
            f"acknowledged: {found}",
        ]
        lines += [f"{name}: {value}" for name, value in self.figures.items()]
        for kind, examples in self.ledger.examples.items():
            lines += [f"{self.ledger.problems[kind]:,} × {kind}, such as:", *examples]
        return "\n  ".join(lines)


async def run_promotions(
    folder: Path, gateway: Path, *, count: int, seed: int, synchronous: bool
) -> Outcome:
    """Lose the primary and promote its standby, `count` times.

    The machine of the primary is lost in turn because it stops (SIGKILL of all processes), and
    because it does not respond (SIGSTOP). With a synchronous standby, nothing acknowledged may be
    missing. With an asynchronous one, the outcome says what is: after the first loss, and after the
    others, before which the standby was not connected for a second.
    """
    outcome = Outcome(f"{count} promotions of {'a ' if synchronous else 'an a'}synchronous standby")
    ledger, rng = outcome.ledger, random.Random(seed)  # noqa: S311 - repeatable on purpose
    writes, answers = list[float](), list[float]()
    lost: tuple[list[float], list[float]] = ([], [])
    variables = database_variables(folder / "sockets", folder / "standby")
    async with running_system(folder, gateway, ledger, variables=variables) as system:
        primary, standby = Node.of(system), Node.new(folder, "standby")
        readers = EventReaders(system, ledger, seed)
        async with _killed_at_end(primary, standby), readers.running():
            async with _traffic(system, ledger, seed):
                for number in range(count):
                    await standby.follow(primary, synchronous=synchronous)
                    since = ledger.now()
                    await asyncio.sleep(rng.uniform(3, 5))
                    if number and not synchronous:
                        await standby.configure(primary_conninfo="")
                        await asyncio.sleep(_DISCONNECTED_SECONDS)
                    heads = await _event_heads(primary)
                    at, started = ledger.now(), time.monotonic()
                    primary.signal_all(signal.SIGSTOP if number % 2 else signal.SIGKILL)
                    await asyncio.sleep(_PROMOTED_AFTER)
                    if not synchronous:
                        await standby.wait_until_replayed()
                        lost[number > 0].extend(await _ages_of_lost(standby, ledger, since, at))
                    await standby.promote()
                    if not synchronous:
                        await _tell_readers(standby)
                    standby.serve(system)
                    await system.wait_until_all_answer(_LATE_AFTER)
                    answers.append(time.monotonic() - started)
                    primary.signal_all(signal.SIGKILL)
                    writes.append(await _first_write(ledger, at))
                    if not synchronous:
                        await _check_purged(system, heads)
                    primary, standby = standby, primary
            if synchronous:
                await check_stored(system, ledger, _LATE_AFTER)
                async with primary.owner() as owner:
                    await readers.check(await event_positions(owner, ledger))
            else:
                async with primary.owner() as owner:
                    await check_counts(owner, ledger, TENANTS)
    outcome.figures = {
        "seconds until the first acknowledged write": _spread(writes),
        "seconds until both servers and the gateway answer": _spread(answers),
    }
    if not synchronous:
        outcome.figures["acknowledged calls lost"] = _losses(lost[0])
        outcome.figures[f"after {_DISCONNECTED_SECONDS} s without the standby"] = _losses(lost[1])
    return outcome


async def run_restore(folder: Path, gateway: Path, *, seed: int) -> Outcome:
    """Restore a base backup and archived WAL beside the traffic, to a time and to the end."""
    outcome = Outcome("base backup and WAL archive")
    ledger, figures = outcome.ledger, outcome.figures
    async with running_system(folder, gateway, ledger) as system:
        primary, copy, last = Node.of(system), Node.new(folder, "copy"), Node.new(folder, "last")
        archive = Node.new(folder, "archive").sockets
        async with _killed_at_end(primary, copy, last):
            await primary.configure(
                archive_mode="on",
                archive_command=f"test ! -f {archive}/%f && cp %p {archive}/%f",
                archive_timeout=f"{_ARCHIVE_TIMEOUT}s",
            )
            await primary.start()
            async with _traffic(system, ledger, seed, finishes=False):
                await asyncio.sleep(3)
                started = time.monotonic()
                await copy.copy(primary)
                figures["seconds of the base backup"] = f"{time.monotonic() - started:.1f}"
                await output_of("cp", "-a", copy.pgdata, last.pgdata)
                await asyncio.sleep(4)
                until = ledger.now()
                await asyncio.sleep(4)
                heads = await _event_heads(primary)
                await _wait_until_archived(primary)
                started = time.monotonic()
                await copy.restore(archive, until)
                figures["seconds of the restore to a time"] = f"{time.monotonic() - started:.1f}"
                for age in await _ages_of_lost(copy, ledger, None, until):
                    ledger.problem("an acknowledged call is lost", f"{age:.3f} s before the time")
                await _check_nothing_later(copy, ledger, until)
                await asyncio.sleep(4)
                at = ledger.now()
                primary.signal_all(signal.SIGKILL)
            await last.restore(archive, None)
            lost = await _ages_of_lost(last, ledger, until, at)
            figures["acknowledged calls lost, with the archive alone"] = _losses(lost)
            # The servers go on with the copy.
            await _tell_readers(copy)
            copy.serve(system)
            for server in system.servers:
                await server.stop(signal.SIGTERM)
                server.environ |= database_variables(copy.sockets)
                await server.start()
            await system.wait_until_all_answer(60)
            await _check_purged(system, heads)
            command = (sys.executable, "-P", "-m", "jobs_grpc.cli", "doctor")
            found = await output_of(*command, env=os.environ | system.servers[0].environ)
            figures["doctor"] = next(x for x in found.splitlines() if x.startswith("counts "))
            stored = _as_of(ledger, until)
            await check_stored(system, stored, _LATE_AFTER)
            ledger.problems += stored.problems
            ledger.examples |= stored.examples
    return outcome


@asynccontextmanager
async def _traffic(
    system: System, ledger: Ledger, seed: int, *, finishes: bool = True
) -> AsyncIterator[None]:
    """Run traffic during the block. It finishes its work at the end, for which it needs servers."""
    traffic = Traffic(system, ledger, seed=seed, devices=2, pause=0.3)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(traffic.run())
        try:
            yield
        finally:
            if finishes:
                traffic.stop()
            else:
                task.cancel()


@asynccontextmanager
async def _killed_at_end(*nodes: Node) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for node in nodes:
            node.signal_all(signal.SIGKILL)


async def _event_heads(node: Node) -> Mapping[str, int]:
    async with node.owner() as owner:
        rows = await owner.fetch("SELECT tenant_id, position FROM jobs.event_heads")
    return {row["tenant_id"]: row["position"] for row in rows}


async def _tell_readers(node: Node) -> None:
    """Run the statement that the documentation has for lost transactions."""
    statement = _PAGE.read_text().split("```sql\n")[1].split("```")[0]
    async with node.owner() as owner:
        await owner.execute(statement)


async def _check_purged(system: System, heads: Mapping[str, int]) -> None:
    """Check that readers who may have seen events that are lost are told so."""
    for tenant, position in heads.items():
        request = pb.ListEventsRequest(after_position=position)
        try:
            await system.calls[0].call(request, tenant)
        except JobsError as e:
            if e.reason == "EVENTS_PURGED":
                continue
        system.ledger.problem("a reader continues after lost events", f"{tenant} {position}")


async def _ages_of_lost(
    node: Node, ledger: Ledger, since: datetime | None, until: datetime
) -> list[float]:
    """Return how long before `until` the calls that a copy lacks were acknowledged.

    The calls are those that created a job or reported the end of an execution.
    """
    async with node.owner() as owner:
        jobs = {tuple(row) for row in await owner.fetch("SELECT tenant_id, job_id FROM jobs.jobs")}
        attempts = {tuple(row)[:4]: row["status"] for row in await owner.fetch(ATTEMPTS)}
    created, deleted = ledger.acknowledged("CreateJob"), ledger.maybe_deleted()
    lost = [at for job, at in created.items() if job not in jobs and job not in deleted]
    lost += [
        ledger.reported_at[attempt]
        for attempt, status in ledger.reported.items()
        if attempts.get(attempt) != status and attempt[:2] not in deleted
    ]
    return [
        (until - at).total_seconds() for at in lost if at <= until and (since is None or since < at)
    ]


async def _check_nothing_later(node: Node, ledger: Ledger, until: datetime) -> None:
    first: dict[tuple[str, str], datetime] = {}
    for call in ledger.operator_calls.values():
        if call.method == "CreateJob":
            first.setdefault((call.tenant, call.job_id), call.started_at)
    async with node.owner() as owner:
        for row in await owner.fetch("SELECT tenant_id, job_id FROM jobs.jobs"):
            if first.get(tuple(row), until) > until:
                ledger.problem("a job was created after the time of the restore", row)


def _as_of(ledger: Ledger, until: datetime) -> Ledger:
    """Return what had been acknowledged by a time."""
    calls = {
        user: call if call.ended_at and call.ended_at <= until else replace(call, accepted=None)
        for user, call in ledger.operator_calls.items()
    }
    stored = Ledger(operator_calls=calls)
    created = stored.acknowledged("CreateJob")
    stored.sizes = {job: size for job, size in ledger.sizes.items() if job in created}
    stored.reported = {
        attempt: status
        for attempt, status in ledger.reported.items()
        if ledger.reported_at[attempt] <= until
    }
    return stored


async def _wait_until_archived(node: Node) -> None:
    async with node.owner() as owner:
        name = await owner.fetchval("SELECT pg_walfile_name(pg_switch_wal())")

        async def is_archived() -> bool:
            archived = await owner.fetchval("SELECT last_archived_wal FROM pg_stat_archiver")
            return bool(archived and archived >= name)

        await wait_until(is_archived)


async def _first_write(ledger: Ledger, at: datetime) -> float:
    """Return the seconds until an operator got the response to a call that began after `at`."""

    def ends() -> list[datetime]:
        calls = ledger.operator_calls.values()
        return [c.ended_at for c in calls if c.accepted and c.ended_at and c.started_at > at]

    await wait_until_true(lambda: bool(ends()))
    return (min(ends()) - at).total_seconds()


def _spread(seconds: list[float]) -> str:
    each = " ".join(f"{value:.2f}" for value in seconds)
    return f"median {statistics.median(seconds):.2f}, maximum {max(seconds):.2f} ({each})"


def _losses(ages: list[float]) -> str:
    """Describe the calls that are lost, given how old they were."""
    return f"{len(ages):,}, the oldest {1000 * max(ages):.0f} ms before the loss" if ages else "0"
