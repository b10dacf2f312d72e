"""Several gRPC servers that are one: the same services, on the same port."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grpc


class Acceptors:
    """A grpc.aio.Server, as far as one is used here, that takes in as many calls at a time.

    A server takes in the calls of all methods one after another, each in about five turns of
    the event loop. The kernel spreads connections over the servers, if the port is shared, and
    a connection stays with the one that accepted it.
    """

    def __init__(self, servers: Sequence[grpc.aio.Server]) -> None:
        self._servers = servers

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Serve what they know, on all servers."""
        handlers = tuple(generic_rpc_handlers)
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing: what is generated has added the same as generic ones.

        A server waits for a call of each registered method apart, and at each call that comes
        goes through all that it waits for.
        """

    def add_insecure_port(self, address: str) -> int:
        """Let all servers bind the address, whose port must not be 0. Raises RuntimeError."""
        return self._add_port(lambda server: server.add_insecure_port(address))

    def add_secure_port(
        self, address: str, make_credentials: Callable[[], grpc.ServerCredentials]
    ) -> int:
        """The same, with TLS; each server has credentials of its own."""
        return self._add_port(lambda server: server.add_secure_port(address, make_credentials()))

    def _add_port(self, add: Callable[[grpc.aio.Server], int]) -> int:
        (port,) = {add(server) for server in self._servers}
        return port

    async def start(self) -> None:
        """Take calls in."""
        for server in self._servers:
            await server.start()

    async def stop(self, grace: float | None) -> None:
        """Take no more in, and end those that there are after `grace` seconds."""
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
