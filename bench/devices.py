"""Measure the directory of devices: previews, pages, groups, changes, and targets of jobs.

Run by `make bench-devices`. The times are of the SQL functions that the calls run, as the request
role, with the commit. Each device has 8 labels and is in two groups.
"""

import argparse
import json
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, cast

import asyncpg
from fleet.jobs.v1 import fleet_pb2
from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.environment import Environment, environment
from bench.figures import Case, Results, tables_by_case
from bench.requests import TENANT
from bench.run import InvalidRun, Option, run
from jobs_grpc.db.store import Store
from jobs_grpc.services.job_request import target_request
from jobs_grpc.services.selectors import parse
from jobs_grpc.services.targets import selector_terms
from tests.support.database import store_on

# What a change should not make worse, in ms, with a million devices.
_GOALS = {"PreviewTarget, 1 % match": 800.0, "PreviewTarget, 32 terms": 5000.0}
_GOALS_DEVICES = 1_000_000

_PAGE = 50
_MAX_COUNTED = 100_000
_CHANGED = 1000


# CreateJob is measured in a tenant of its own, because a stock PostgreSQL takes minutes to create
# several jobs for a million devices.
_CREATING_TENANT = "creating"
_MAX_CREATED = 100_000
_CREATED = {"target_all": {"target_all": True}, "a selector": {"target_selector": "model"}}

# The selector of each case.
_PREVIEWED = {
    "1 % match": "site=s07",
    "90 % match": "model!=x3",
    # Each is true, so all are evaluated.
    "32 terms": ",".join(
        [
            *("model", "site", "batch", "firmware"),
            *(f"label-{n} in (a,b,c)" for n in range(4)),
            *(f"!absent-{n}" for n in range(12)),
            *(f"missing-{n}!=a" for n in range(12)),
        ]
    ),
}
_LISTED = {
    "no selector": "",
    "10 % match": "model=x3",
    "1 % match": "site=s07",
    "0.01 % match": "batch=b0007",
    "none matches": "site=nowhere",
    "members of a group": "group=site-003",
    "members of a group with a label": "group=site-003,model=x3",
    "all devices except a group": "group!=region-3",
}


@dataclass(frozen=True)
class Bench:
    """The database, a connection as the request role, and the figures."""

    env: Environment
    connection: asyncpg.Connection
    devices: int
    rounds: int
    """The number of calls of a kind."""
    case: Case

    @property
    def store(self) -> Store:
        """The statements of the service."""
        return store_on(self.connection)

    async def add_time(self, work: str, case: str, call: Awaitable[Any]) -> Any:
        """Add the time of a call and return its result."""
        started = time.perf_counter()
        result = await call
        self.case.add(f"{work}, {case}", "ms", 1000 * (time.perf_counter() - started))
        return result


async def _fill(bench: Bench) -> None:
    """Insert the devices d0000000 … with labels and groups."""
    owner = bench.env.owner
    await owner.execute("TRUNCATE device_state, device_group_members, jobs.devices")
    await seed.add_devices(owner, TENANT, bench.devices)
    await owner.execute(
        "INSERT INTO jobs.devices (tenant_id, device_id, labels)"
        " SELECT tenant_id, device_id, jsonb_build_object("
        " 'model', 'x' || n % 10, 'site', 's' || lpad((n / 10 % 100)::text, 2, '0'),"
        " 'batch', 'b' || lpad((n * 7919 % 10000)::text, 4, '0'), 'firmware', '2.' || n % 5,"
        " 'label-0', 'a', 'label-1', 'b', 'label-2', 'c', 'label-3', 'a')"
        " FROM device_state CROSS JOIN LATERAL (SELECT substr(device_id, 2)::bigint AS n) d",
    )
    await owner.execute(
        "INSERT INTO device_group_members (tenant_id, group_id, device_id)"
        " SELECT tenant_id, g, device_id"
        " FROM device_state CROSS JOIN LATERAL (SELECT substr(device_id, 2)::bigint AS n) d,"
        " unnest(ARRAY['region-' || n % 10, 'site-' || lpad((n % 1000)::text, 3, '0')]) AS g",
    )
    await bench.env.vacuum()


