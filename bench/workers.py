"""Do workers get in each other's way? Calls a second of one to four, each with a part of a core.

Run by `make bench-workers`. PostgreSQL and the load need cores as well, and where there are few, a
second worker finds none that is free. So each is held to a fifth of one, by cpulimit, and all
together have less than one: what more of them achieve is then a matter of the workers alone.
"""

import argparse
import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.calls import Call, Void
from bench.environment import Environment, Server, environment
from bench.h2load import h2load_version, load
from bench.measure import SERVICE, Results
from bench.workloads.calls import TEN, THOUSAND, VARIES, create_one, get, seed_read

# Percent of a core.
_SHARE = 20

# Where the kernel puts more connections, they take longer; all are at it for the first half.
_CLIENTS = 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.workers", description=__doc__)
    parser.add_argument("--most", type=int, default=4, help="workers [4]")
    parser.add_argument("--seconds", type=float, default=5, help="a run [5]")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turn [3]")
    args = parser.parse_args()
    h2load_version()
    if shutil.which("cpulimit") is None:
        sys.exit("cpulimit is needed: apt-get install cpulimit")
    try:
        asyncio.run(_measure(args))
    except Void as e:
        sys.exit(f"void: {e}")
    except KeyboardInterrupt:
        sys.exit(130)


async def _measure(args: argparse.Namespace) -> None:
    numbers = range(1, args.most + 1)
    results = Results()
    async with environment() as env:
        await env.empty()
        await seed_read(env)
        await env.settle()
        for _ in range(args.runs):
            for workers in numbers:
                async with _limited(env, workers) as server:
                    for name, call in _calls(server).items():
                        loaded = await load(
                            call, seconds=args.seconds, clients=_CLIENTS, varies=VARIES
                        )
                        results.add(name, f"{workers}", SERVICE, "/s", loaded.rate_of_half)
    print(f"\n| workers, each with {_SHARE} % of a core | " + " | ".join(map(str, numbers)) + " |")
    print("|---|" + "---|" * len(numbers))
    for name in dict.fromkeys(each.workload for each in results):
        medians = [each.median for each in results if each.workload == name]
        shown = " | ".join(f"{each:,.0f}/s, {each / medians[0]:.1f}×" for each in medians)
        print(f"| {name} | {shown} |")


def _calls(server: Server) -> dict[str, Call]:
    create, _ = create_one(server, server)
    ten, _ = get(server, server, TEN)
    thousand, _ = get(server, server, THOUSAND)
    return {
        "CreateJob, one device": create,
        "GetJob, 10 executions": ten,
        "GetJob, 1,000 executions": thousand,
    }


@asynccontextmanager
async def _limited(env: Environment, workers: int) -> AsyncIterator[Server]:
    """A server whose processes have `_SHARE` percent of a core each."""
    async with env.serving(workers) as server:
        limits = [
            await asyncio.create_subprocess_exec(
                *("cpulimit", f"--limit={_SHARE}", f"--pid={each.pid}"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            for each in server.processes()
        ]
        try:
            yield server
            if any(limit.returncode is not None for limit in limits):
                raise Void("a process was not held to its share")
        finally:
            # It lets the process go on.
            for limit in limits:
                if limit.returncode is None:
                    limit.terminate()
                await limit.wait()


if __name__ == "__main__":
    main()
