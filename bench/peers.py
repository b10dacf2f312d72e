"""What `make bench` compares: the FastAPI service on a database of its own, and bare servers."""

import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.environment import ROLE, Environment, environment
from bench.process import Server, bare_server, free_address, server


@dataclass(frozen=True)
class Peers(Environment):
    """Also a database of the FastAPI service, on the same PostgreSQL."""

    fastapi: asyncpg.Connection
    """A connection as its owner."""

    async def connect_fastapi(self) -> asyncpg.Connection:
        """Open a connection to the FastAPI service's database, as the owner."""
        return await asyncpg.connect(self.cluster.dsn("fastapi"))

    async def clear(self) -> None:
        """Delete all devices and jobs."""
        await self.delete_jobs()
        for connection in (self.owner, self.fastapi):
            await connection.execute("TRUNCATE device_state")

    async def delete_jobs(self) -> None:
        """Delete all jobs of both services."""
        await super().delete_jobs()
        await self.fastapi.execute("TRUNCATE jobs, job_executions")

    async def vacuum(self) -> None:
        """Update the statistics of both databases and write dirty pages."""
        await self.fastapi.execute("VACUUM ANALYZE")
        await super().vacuum()

    def fastapi_server(self) -> AbstractAsyncContextManager[Server]:
        """Run the FastAPI service."""
        address = free_address()
        host, _, port = address.rpartition(":")
        return self._python(
            *("uvicorn", "bench.fastapi_service:app", "--host", host, "--port", port),
            *("--http", "httptools", "--loop", "uvloop"),
            address=address,
            FASTAPI_DSN=self.cluster.dsn("fastapi", ROLE.name),
        )

    def echo_server(self, method: str, response: bytes) -> AbstractAsyncContextManager[Server]:
        """Run a server that always sends a serialized response of a method."""
        return bare_server(self.log, method, response)

    def minimal_server(
        self, tenant: str, response: bytes, *, convert: bool = False
    ) -> AbstractAsyncContextManager[Server]:
        """Run the minimal server, which runs GetJob's statement and sends a serialized response.

        With `convert`, it converts the rows to the response instead.
        """
        address = free_address()
        return self._python(
            *("bench.minimal_server", address, tenant, *(["convert"] if convert else [])),
            address=address,
            stdin=response,
            MINIMAL_DSN=self.dsn,
        )

    def _python(
        self, *command: str, address: str, stdin: bytes = b"", **variables: str
    ) -> AbstractAsyncContextManager[Server]:
        return server(
            *(sys.executable, "-m", *command),
            address=address,
            log=self.log,
            stdin=stdin,
            **variables,
        )


@asynccontextmanager
async def peers() -> AsyncIterator[Peers]:
    """Run PostgreSQL and create both databases."""
    async with environment() as env:
        await env.owner.execute("CREATE DATABASE fastapi")
        fastapi = await asyncpg.connect(env.cluster.dsn("fastapi"))
        await fastapi.execute((Path(__file__).parent / "fastapi_service.sql").read_text())
        await fastapi.execute(
            f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {ROLE.name}"
        )
        yield Peers(env.folder, env.cluster, env.owner, fastapi)
        await fastapi.close()
