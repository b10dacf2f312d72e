"""Random targets and stages, compared with a model: devices, stages, digests, and new jobs."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from fleet.jobs.v1 import jobs_pb2 as pb

from tests.model.targets import Device, matching
from tests.support import random_selectors
from tests.support.callers import Operator
from tests.support.database import Database, edited_function
from tests.support.scale import SCALE
from tests.support.server import Server

pytestmark = pytest.mark.slow

_STATUSES = ("FAILED", "TIMED_OUT", "REJECTED")
_OTHER_STATUSES = ("QUEUED", "IN_PROGRESS", "SUCCEEDED")
_CODES = ("", "disk", "network")


@dataclass(frozen=True)
class State:
    """The devices, and the status and failure code of each in the job `first`."""

    devices: Sequence[Device]
    ends: Mapping[str, tuple[str, str | None]]


MISTAKES = {
    "label must exist for notin": (
        "selector_condition",
        "NOT IN (%s), true)",
        "NOT IN (%s), false)",
    ),
    "device without a group has all": (
        "selector_condition",
        "ARRAY[%s], true)",
        "ARRAY[%s], false)",
    ),
    "last selector claims": ("target_query", "' ' ORDER BY s.position", "' ' ORDER BY -s.position"),
    "digest ignores the stages": ("target_hashes", "COALESCE(claim, 0)", "0"),
}


@pytest.mark.single_node("a replaced function is not delegated on Citus")
@pytest.mark.parametrize("seed", range(SCALE))
@pytest.mark.wrong_counts("failures are stored, but not counted")
async def test_many_targets_are_those_of_the_model(
    database: Database, server: Server, tenant: str, seed: int
) -> None:
    """Candidates are merged even if there are only two; see target_candidates.sql."""
    part = "c_small CONSTANT integer := 10000"
    async with edited_function(database, "target_candidates", part, part.replace("10000", "1")):
        await _compare(database, server, tenant, [1000 + seed])


@pytest.mark.single_node("a replaced function is not delegated on Citus")
@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.wrong_counts("failures are stored, but not counted")
async def test_mistake_is_noticed(
    database: Database, server: Server, tenant: str, name: str
) -> None:
    async with edited_function(database, *MISTAKES[name]):
        with pytest.raises(AssertionError):
            await _compare(database, server, tenant, range(10))


@pytest.mark.parametrize("seed", range(2 * SCALE))
@pytest.mark.wrong_counts("failures are stored, but not counted")
async def test_targets_are_those_of_the_model(
    database: Database, server: Server, tenant: str, seed: int
) -> None:
    await _compare(database, server, tenant, [seed])


async def _compare(database: Database, server: Server, tenant: str, seeds: Iterable[int]) -> None:
    for seed in seeds:
        await _compare_with_seed(database, server, f"{tenant}-{seed}", seed)


async def _compare_with_seed(database: Database, server: Server, tenant: str, seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - repeatable
    operator, fleet = server.operator(tenant, user="olivia"), server.fleet(tenant)
    state = await _set_up(database, operator, rng)
    digests: dict[str, object] = {}

    for number in range(40):
        target, expected = _target(rng, state)
        rollout, claims = _rollout(rng, state, expected)
        context = f"seed {seed}, number {number}: {target} {rollout}"
        request: dict[str, Any] = {**target} if rollout is None else {**target, "rollout": rollout}

        preview = await fleet.preview(**request)

        assert preview.device_count == len(expected), context
        assert preview.device_ids == sorted(expected, key=str.encode)[:20], context
        # Equal if and only if the devices and their stages are.
        content = frozenset((device, claims.get(device)) for device in expected)
        assert digests.setdefault(preview.target_digest, content) == content, context
        if expected:
            await _check_job(operator, request, preview, expected, claims, f"j{number}", context)
    assert len({*digests.values()}) == len(digests)


async def _set_up(database: Database, operator: Operator, rng: random.Random) -> State:
    devices = random_selectors.devices(rng, rng.choice((5, 60)))
    await database.add_devices(operator.tenant, [device.device_id for device in devices])
    for group in {group for device in devices for group in device.groups}:
        members = [device.device_id for device in devices if group in device.groups]
        await database.add_devices(operator.tenant, members, group=group)
    # A device without labels may have no row.
    await database.add_labels(
        operator.tenant,
        {d.device_id: dict(d.labels) for d in devices if d.labels or rng.random() < 0.5},
    )
    await operator.create(job_id="first", target_all=True)
    ends: dict[str, tuple[str, str | None]] = {}
    is_canceled = rng.random() < 0.5
    for device in devices:
        status = rng.choice((*_STATUSES, *_OTHER_STATUSES))
        code = rng.choice(_CODES) if status in _STATUSES else None
        if status != "QUEUED":
            await database.set_status(operator.tenant, "first", device.device_id, status)
        await database.owner.execute(
            "UPDATE jobs.job_executions SET failure_code = $3"
            " WHERE tenant_id = $1 AND job_id = 'first' AND device_id = $2",
            operator.tenant,
            device.device_id,
            code,
        )
        if is_canceled and status == "QUEUED":
            status = "REJECTED"
        ends[device.device_id] = (status, code)
    if is_canceled:
        await operator.cancel("first")
    return State(devices, ends)


def _target(rng: random.Random, state: State) -> tuple[dict[str, Any], set[str]]:
    """A target, and its devices."""
    everything = {device.device_id for device in state.devices}
    match rng.choice(("all", "selector", "selector", "selector", "group", "ids", "failed", "one")):
        case "all":
            return {"target_all": True}, everything
        case "one":
            device = rng.choice(sorted(everything))
            return {"target_device_id": device}, {device}
        case "ids":
            device_ids = rng.choices(sorted(everything), k=rng.randint(1, 10))
            return {"target_device_ids": pb.DeviceIds(device_ids=device_ids)}, {*device_ids}
        case "group":
            group = rng.choice([group for group in random_selectors.HOSTILE if group])
            members = {d.device_id for d in state.devices if group in d.groups}
            return {"target_group_id": group}, members
        case "selector":
            terms = random_selectors.terms(rng, list(state.devices)) or [("k", "missing", ())]
            found = {*matching(terms, state.devices)}
            return {"target_selector": random_selectors.spell(rng, terms)}, found
    statuses = rng.sample(_STATUSES, rng.randint(0, 3))
    codes = rng.sample(_CODES, rng.randint(0, 2))
    terms = random_selectors.terms(rng, list(state.devices)) if rng.random() < 0.5 else []
    failed = {
        device
        for device, (status, code) in state.ends.items()
        if status in (statuses or _STATUSES) and (not codes or code in codes)
    }
    failed_in = pb.FailedIn(
        job_id="first",
        statuses=[pb.JobExecution.Status.Value(status) for status in statuses],
        failure_codes=codes,
        selector=random_selectors.spell(rng, terms),
    )
    return {"target_failed_in": failed_in}, failed & {*matching(terms, state.devices)}


def _rollout(
    rng: random.Random, state: State, expected: set[str]
) -> tuple[pb.Rollout | None, dict[str, int]]:
    """A rollout, and the first stage that claims each device, if any does."""
    if rng.random() < 0.3:
        return None, {}
    stages: list[pb.Stage] = []
    claims: dict[str, int] = {}
    for number in range(rng.randint(0, 4)):
        kind = rng.choice(("count", "group", "selector", "selector"))
        if kind == "count":
            stages.append(pb.Stage(device_count=1))
            continue
        if kind == "group":
            group = rng.choice([group for group in random_selectors.HOSTILE if group])
            stages.append(pb.Stage(group_id=group, allow_empty=True))
            claimed = {d.device_id for d in state.devices if group in d.groups}
        else:
            terms = random_selectors.terms(rng, list(state.devices)) or [("k", "exists", ())]
            text = random_selectors.spell(rng, terms)
            if len(text) > 400:
                terms, text = [("k", "exists", ())], "k"
            stages.append(pb.Stage(selector=text, allow_empty=True))
            claimed = {*matching(terms, state.devices)}
        for device in claimed & expected:
            claims.setdefault(device, number)
    return pb.Rollout(stages=[*stages, pb.Stage(remainder=True)]), claims


async def _check_job(
    operator: Operator,
    request: dict[str, Any],
    preview: pb.TargetPreview,
    expected: set[str],
    claims: dict[str, int],
    job_id: str,
    context: str,
) -> None:
    """Create the job, which is as in the preview."""
    await operator.create(job_id=job_id, **request, expected_target_digest=preview.target_digest)

    job = await operator.get(job_id)
    assert {e.device_id for e in job.executions} == expected, context
    assert preview.stage_sizes == [stage.total_executions for stage in job.stages], context
    claiming = {
        number
        for number, stage in enumerate(job.rollout.stages)
        if stage.WhichOneof("size") in ("group_id", "selector")
    }
    placed = {e.device_id: e.stage for e in job.executions if e.stage in claiming and claiming}
    assert placed == claims, context
