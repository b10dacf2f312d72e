"""Inject faults under traffic: `python -m tests.chaos --faults 200 --seed 7`.

Ctrl-C ends the faults; what was acknowledged until then is checked.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

# gRPC reads this variable on import. Without it, gRPC logs each process that we start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

from tests.chaos.trial import HISTORY, report, run_trial
from tests.gateway.support import build_gateway
from tests.harness.ledger import Ledger


def main() -> int:
    """Run one trial and print its outcome. Return 1 if the service violated a guarantee."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="the number of faults")
    parser.add_argument(
        "--seed", type=int, help="the seed of the choice of faults; default: random"
    )
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed  # noqa: S311

    def progress(done: int, name: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{done}/{args.faults} {name}", end="", file=sys.stderr, flush=True)
        elif done % 10 == 0:
            print(f"{done}/{args.faults} faults", file=sys.stderr, flush=True)

    async def trial(folder: Path, binary: Path) -> Ledger:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        return await run_trial(
            folder, binary, faults=args.faults, seed=seed, stop=stop, progress=progress
        )

    with tempfile.TemporaryDirectory(prefix="jobs-chaos-", dir="/tmp") as name:
        folder = Path(name)
        binary = build_gateway()
        folder.chmod(0o711)
        ledger = asyncio.run(trial(folder, binary))
        kept = shutil.move(folder / HISTORY, tempfile.mkdtemp()) if ledger.problems else ""
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(report(ledger, seed))
    if kept:
        print(f"the history of calls is in {kept}")
    if ledger.problems:
        return 1
    return 0 if ledger.done["faults"] == args.faults else 130


if __name__ == "__main__":
    sys.exit(main())
