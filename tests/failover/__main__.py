"""Lose the primary under traffic, and restore backups: `python -m tests.failover`."""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from pathlib import Path

# gRPC reads this variable on import. Without it, gRPC logs each process that we start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from tests.failover.trial import Outcome, run_promotions, run_restore
from tests.gateway.support import build_gateway

_TRIALS = ("synchronous", "asynchronous", "restore")


def main() -> int:
    """Run the trials and print their outcomes. Return 1 if the service violated a guarantee."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--promotions", type=int, default=3, help="the number for each standby")
    parser.add_argument("--seed", type=int, help="the seed of the traffic; default: random")
    parser.add_argument("--only", choices=_TRIALS)
    args = parser.parse_args()
    if args.promotions < 2:
        parser.error("--promotions must be at least 2: from the second one on, the standby lags")
    seed = random.randrange(10**6) if args.seed is None else args.seed  # noqa: S311
    print(f"seed {seed}", flush=True)
    binary, failed = build_gateway(), False

    async def trial(name: str, folder: Path) -> Outcome:
        if name == "restore":
            return await run_restore(folder, binary, seed=seed)
        is_synchronous = name == "synchronous"
        return await run_promotions(
            folder, binary, count=args.promotions, seed=seed, synchronous=is_synchronous
        )

    for name in [args.only] if args.only else _TRIALS:
        with tempfile.TemporaryDirectory(prefix="jobs-failover-", dir="/tmp") as folder:
            Path(folder).chmod(0o711)
            outcome = asyncio.run(trial(name, Path(folder)))
        print(outcome.report(), flush=True)
        failed |= bool(outcome.ledger.problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
