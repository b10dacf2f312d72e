"""Short trials; `make nightly` and `python -m tests.webhooks.trial` run long ones."""

from pathlib import Path

import pytest

from tests.support.scale import SCALE
from tests.webhooks.trial.trial import Faults, Outcome, run_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def test_kills_and_restarts_lose_nothing_and_keep_the_order(folder: Path) -> None:
    faults = Faults(kills=3, restarts=1) if SCALE == 1 else Faults(kills=30, restarts=10)
    interval = (0.3, 1.0) if SCALE == 1 else (1.0, 3.0)

    outcome = await run_trial(folder, faults, seed=7, interval=interval)

    assert_complete(outcome, faults)
    assert outcome.out_of_order == 0, outcome


@pytest.mark.skipif(SCALE == 1, reason="takes three minutes")
async def test_frozen_processes_lose_nothing(folder: Path) -> None:
    """A delivery that was being sent can arrive late."""
    faults = Faults(freezes=2)

    outcome = await run_trial(folder, faults, seed=7)

    assert_complete(outcome, faults)


def assert_complete(outcome: Outcome, faults: Faults) -> None:
    """Check that each event arrived, and at most one of a webhook twice for each fault."""
    assert outcome.lost == outcome.broken_chains == 0, outcome
    # A process that was killed or frozen may have sent an event without storing that. At the end,
    # both are killed.
    assert outcome.most_duplicates <= faults.kills + faults.freezes + 2, outcome
    # The trial proves nothing if little was sent.
    assert outcome.deliveries > 200, outcome