async def _preview(bench: Bench) -> None:
    for case, selector in _PREVIEWED.items():
        request = fleet_pb2.PreviewTargetRequest(target_selector=selector)
        for _ in range(bench.rounds):
            preview = bench.store.preview_target(
                TENANT,
                request=target_request(request),
                selector_terms=selector_terms(request),
                target_device_ids=None,
                max_targets=bench.devices,
            )
            if not (await bench.add_time("PreviewTarget", case, preview))["execution_count"]:
                raise InvalidRun(f"no device matches {selector}")


async def _create(bench: Bench) -> None:
    """Create jobs for all devices by target_all and by a selector, in turns."""
    devices = min(bench.devices, _MAX_CREATED)
    for table in ("device_state", "jobs.devices"):
        columns = "device_id" + (", labels" if table == "jobs.devices" else "")
        await bench.env.owner.execute(
            f"INSERT INTO {table} (tenant_id, {columns})"
            f" SELECT $1, {columns} FROM {table} WHERE tenant_id = $2 ORDER BY device_id LIMIT $3",
            _CREATING_TENANT,
            TENANT,
            devices,
        )
    await bench.env.vacuum()
    for _ in range(bench.rounds):
        for case, target in _CREATED.items():
            # Each job finds the same tables. In tables with other jobs, its place in the indexes
            # decides more of the time than its target.
            await bench.env.delete_jobs()
            request = pb.CreateJobRequest(
                job_id="job", document_type="reboot", **cast("Any", target)
            )
            created = seed.create_job(bench.store, _CREATING_TENANT, request)
            row = await bench.add_time(f"CreateJob, {devices:,} devices", case, created)
            if row["execution_count"] != devices:
                raise InvalidRun(f"{case} matches {row['execution_count']} devices")


async def _list(bench: Bench) -> None:
    for case, selector in _LISTED.items():
        for number in range(bench.rounds):
            # Each round reads another part of the tenant.
            start = bench.devices * number // (2 * bench.rounds)
            page = bench.store.list_devices(
                TENANT,
                terms=parse(selector).terms_json,
                prefix="",
                after=f"d{start:07}" if number else "",
                limit=_PAGE,
            )
            await bench.add_time("ListDevices, a page of 50", case, page)
    for _ in range(bench.rounds):
        groups = bench.store.list_groups(
            TENANT, prefix="", after="", limit=_PAGE, max_counted=_MAX_COUNTED
        )
        await bench.add_time("ListGroups", "a page of 50", groups)


async def _change(bench: Bench) -> None:
    """Change 1,000 devices, and register 1,000 with 8 labels and a group."""
    labels = json.dumps({f"label-{number}": "new" for number in range(8)})
    for number in range(bench.rounds):
        first = number * _CHANGED % bench.devices
        changed = [f"d{first + n:07}" for n in range(_CHANGED)]
        row = await bench.add_time(
            "UpdateDevices, 1,000 devices",
            "one label",
            _update(bench, changed, json.dumps({"ring": f"r{number}"})),
        )
        if row["updated_count"] != _CHANGED:
            raise InvalidRun(f"updated {row['updated_count']} devices")
        new = [f"new-{number}-{n:04}" for n in range(_CHANGED)]
        row = await bench.add_time(
            "UpdateDevices, 1,000 devices",
            "registration with 8 labels and a group",
            _update(bench, new, labels, json.dumps(["new"])),
        )
        if row["registered_count"] != _CHANGED:
            raise InvalidRun(f"registered {row['registered_count']} devices")


def _update(
    bench: Bench, device_ids: list[str], labels: str, group_ids: str | None = None
) -> Awaitable[Any]:
    return bench.store.update_devices(
        TENANT,
        device_ids=device_ids,
        labels=[labels] * len(device_ids),
        time_zones=None,
        group_ids=[group_ids] * len(device_ids) if group_ids else None,
        remove_labels=[],
        allow_missing=group_ids is not None,
    )


async def _measure(args: argparse.Namespace) -> str:
    results = Results()
    async with environment() as env:
        connection = await asyncpg.connect(env.dsn)
        case = Case(results, f"{args.devices:,} devices")
        bench = Bench(env, connection, args.devices, args.rounds, case)
        await _fill(bench)
        for part in (_preview, _list, _change, _create):
            await part(bench)
        await connection.close()
        goals = _GOALS if args.devices == _GOALS_DEVICES else {}
        return await env.report(tables_by_case(results, goals))


if __name__ == "__main__":
    run(
        "devices",
        __doc__,
        _measure,
        Option("devices", _GOALS_DEVICES, "number of devices", quick=2_000),
        Option("rounds", 11, "calls of a kind", quick=1),
    )
