"""Says why a target or a stage has no devices: which label or group may be misspelled."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from typing import TypeAlias

from fleet.jobs.v1 import jobs_pb2 as pb

from jobs_grpc.db.store import Row, Store
from jobs_grpc.errors import JobsError, StageEmpty
from jobs_grpc.limits.fair_slots import YieldNow
from jobs_grpc.services import selectors
from jobs_grpc.services.selectors import Term
from jobs_grpc.services.targets import TargetRequest, target_selector

_MAX_HINTS = 3
_MAX_NAMES = 3  # that a hint compares
# difflib takes a time that grows with the square of the length: for a name and its neighbors in two
# orders, at worst 10 ms.
_MAX_LENGTH = 64
_MAX_NEIGHBORS = 3  # on each side

# What has no devices: "" for the target or "stage 1: ", and the terms of its selector.
_Part: TypeAlias = tuple[str, tuple[Term, ...]]


async def add_hint(
    error: JobsError, store: Store, tenant_id: str, request: TargetRequest, yield_now: YieldNow
) -> None:
    """Add a hint to the error with which CreateJob rejects an empty target or stage, if any."""
    part = _target(request)
    if isinstance(error, StageEmpty):
        part = _stage(request.rollout.stages[int(error.metadata["stage"])])
    for hint in await _hints(store, tenant_id, [("", part)], yield_now):
        error.add_hint(hint)


async def preview_hints(
    store: Store, tenant_id: str, request: TargetRequest, row: Row, yield_now: YieldNow
) -> list[str]:
    """Return hints for the target or the stages that make CreateJob fail, at most 3.

    `row` is that of preview_target.sql.
    """
    if not row["execution_count"]:
        return await _hints(store, tenant_id, [("", _target(request))], yield_now)
    stages = zip(request.rollout.stages, row["stage_sizes"] or (), strict=True)
    parts = [
        (f"stage {index}: ", _stage(stage))
        for index, (stage, size) in enumerate(stages)
        if not size and not stage.allow_empty and (stage.selector or stage.group_id)
    ]
    return await _hints(store, tenant_id, parts[:_MAX_HINTS], yield_now)


def _target(request: TargetRequest) -> tuple[Term, ...]:
    return _terms(target_selector(request)[1], request.target_group_id)


def _stage(stage: pb.Stage) -> tuple[Term, ...]:
    return _terms(stage.selector, stage.group_id)


def _terms(selector: str, group_id: str) -> tuple[Term, ...]:
    return (Term("group", "in", (group_id,)),) if group_id else selectors.parse(selector).terms


async def continuous_hints(
    store: Store, tenant_id: str, request: pb.CreateJobRequest, row: Row, yield_now: YieldNow
) -> list[str]:
    """Return hints for a continuous job, whose target and stages may be empty.

    `row` is that of create_job.sql. A device that was made with the version joins
    `fact.version!=2.1` when it is registered, before it has reported the fact.
    """
    if not request.continuous:
        return []
    hints = await preview_hints(store, tenant_id, request, row, yield_now)
    if not all((row["stage_sizes"] or ())[:-1]):
        hints.append("empty stages pass at once: devices that join later have no canary")
    terms = selectors.parse(request.target_selector).terms
    required = {term.key for term in terms if term.operator in ("in", "exists")}
    keys = {term.key for term in terms if term.operator == "not_in"} - required
    facts = [key for key in sorted(keys) if key.startswith(selectors.FACT_PREFIX)]
    return hints + [
        f"devices join before they have reported {key}: to wait for it, add the term {key}"
        for key in facts[:_MAX_HINTS]
    ]


async def _hints(
    store: Store, tenant_id: str, parts: list[_Part], yield_now: YieldNow
) -> list[str]:
    """Return the hint of each part that has one."""
    terms = [term for _, part in parts for term in part if _can_be_unmatched(term)]
    group_ids = {value for term in terms if term.key == "group" for value in term.values}
    labels = [term for term in terms if term.key != "group"]
    if not terms:
        return []
    names = await store.target_names(
        tenant_id,
        label_keys=sorted({term.key for term in labels}),
        labels=[f"{term.key}={value}" for term in labels for value in term.values],
        group_ids=sorted(group_ids),
    )
    hints = []
    for subject, part in parts:
        other = ""
        for problem, name, candidates in islice(_problems(part, names), _MAX_NAMES):
            await yield_now()
            if closest := _closest(name, candidates):
                hints.append(f"{subject}{problem}; did you mean {closest}?")
                break
            other = other or problem
        else:
            # With one term, the error or the empty preview says the same.
            if other and len(part) > 1:
                hints.append(f"{subject}{other}")
    return hints


def _can_be_unmatched(term: Term) -> bool:
    is_label_or_group = term.key != "device_id" and not term.key.startswith(selectors.FACT_PREFIX)
    return is_label_or_group and term.operator in ("in", "exists")


def _problems(terms: tuple[Term, ...], names: Row) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what no device has, as a text and a name, and the names that exist instead.

    `names` is a row of target_names.sql.
    """
    devices = "no device" if names["has_all_labels"] else "none of the first 1,000 devices"
    for term in filter(_can_be_unmatched, terms):
        if term.key == "group":
            problem, values, candidates = "no device is in group ", term.values, names["group_ids"]
            is_matched = not {*values} <= {*names["empty_group_ids"]}
        elif term.key not in names["label_keys"]:
            problem, values = f"{devices} has the label ", (term.key,)
            candidates, is_matched = names["label_keys"], False
        else:
            prefix = f"{term.key}="
            problem, values = f"{devices} has the label {prefix}", term.values
            labels = [label for label in names["labels"] if label.startswith(prefix)]
            candidates = [label.removeprefix(prefix) for label in labels]
            is_matched = not {*values}.isdisjoint(candidates)
        if not is_matched:
            for value in values:
                if len(value) <= _MAX_LENGTH:
                    yield f"{problem}{value}", value, candidates


def _closest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that is similar enough to be meant by a misspelled name."""
    known = {other.casefold(): other for other in candidates if len(other) <= _MAX_LENGTH}
    name = name.casefold()
    # A mistake leaves the start or the end of a name: what is meant is near in one of two orders.
    near = _neighbors(name, known)
    near += [other[::-1] for other in _neighbors(name[::-1], [other[::-1] for other in known])]
    matches = get_close_matches(name, near, n=1)
    return known[matches[0]] if matches else None


def _neighbors(name: str, others: Iterable[str]) -> list[str]:
    ordered = sorted(others)
    index = bisect_left(ordered, name)
    return ordered[max(index - _MAX_NEIGHBORS, 0) : index + _MAX_NEIGHBORS]
