"""A short trial with every kind of fault; `make chaos` runs long ones."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.trial import report, run_trial
from tests.gateway.support import build_gateway

_SEED = 7
_FAULTS = 15  # each kind at least once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_service_keeps_its_guarantees_under_faults(folder: Path) -> None:
    binary = await asyncio.to_thread(build_gateway)

    # Other tests run at the same time, so nothing is late here; `make chaos` checks that.
    history = await run_trial(folder, binary, faults=_FAULTS, seed=_SEED, late_after=60)

    assert not history.violations, report(history, _SEED)
    # The trial proves nothing if the calls failed.
    assert len(history.created) > 50
    assert len(history.reported) > 500
    assert history.event_count > 500


async def test_trial_checks_what_was_acknowledged_when_it_is_stopped(folder: Path) -> None:
    binary = await asyncio.to_thread(build_gateway)
    stop = asyncio.Event()

    def progress(done: int, name: str) -> None:
        if done == 1:
            stop.set()

    history = await run_trial(
        folder, binary, faults=1_000, seed=_SEED, late_after=60, stop=stop, progress=progress
    )

    assert history.faults == 2
    assert report(history, _SEED).startswith(f"2 faults with seed {_SEED}")
