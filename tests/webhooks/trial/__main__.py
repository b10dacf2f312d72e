"""Kill, freeze and restart under deliveries: `python -m tests.webhooks.trial --kills 30`."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.webhooks.trial.trial import Faults, run_trial


def main() -> int:
    """Run one trial and print its outcome. Return 1 if an event was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="kills of a dispatcher process")
    parser.add_argument("--freezes", type=int, default=0, help="freezes beyond the lease")
    parser.add_argument("--restarts", type=int, default=0, help="restarts of PostgreSQL")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    args = parser.parse_args()
    faults = Faults(args.kills, args.freezes, args.restarts)

    def progress(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="jobs-webhooks-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        outcome = asyncio.run(run_trial(folder, faults, seed=args.seed, progress=progress))
    print(f"{faults}, seed {args.seed}: {outcome}")
    return 1 if outcome.lost else 0


if __name__ == "__main__":
    sys.exit(main())
