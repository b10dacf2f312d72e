"""All states of the model, for a few devices, keep the rules; the service follows its paths."""

import os
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from random import Random

import pytest

from tests.machine.clock import Clock
from tests.machine.servers import server_without_sweeper, service
from tests.model.tenant import State
from tests.search import transitions
from tests.search.invariants import can_end, check
from tests.search.mistakes import MISTAKES, planted
from tests.search.moves import JOB, Move
from tests.search.replay import Replay
from tests.search.scenarios import SCENARIOS
from tests.search.search import DEVICES, Found, search, successors
from tests.support.database import Database
from tests.support.postgres import Postgres
from tests.support.scale import scaled
from tests.support.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

_CANCELS = ("cancel", "force cancel", "reject start")


_changes: dict[str, set[str]] = {}
"""The transitions of executions, by scenario."""


@cache
def found(name: str) -> Found:
    lines = _changes[name] = set[str]()

    def check_and_collect(before: State, move: Move, after: State, reason: str | None) -> None:
        check(before, move, after, reason)
        lines.update(transitions.of(before, move, after, reason, DEVICES))

    result = search(SCENARIOS[name], check_and_collect)
    print(f"{name}: {len(result.states)} states, {len(result.edges)} moves")
    return result


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_states_keep_the_rules(name: str) -> None:
    assert len(found(name).states) > 500


@pytest.mark.parametrize("name", SCENARIOS)
def test_states_that_are_one_continue_in_the_same_way(name: str) -> None:
    """The search may leave out what its keys do: else, it would miss states."""
    for number, state in found(name).merged:
        assert successors(SCENARIOS[name], found(name).states[number]) == successors(
            SCENARIOS[name], state
        )


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_job_can_end_without_a_cancel(name: str) -> None:
    states = found(name).states
    edges = [edge for edge in found(name).edges if edge[1][0] not in _CANCELS]
    ending = can_end(len(states), edges, lambda number: not states[number].job(JOB).is_active)
    stuck = set(range(len(states))) - ending
    assert not stuck, found(name).path(min(stuck))


@pytest.mark.parametrize("name", SCENARIOS)
def test_checker_of_histories_has_the_transitions(name: str) -> None:
    """UPDATE_TRANSITIONS=1 writes the file."""
    found(name)
    if os.environ.get("UPDATE_TRANSITIONS"):
        transitions.write(name, _changes[name])
    assert transitions.read(name) == _changes[name]


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_found(name: str) -> None:
    mistake = MISTAKES[name]
    with planted(mistake), pytest.raises(AssertionError) as failure:
        search(SCENARIOS[mistake.scenario], check)
    assert failure.value.__notes__[0].startswith(mistake.scenario)


@pytest.fixture(scope="module")
async def server(
    database: Database, cluster: tuple[Postgres, str], webhook_keys: Path
) -> AsyncIterator[Server]:
    async with server_without_sweeper(database, cluster, webhook_keys) as server:
        yield server


@pytest.fixture(scope="module")
async def clock(database: Database) -> Clock:
    clock = Clock(database)
    await clock.stop()
    return clock


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.single_node("the time comes from a table of one node")
async def test_service_follows_the_paths(
    database: Database, server: Server, clock: Clock, name: str
) -> None:
    paths = found(name).paths(Random(name), scaled(4, 5))  # noqa: S311 - repeatable on purpose
    async with service(database, server, clock) as running:
        for path in paths:
            await Replay(running, SCENARIOS[name], path).run()
