"""Measure what rollouts cost, each time compared with a job without a rollout.

Run by `make bench-rollouts`, and by `make bench`. Except for one figure of StartNextExecution, the
times are of the SQL functions that the calls run, with the commit: a server adds the same to both
sides. The jobs that are compared take turns.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
import grpc
from fleet.jobs.v1 import device_jobs_pb2 as device_pb
from fleet.jobs.v1 import device_jobs_pb2_grpc

from bench.environment import Environment, environment
from bench.figures import BASELINE, Results
from bench.machine import describe_machine
from bench.page import RESULTS, describe, format_number, replace_figures
from bench.report import format_figure
from bench.requests import TENANT, InvalidRun
from jobs_grpc.db.store import ExecutionUpdate, Store

FIVE_STAGES = "five stages"
HUNDRED_STAGES = "100 stages"
GROUPS = "a stage per group"
STAGES_AND_CRITERION = "stages and criterion"
CRITERIA = "three criteria"
STAGES_AND_CRITERIA = "five stages, three criteria"
CANCELED = "many held executions canceled"
HELD = "behind five held ones"

_BATCH = 100
_SHUFFLED = " in random order"


@dataclass(frozen=True)
class Scale:
    """How large, and how often."""

    creations: dict[int, int]
    """The rounds by number of devices."""
    shuffled: int
    """The number of devices that is also measured with `shuffled`."""
    fleets: tuple[int, ...]
    """Numbers of devices of the jobs that are paused, resumed, advanced and tripped."""
    rounds: int
    starts: int
    batches: int
    read_devices: int
    canceled: int


FULL = Scale(
    creations={1_000: 21, 10_000: 11, 100_000: 9, 1_000_000: 3},
    shuffled=100_000,
    fleets=(100_000, 1_000_000),
    rounds=25,
    starts=500,
    batches=100,
    read_devices=200_000,
    canceled=10_000,
)
QUICK = Scale(
    creations={100: 1, 1_000: 1},
    shuffled=1_000,
    fleets=(200, 400),
    rounds=2,
    starts=5,
    batches=2,
    read_devices=1_000,
    canceled=50,
)


@dataclass(frozen=True)
class Bench:
    """The database, the statements as the service's login, and the figures."""

    env: Environment
    connection: asyncpg.Connection
    scale: Scale
    results: Results

    @property
    def store(self) -> Store:
        """The statements of the service."""
        return Store(cast("Any", self.connection))

    async def clear(self, devices: int, *, shuffled: bool = False) -> None:
        """Delete everything and insert devices d0000001 …, each in one of the groups g0 to g5.

        With `shuffled`, the rows are in random order, as in most tables of devices.
        """
        await self.env.delete_jobs()
        owner = self.env.service
        await owner.execute("TRUNCATE device_state, device_group_members")
        await owner.execute(
            "INSERT INTO device_state (tenant_id, device_id)"
            " SELECT $1, 'd' || lpad(n::text, 7, '0') FROM generate_series(1, $2) n"
            " ORDER BY CASE WHEN $3 THEN md5(n::text) END, n",
            TENANT,
            devices,
            shuffled,
        )
        await owner.execute(
            "INSERT INTO device_group_members (tenant_id, group_id, device_id)"
            " SELECT tenant_id, 'g' || right(device_id, 6)::integer % 6, device_id"
            " FROM device_state"
        )
        await self.env.vacuum()

    async def create(
        self, job_id: str, *, rollout: Any = None, criteria: Any = None, group: str | None = None
    ) -> None:
        """Create a job for all devices, or for those of a group."""
        request: dict[str, Any] = {"document_type": "bench", "expires_in_hours": 24}
        request |= {"target_group_id": group} if group else {"target_all": True}
        if rollout:
            request["rollout"] = rollout
        if criteria:
            request["failure_criteria"] = criteria
        await self.store.create_job(
            TENANT,
            job_id=job_id,
            request=json.dumps(request),
            document_params="{}",
            created_by="operator",
            max_targets=2_000_000,
            max_active_jobs=None,
            default_expires_in_hours=24,
        )

    async def add_time(
        self, part: str, case: str, subject: str, call: Awaitable[object], unit: str = "ms"
    ) -> None:
        """Add the time of a call."""
        started = time.perf_counter()
        await call
        seconds = time.perf_counter() - started
        factor = {"ms": 1e3, "µs": 1e6}[unit]
        self.results.add(part, case, subject, unit, seconds * factor)

    async def report(self, job_id: str, devices: list[str], failures: int = 0) -> None:
        """Report the results of devices in one batch; the first `failures` have failed."""
        updates = [
            ExecutionUpdate(job_id, device, "FAILED", failure_code="FLASH")
            if number < failures
            else ExecutionUpdate(job_id, device, "SUCCEEDED")
            for number, device in enumerate(devices)
        ]
        rows = await self.store.update_executions(TENANT, updates, wait_ms=1000)
        if {cast("Any", row)["outcome"] for row in rows} != {"APPLIED"}:
            raise InvalidRun(f"reports of {job_id} returned {rows[0]}")

    async def first_devices(self, job_id: str, count: int) -> list[str]:
        """Return devices of the first stage of a job, in the order of their release."""
        rows = await self.env.service.fetch(
            "SELECT device_id FROM jobs.job_executions"
            " WHERE tenant_id = $1 AND job_id = $2 AND stage = 0 ORDER BY rank LIMIT $3",
            TENANT,
            job_id,
            count,
        )
        if len(rows) < count:
            raise InvalidRun(f"the first stage of {job_id} has {len(rows)} devices, not {count}")
        return [row["device_id"] for row in rows]


