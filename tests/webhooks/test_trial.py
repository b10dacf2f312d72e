"""A short trial; `python -m tests.webhooks.trial` runs long ones."""

from pathlib import Path

import pytest

from tests.support.scale import SCALE
from tests.webhooks.trial.trial import Faults, run_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def test_kills_and_restarts_lose_nothing_and_keep_the_order(folder: Path) -> None:
    faults = Faults(kills=3, restarts=1) if SCALE == 1 else Faults(kills=30, restarts=5)

    outcome = await run_trial(folder, faults, seed=7)

    assert outcome.lost == outcome.out_of_order == outcome.broken_chains == 0, outcome
    # A killed process may have sent an event without storing that.
    assert outcome.most_duplicates <= faults.kills, outcome
    # The trial proves nothing if little was sent.
    assert outcome.deliveries > 200, outcome
