"""Compare the calls per second of one server process and of the gateway.

Run by `make bench-gateway`. Starts PostgreSQL and one server process; gateway/internal/bench
measures both.
"""

import asyncio
import sys
from pathlib import Path

from bench.environment import environment

GATEWAY = Path(__file__).parents[1] / "gateway"


async def compare() -> int:
    """Run the benchmark and return its exit code."""
    async with environment() as env, env.server() as server:
        await env.owner.execute("INSERT INTO public.device_state VALUES ('bench', 'd00001')")
        arguments = ("--server", server.address, *sys.argv[1:])
        bench = await asyncio.create_subprocess_exec(
            *("go", "run", "./internal/bench", *arguments), cwd=GATEWAY
        )
        return await bench.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(compare()))
