"""Several gRPC servers that are one: connections spread over them, and a stop reaches them all."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from jobs_grpc.server.acceptors import Acceptors
from jobs_grpc.server.sockets import CannotListen, reserved
from tests.support.server import open_channel
from tests.support.waiting import TIMEOUT, wait_until

METHOD = "/test.Service/Method"

# By chance one of four would get none of so many once in a billion times.
CONNECTIONS = 80


class Gate:
    """Where calls wait until they may go on."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0

    async def pass_through(self) -> None:
        """Wait until it is open."""
        self.waiting += 1
        await self.opened.wait()


class Numbered(grpc.aio.ServerInterceptor):
    """Lets calls of a server be answered with its number, once they have passed the gate."""

    def __init__(self, number: int, gate: Gate) -> None:
        self._number = number
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        assert await continuation(handler_call_details)

        async def answer(request: bytes, context: object) -> bytes:
            await self._gate.pass_through()
            return bytes([self._number])

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def accepting(gate: Gate) -> AsyncIterator[tuple[Acceptors, str]]:
    """Four servers on one port, and its address."""
    options = (("grpc.so_reuseport", 1),)
    acceptors = Acceptors(
        [
            grpc.aio.server(interceptors=[Numbered(number, gate)], options=options)
            for number in range(4)
        ]
    )
    replaced: Any = grpc.unary_unary_rpc_method_handler(abs)
    handler = grpc.method_handlers_generic_handler("test.Service", {"Method": replaced})
    acceptors.add_generic_rpc_handlers(iter([handler]))
    with reserved("127.0.0.1:0") as address:
        acceptors.add_insecure_port(address)
        await acceptors.start()
        try:
            yield acceptors, address
        finally:
            await acceptors.stop(None)


@asynccontextmanager
async def called(address: str) -> AsyncIterator["asyncio.Future[list[bytes]]"]:
    """A call over each of many connections, all of them open; what they are answered."""
    async with AsyncExitStack() as channels:
        calls: list[Any] = []
        for _ in range(CONNECTIONS):
            channel: Any = await channels.enter_async_context(open_channel(address))
            calls.append(channel.unary_unary(METHOD)(b"", wait_for_ready=True, timeout=TIMEOUT))
        yield asyncio.gather(*calls)


async def test_connections_spread_over_them() -> None:
    gate = Gate()
    gate.opened.set()

    async with accepting(gate) as (_, address), called(address) as answers:
        assert set(await answers) == {bytes([number]) for number in range(4)}


async def test_a_stop_lets_the_calls_of_all_of_them_finish() -> None:
    gate = Gate()

    async def all_wait() -> bool:
        return gate.waiting == CONNECTIONS

    async with accepting(gate) as (acceptors, address), called(address) as answers:
        await wait_until(all_wait)
        stopping = asyncio.create_task(acceptors.stop(TIMEOUT))
        gate.opened.set()

        assert len(await answers) == CONNECTIONS
        await asyncio.wait_for(stopping, TIMEOUT)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "192.0.2.1"])
async def test_what_is_no_address_here_can_not_be_reserved(host: str) -> None:
    with pytest.raises(CannotListen, match=f"can't listen on {host}:0"), reserved(f"{host}:0"):
        pass


async def test_all_addresses_of_a_name_are_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name that stands for two addresses, and for one that is not there."""
    names = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0))
        for each in ("127.0.0.2", "192.0.2.1", "127.0.0.3")
    ]
    with monkeypatch.context() as resolving:
        resolving.setattr(socket, "getaddrinfo", lambda *_, **__: names)
        reservation = reserved("both:0")
        address = reservation.__enter__()
    port = address.rpartition(":")[2]
    try:
        for each in ("127.0.0.2", "127.0.0.3"):
            with pytest.raises(CannotListen), reserved(f"{each}:{port}"):
                pass
    finally:
        reservation.__exit__(None, None, None)


async def test_nobody_else_gets_the_port() -> None:
    with (
        reserved("127.0.0.1:0") as address,
        pytest.raises(CannotListen, match=f"can't listen on {address}"),
        reserved(address),
    ):
        pass
