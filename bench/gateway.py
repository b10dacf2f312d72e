"""Is the gateway ever the bottleneck? The server's rate of calls against the gateway's.

Run by `make bench-gateway`. Starts PostgreSQL and one server process, and lets
gateway/internal/bench measure both.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncpg

from jobs_grpc.config import Config
from jobs_grpc.server import app
from tests.support.postgres import running_postgres

GATEWAY = Path(__file__).parents[1] / "gateway"


async def serve() -> None:
    """The service as the environment says, until SIGTERM; its address goes to stdout."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app.running(Config.from_env(os.environ)) as running:
        print(running.address, flush=True)
        await stop.wait()


async def compare() -> int:
    """The benchmark's exit code."""
    async with running_postgres() as (cluster, template), cluster.database(template) as name:
        owner = await asyncpg.connect(cluster.dsn(name))
        await owner.execute("INSERT INTO public.device_state VALUES ('bench', 'd00001')")
        await owner.close()
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.gateway", "serve"),
            env=os.environ
            | {"JOBS_DATABASE_URL": cluster.dsn(name, cluster.role), "JOBS_LISTEN": "127.0.0.1:0"},
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            address = (await server.stdout.readline()).decode().strip()
            bench = await asyncio.create_subprocess_exec(
                *("go", "run", "./internal/bench", "--server", address, *sys.argv[1:]), cwd=GATEWAY
            )
            return await bench.wait()
        finally:
            server.terminate()
            await server.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        sys.exit(asyncio.run(compare()))