def _stages(count: int, **first: Any) -> dict[str, Any]:
    """A rollout with stages of equal size. The seed gives each job the same devices per stage."""
    stages: list[dict[str, Any]] = [
        {"display_name": "", "percent": 100 // count} for _ in range(count - 1)
    ]
    return {"stages": [stages[0] | first, *stages[1:], {"display_name": ""}], "seed": "bench"}


def _criterion(**fields: Any) -> dict[str, Any]:
    defaults = {
        "statuses": ["FAILED", "REJECTED", "TIMED_OUT"],
        "failure_codes": [],
        "basis": "FINISHED",
        "min_finished": 10,
        "scope": "JOB",
        "action": "PAUSE",
    }
    return defaults | fields


def _criteria(scope: str) -> list[dict[str, Any]]:
    """Three criteria, none of which trips on 5 % of failures."""
    return [
        _criterion(percent=90),
        _criterion(percent=50, failure_codes=["FLASH"], scope=scope, basis="TARGETED"),
        _criterion(count=1_000_000),
    ]


_ROLLOUTS = {
    BASELINE: None,
    FIVE_STAGES: _stages(5),
    HUNDRED_STAGES: _stages(100),
    GROUPS: {
        "stages": [
            *({"display_name": "", "group_id": f"g{number}"} for number in range(5)),
            {"display_name": ""},
        ]
    },
}


async def _create(bench: Bench) -> None:
    for devices, rounds in bench.scale.creations.items():
        await bench.clear(devices)
        await _create_in_turn(bench, f"CreateJob, {devices:,} devices", rounds)
        if devices == bench.scale.shuffled:
            await bench.clear(devices, shuffled=True)
            await _create_in_turn(bench, f"CreateJob, {devices:,} devices{_SHUFFLED}", rounds)


async def _create_in_turn(bench: Bench, case: str, rounds: int) -> None:
    """Each job is created in empty tables."""
    for number in range(rounds):
        # A fixed cycle would always run a variant after the same other one.
        order = list(_ROLLOUTS)
        if number:
            random.Random(number).shuffle(order)  # noqa: S311
        for variant in order:
            await bench.env.delete_jobs()
            await bench.env.service.execute("CHECKPOINT")
            call = bench.create("j", rollout=_ROLLOUTS[variant])
            await bench.add_time("create", case, variant, call)


_ROWS_WRITTEN = """
    SELECT sum(pg_stat_get_xact_tuples_inserted(oid) + pg_stat_get_xact_tuples_updated(oid)
               + pg_stat_get_xact_tuples_deleted(oid))::bigint
    FROM pg_class WHERE relnamespace = 'jobs'::regnamespace AND relkind = 'r'
"""


async def _moves(bench: Bench) -> None:
    for devices in bench.scale.fleets:
        await bench.clear(devices)
        await bench.create("plain")
        await bench.create("staged", rollout=_stages(5), criteria=[_criterion(count=1)])
        await bench.env.vacuum()
        failing = await bench.first_devices("staged", bench.scale.rounds)

        async def write(
            name: str, subject: str, call: Awaitable[object], size: str = f"{devices:,} devices"
        ) -> None:
            """Add the time and the rows written of a call and its commit."""
            transaction = bench.connection.transaction()
            await transaction.start()
            before = await bench.connection.fetchval(_ROWS_WRITTEN)
            started = time.perf_counter()
            await call
            seconds = time.perf_counter() - started
            rows = await bench.connection.fetchval(_ROWS_WRITTEN) - before
            started = time.perf_counter()
            await transaction.commit()
            seconds += time.perf_counter() - started
            bench.results.add("moves", f"{name}, {size}", subject, "ms", seconds * 1000)
            bench.results.add("moves", f"rows written by {name}, {size}", subject, "rows", rows)

        for number in range(bench.scale.rounds):
            for job, subject in (("plain", BASELINE), ("staged", STAGES_AND_CRITERION)):
                trip = bench.report(job, [failing[number]], failures=1)
                await write("a report that pauses the job", subject, trip)
                if job == "staged":
                    await _check_tripped(bench)
                    await bench.store.resume_job(TENANT, job_id=job, etag="")
                pause = bench.store.pause_job(
                    TENANT, job_id=job, reason="", paused_by="operator", etag=""
                )
                await write("PauseJob", subject, pause)
                resume = bench.store.resume_job(TENANT, job_id=job, etag="")
                await write("ResumeJob", subject, resume)
            if number < len(_stages(5)["stages"]) - 1:
                advance = bench.store.advance_job(TENANT, job_id="staged", stage=None, etag="")
                await write("AdvanceJob", STAGES_AND_CRITERION, advance)
    _check_rows_written(bench.results)


def _check_rows_written(results: Results) -> None:
    """Raise InvalidRun if jobs of different sizes differ in the rows that a call writes."""
    rows: dict[tuple[str, str], set[float]] = {}
    for figure in results:
        if figure.unit == "rows":
            call = figure.case.rpartition(", ")[0]
            rows.setdefault((call, figure.subject), set()).add(figure.median)
    for (call, subject), counts in rows.items():
        if len(counts) > 1:
            raise InvalidRun(f"{call}, {subject}: {counts} depends on the number of devices")


async def _check_tripped(bench: Bench) -> None:
    cause = await bench.env.service.fetchval(
        "SELECT pause_cause FROM jobs.jobs WHERE job_id = 'staged' AND paused_at IS NOT NULL"
    )
    if cause != "FAILURE_CRITERION":
        raise InvalidRun(f"the failure criterion did not trip; the cause of the pause is {cause}")


async def _starts(bench: Bench) -> None:
    """Devices of g1 have five held executions before the one that they start; those of g0 none."""
    count = bench.scale.starts
    await bench.clear(12 * count + 12)
    # The first stage is one device, which does not report.
    owner = bench.env.service
    await owner.execute("INSERT INTO device_state VALUES ($1, 'first')", TENANT)
    for group in ("g1", "first"):
        await owner.execute(
            "INSERT INTO device_group_members VALUES ($1, $2, 'first')", TENANT, group
        )
    rollout = {"stages": [{"display_name": "", "group_id": "first"}, {"display_name": ""}]}
    for number in range(5):
        await bench.create(f"held-{number}", rollout=rollout, group="g1")
    await bench.create("next")
    await bench.env.vacuum()
    devices = {
        subject: [
            row["device_id"]
            for row in await owner.fetch(
                "SELECT device_id FROM device_group_members"
                " WHERE group_id = $1 AND device_id <> 'first' ORDER BY device_id",
                group,
            )
        ]
        for subject, group in ((BASELINE, "g0"), (HELD, "g1"))
    }
    await bench.connection.execute("SELECT set_config('app.tenant_id', $1, false)", TENANT)
    # The time within the database, without the round trip.
    loops = 2000
    for _ in range(bench.scale.rounds):
        for subject, names in devices.items():
            started = time.perf_counter()
            await bench.connection.execute(
                f"DO $$ BEGIN PERFORM jobs.next_execution('{TENANT}', '{names[0]}')"
                f" FROM generate_series(1, {loops}); END $$"
            )
            microseconds = (time.perf_counter() - started) / loops * 1e6
            case = "search for the next one, in the database"
            bench.results.add("starts", case, subject, "µs", microseconds)
    for number in range(count):
        for subject, names in devices.items():
            start = _start_in_sql(bench, names[number])
            await bench.add_time("starts", "StartNextExecution, SQL function", subject, start)
    async with (
        bench.env.service_server() as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub: Any = device_jobs_pb2_grpc.DeviceJobServiceStub(channel)
        for number in range(count, 2 * count):
            for subject, names in devices.items():
                start = _start(stub, names[number])
                await bench.add_time("starts", "StartNextExecution, end to end", subject, start)


async def _start_in_sql(bench: Bench, device: str) -> None:
    update = ExecutionUpdate(None, device, None, must_be_next=True)
    [row] = await bench.store.update_executions(TENANT, [update], wait_ms=1000)
    if cast("Any", row)["job_id"] != "next":
        raise InvalidRun(f"{device} started {row}")


async def _start(stub: Any, device: str) -> None:
    response = await stub.StartNextExecution(
        device_pb.StartNextExecutionRequest(),
        metadata=(("x-tenant-id", TENANT), ("x-device-id", device)),
    )
    if response.execution.job_id != "next":
        raise InvalidRun(f"{device} started {response}")


async def _reports(bench: Bench) -> None:
    """Each batch is of released devices; no stage is finished and no criterion trips."""
    reports = _BATCH * bench.scale.batches
    # A stage is a fifth of the devices; a sixth of it does not report.
    await bench.clear(6 * reports)
    cases = {0: f"{_BATCH} reports", 5: f"{_BATCH} reports, 5 of them failures"}
    settings: dict[str, dict[str, Any]] = {
        BASELINE: {},
        CRITERIA: {"criteria": _criteria("JOB")},
        FIVE_STAGES: {"rollout": _stages(5)},
        STAGES_AND_CRITERIA: {"rollout": _stages(5), "criteria": _criteria("STAGE")},
    }
    for failures in cases:
        for subject, fields in settings.items():
            await bench.create(f"{failures}-{subject}", **fields)
    await bench.env.vacuum()
    devices = await bench.first_devices(f"0-{FIVE_STAGES}", reports)
    for first in range(0, reports, _BATCH):
        for failures, case in cases.items():
            for subject in settings:
                call = bench.report(
                    f"{failures}-{subject}", devices[first : first + _BATCH], failures
                )
                await bench.add_time("reports", case, subject, call)


async def _reads(bench: Bench) -> None:
    await bench.clear(bench.scale.read_devices)
    rollouts = {
        BASELINE: None,
        FIVE_STAGES: _stages(5),
        HUNDRED_STAGES: _stages(100),
        CANCELED: _stages(5, releases_per_minute=1000),
    }
    for subject, rollout in rollouts.items():
        await bench.create(subject, rollout=rollout)
    # In a stage that is released in part, readers count canceled held executions one by one. These
    # are the last to be released.
    stage = bench.scale.read_devices // 5
    for device in (await bench.first_devices(CANCELED, stage))[-bench.scale.canceled :]:
        await bench.store.cancel_execution(
            TENANT, job_id=CANCELED, device_id=device, reason="", force=False
        )
    await bench.env.vacuum()
    await bench.connection.execute("SELECT set_config('app.tenant_id', $1, false)", TENANT)
    size = f"{bench.scale.read_devices:,} devices"
    for _ in range(4 * bench.scale.rounds):
        for subject in rollouts:
            counts = bench.connection.fetch(
                "SELECT s.* FROM jobs.job_states s WHERE tenant_id = $1 AND job_id = $2",
                TENANT,
                subject,
            )
            await bench.add_time("reads", f"counts of a job, {size}", subject, counts)
            get = bench.store.get_job(TENANT, job_id=subject, executions_limit=11)
            await bench.add_time("reads", f"GetJob with 10 executions, {size}", subject, get)


PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "create": _create,
    "moves": _moves,
    "starts": _starts,
    "reports": _reports,
    "reads": _reads,
}

# The most times the cost without a rollout.
GOALS = {
    ("CreateJob, 100,000 devices", FIVE_STAGES): 1.35,
    ("CreateJob, 100,000 devices", GROUPS): 1.6,
    (f"CreateJob, 100,000 devices{_SHUFFLED}", FIVE_STAGES): 1.35,
    (f"CreateJob, 100,000 devices{_SHUFFLED}", GROUPS): 1.6,
    ("search for the next one, in the database", HELD): 2,
    ("StartNextExecution, SQL function", HELD): 2,
    ("StartNextExecution, end to end", HELD): 7 / 6,
    (f"{_BATCH} reports", CRITERIA): 1.05,
    (f"{_BATCH} reports", STAGES_AND_CRITERIA): 1.25,
}


def render(results: Results, machine: dict[str, str]) -> str:
    """Return the machine and the table of all figures as Markdown."""
    lines = [
        describe(machine),
        "",
        "| work | job | cost | cost without it | times | goal |",
        "|---|---|---|---|---|---|",
    ]
    for figure in results:
        if figure.subject == BASELINE:
            continue
        baseline = results.find(figure.workload, figure.case, BASELINE)
        times = figure.median / baseline.median if baseline else None
        goal = GOALS.get((figure.case, figure.subject))
        cells = [
            figure.case,
            figure.subject,
            format_figure(figure),
            f"{format_number(baseline.median)} {baseline.unit}" if baseline else "–",
            f"{times:.2f}×" if times else "–",
            f"≤ {goal:.3g}×" if goal else "",
        ]
        if goal and times and times > goal:
            cells[-1] += " missed"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table; with --page, keep it."""
    parser = argparse.ArgumentParser(prog="bench.rollouts", description=__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", help="measure some parts")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the table to bench/results/rollouts.md"
    )
    args = parser.parse_args()
    if args.only and args.page:
        parser.error("the page has the figures of all parts")
    parts = [part for part in PARTS if part in (args.only or PARTS)]
    try:
        results, machine = asyncio.run(_measure(parts, QUICK if args.quick else FULL))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    text = render(results, machine)
    print(text)
    if args.page:
        replace_figures(RESULTS / "rollouts.md", text)


async def _measure(parts: list[str], scale: Scale) -> tuple[Results, dict[str, str]]:
    results = Results()
    async with environment() as env:
        connection = await asyncpg.connect(env.service_dsn)
        for part in parts:
            await PARTS[part](Bench(env, connection, scale, results))
        await connection.close()
        return results, await describe_machine(env.service)


if __name__ == "__main__":
    main()
