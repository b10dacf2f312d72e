"""Compare the calls per second of one server process and of the gateway.

Run by `make bench-gateway`. Starts PostgreSQL and one server process; gateway/internal/bench
measures both.
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
    """Run the service with the settings of the environment until SIGTERM; print its address."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app.running(Config.from_env(os.environ)) as running:
        print(running.address, flush=True)
        await stop.wait()


async def compare() -> int:
    """Run the benchmark and return its exit code."""
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
