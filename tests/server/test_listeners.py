"""Several gRPC servers on one port: connections spread over them, and a stop drains all."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from jobs_grpc.server.listeners import Listeners
from jobs_grpc.server.sockets import ListenError, reserve_port
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT, wait_until_true

METHOD = "/test.Service/Method"

# With 80 connections, the chance that one of four servers gets none is one in a billion.
CONNECTIONS = 80


class Gate:
    """Calls wait here until the gate is open."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def pass_through(self) -> None:
        """Count the call and wait until the gate is open."""
        self.waiting += 1
        await self.opened.wait()


class ServerNumber(grpc.aio.ServerInterceptor):
    """Responds to calls with the number of the server, after they pass the gate."""

    def __init__(self, number: int, gate: Gate) -> None:
        self._number = number
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        assert await continuation(handler_call_details)

        async def respond(request: bytes, context: object) -> bytes:
            await self._gate.pass_through()
            return bytes([self._number])

        return grpc.unary_unary_rpc_method_handler(respond)


@asynccontextmanager
async def running_listeners(gate: Gate) -> AsyncIterator[tuple[Listeners, str]]:
    """Run four servers on one port; yields them and their address."""
    options = (("grpc.so_reuseport", 1),)
    replaced: Any = grpc.unary_unary_rpc_method_handler(abs)
    handler = grpc.method_handlers_generic_handler("test.Service", {"Method": replaced})
    listeners = Listeners(
        [
            grpc.aio.server(
                handlers=[handler], interceptors=[ServerNumber(number, gate)], options=options
            )
            for number in range(4)
        ]
    )
    with reserve_port("127.0.0.1:0") as address:
        listeners.add_insecure_port(address)
        await listeners.start()
        try:
            yield listeners, address
        finally:
            await listeners.stop(None)


@asynccontextmanager
async def calls_in_flight(address: str) -> AsyncIterator["asyncio.Future[list[bytes]]"]:
    """Open many connections with one call each; yields the future responses."""
    async with AsyncExitStack() as channels:
        calls: list[Any] = []
        for _ in range(CONNECTIONS):
            channel: Any = await channels.enter_async_context(open_channel(address))
            calls.append(channel.unary_unary(METHOD)(b"", wait_for_ready=True, timeout=TIMEOUT))
        yield asyncio.gather(*calls)


async def test_connections_spread_over_the_servers() -> None:
    gate = Gate()
    gate.opened.set()

    async with running_listeners(gate) as (_, address), calls_in_flight(address) as responses:
        assert set(await responses) == {bytes([number]) for number in range(4)}


async def test_stop_lets_calls_of_all_servers_finish() -> None:
    gate = Gate()

    async with (
        running_listeners(gate) as (listeners, address),
        calls_in_flight(address) as responses,
    ):
        await wait_until_true(lambda: gate.waiting == CONNECTIONS)
        stopping = asyncio.create_task(listeners.stop(TIMEOUT))
        gate.opened.set()

        assert len(await responses) == CONNECTIONS
        await asyncio.wait_for(stopping, TIMEOUT)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "192.0.2.1"])
async def test_reserve_port_fails_when_host_is_invalid_or_not_local(host: str) -> None:
    with pytest.raises(ListenError, match=f"can't listen on {host}:0"), reserve_port(f"{host}:0"):
        pass


async def test_reserve_port_reserves_all_addresses_of_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name resolves to two addresses of this machine and one of another machine."""
    resolved = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in ("127.0.0.2", "192.0.2.1", "127.0.0.3")
    ]
    with monkeypatch.context() as resolver:
        resolver.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
        reservation = reserve_port("name:0")
        address = reservation.__enter__()
    port = address.rpartition(":")[2]
    try:
        for host in ("127.0.0.2", "127.0.0.3"):
            with pytest.raises(ListenError), reserve_port(f"{host}:{port}"):
                pass
    finally:
        reservation.__exit__(None, None, None)


async def test_reserve_port_fails_when_port_is_reserved() -> None:
    with (
        reserve_port("127.0.0.1:0") as address,
        pytest.raises(ListenError, match=f"can't listen on {address}"),
        reserve_port(address),
    ):
        pass
