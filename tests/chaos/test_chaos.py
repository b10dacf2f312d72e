"""A short trial with every kind of fault; `make chaos` runs long ones."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.trial import report, run_trial
from tests.gateway.support import build_gateway

_SEED = 7

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_service_keeps_its_guarantees_under_faults_until_the_trial_is_stopped(
    folder: Path,
) -> None:
    binary = await asyncio.to_thread(build_gateway)
    stop = asyncio.Event()

    def progress(done: int, _: str) -> None:
        if done == len(FAULTS) - 1:
            stop.set()

    # Other tests run at the same time, so nothing is late here; `make chaos` checks that.
    ledger = await run_trial(
        folder,
        binary,
        faults=99,
        seed=_SEED,
        late_after=60,
        pace=0.3,
        pause=1,
        stop=stop,
        progress=progress,
    )

    text = report(ledger, _SEED)
    assert not ledger.problems, text
    assert text.startswith(f"{len(FAULTS)} faults with seed {_SEED}")
    # The trial proves nothing if the calls failed.
    summary = ledger.summary()
    assert summary["jobs"] > 50
    assert summary["reports"] > 300
    assert summary["events"] > 300
    assert ledger.histories
