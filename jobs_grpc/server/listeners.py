"""Runs several grpc.aio servers on one port."""

import asyncio
from collections.abc import Callable, Sequence

import grpc


class Listeners:
    """Several servers that act as one: the part of grpc.aio.Server that this service uses.

    A grpc.aio server accepts its calls one after another, and each takes about five iterations
    of the event loop. The kernel spreads connections over the servers if they share the port;
    a connection stays with the server that accepted it.
    """

    def __init__(self, servers: Sequence[grpc.aio.Server]) -> None:
        self._servers = servers

    def add_insecure_port(self, address: str) -> int:
        """Bind each server to the address. With several, its port must not be 0.

        Raises RuntimeError.
        """
        return self._add_port(lambda server: server.add_insecure_port(address))

    def add_secure_port(
        self, address: str, make_credentials: Callable[[], grpc.ServerCredentials]
    ) -> int:
        """Bind each server to the address with TLS. Servers cannot share credentials."""
        return self._add_port(lambda server: server.add_secure_port(address, make_credentials()))

    def _add_port(self, add: Callable[[grpc.aio.Server], int]) -> int:
        (port,) = {add(server) for server in self._servers}
        return port

    async def start(self) -> None:
        """Accept calls."""
        for server in self._servers:
            await server.start()

    async def stop(self, grace: float | None) -> None:
        """Accept no more calls, and cancel those that still run after `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
