"""Channels to the service: their options, TLS, several for busy callers, and synchronous ones."""

import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from jobs_grpc.client.retry import BACKOFF_FACTOR, MAX_ATTEMPTS, RetryPolicy
from jobs_grpc.contract.methods import METHODS

# Pings detect a dead server on a stream that only receives.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

# Keeps an unencrypted channel off the HTTP proxy that the environment names.
NO_PROXY = ("grpc.enable_http_proxy", 0)

_OPTIONS = (
    *_KEEPALIVE,
    # Without this, all channels to an address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A lost connection is opened again within two seconds after the server is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of a channel. Certificates and keys are PEM."""

    ca: bytes | None = None
    """CA certificates that the server's certificate must chain to; None: those of gRPC."""
    certificate: bytes | None = None
    """The client certificate, together with `key`."""
    key: bytes | None = field(default=None, repr=False)
    server_name: str | None = None
    """The name that the server's certificate must have; None: the host of the address."""

    def credentials(self) -> grpc.ChannelCredentials:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key must be used together")
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    def options(self) -> tuple[tuple[str, str], ...]:
        """Return the channel options that belong to these settings."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()


class Connection:
    """Connections to one server. Clients can share them.

    Calls take turns on `channels` connections. One is enough for most callers; a worker server
    process serves a connection, so a caller that makes thousands of calls per second uses
    several.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        channels: int = 1,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Connect to `address`, HOST:PORT or unix:PATH. `options` are further channel options."""
        if channels < 1:
            raise ValueError("channels must be at least 1")
        self.address = address
        self.tls = tls
        self._channel_count = channels
        self._options = (*_OPTIONS, *options)
        self._stubs: dict[Callable[[grpc.aio.Channel], Any], Any] = {}
        self._channels: list[grpc.aio.Channel] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for _ in range(self._channel_count):
            self._channels.append(await self._stack.enter_async_context(self._open()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channels.clear()
        self._stubs.clear()
        await self._stack.aclose()

    def _open(self) -> grpc.aio.Channel:
        if self.tls is None:
            return grpc.aio.insecure_channel(self.address, options=(*self._options, NO_PROXY))
        options = (*self._options, *self.tls.options())
        return grpc.aio.secure_channel(self.address, self.tls.credentials(), options=options)

    def stub(self, stub_type: Callable[[grpc.aio.Channel], Any]) -> Any:
        if not self._channels:
            raise RuntimeError("not connected; use `async with`")
        if stub_type not in self._stubs:
            self._stubs[stub_type] = itertools.cycle([stub_type(c) for c in self._channels])
        return next(self._stubs[stub_type])


def sync_channel(
    address: str,
    *,
    tls: Tls | None = None,
    timeout: float = 30.0,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
) -> grpc.Channel:
    """Open a channel that retries idempotent unary calls after UNAVAILABLE or CANCELLED.

    The contract marks them by `idempotency_level`. gRPC retries by itself: it ignores RetryInfo and
    makes at most 5 attempts. `timeout` is in seconds and covers a call with its retries; for other
    methods, pass `timeout` to each call.
    """
    config = ("grpc.service_config", json.dumps(_service_config(timeout, retry)))
    options: tuple[tuple[str, Any], ...] = (*_KEEPALIVE, config)
    if tls is None:
        return grpc.insecure_channel(address, options=(*options, NO_PROXY))
    return grpc.secure_channel(address, tls.credentials(), options=(*options, *tls.options()))


def _service_config(timeout: float, retry: RetryPolicy) -> dict[str, Any]:
    names = [
        dict(zip(("service", "method"), name[1:].split("/"), strict=True))
        for name, method in METHODS.items()
        if method.repeatable and method.unary
    ]
    method_config: dict[str, Any] = {"name": names, "timeout": f"{timeout:.3f}s"}
    if retry.max_attempts > 1:
        method_config["retryPolicy"] = {
            "maxAttempts": min(retry.max_attempts, MAX_ATTEMPTS),
            "initialBackoff": f"{retry.first_delay:.3f}s",
            "maxBackoff": f"{retry.max_delay:.3f}s",
            "backoffMultiplier": BACKOFF_FACTOR,
            # A server that stops, or a proxy, resets calls with CANCELLED. gRPC does not retry a
            # call that its caller has canceled.
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
    return {"methodConfig": [method_config]}
