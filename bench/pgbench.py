"""Measure how many calls per second PostgreSQL answers without a service, with pgbench."""

import asyncio
import re
from pathlib import Path

from bench.run import InvalidRun
from jobs_grpc.dev.embedded_postgres.binaries import find_binaries


async def run_statement(dsn: str, statement: str, *, clients: int, seconds: float) -> float:
    """Run a prepared statement repeatedly and return the calls per second. Raises InvalidRun.

    Each client has its own connection and one call at a time, as the login of `dsn`.
    """
    program = find_binaries(Path(), None) / "pgbench"
    process = await asyncio.create_subprocess_exec(
        program,
        *("--no-vacuum", "--protocol=prepared", "--file=/dev/stdin"),
        *(f"--client={clients}", "--jobs=1", f"--time={max(1, round(seconds))}"),
        dsn,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate(f"{statement};\n".encode()))[0].decode()
    rate = re.search(r"tps = ([\d.]+)", output)
    if process.returncode or rate is None or "failed transactions: 0 " not in output:
        raise InvalidRun(f"pgbench: {output}")
    return float(rate[1])
