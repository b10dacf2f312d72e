"""A channel for synchronous callers, who use the generated stubs."""

import json
from typing import Any

import grpc

from jobs_grpc.client.channel import KEEPALIVE, NO_PROXY, Tls
from jobs_grpc.client.retry import BACKOFF_FACTOR, MAX_ATTEMPTS, RetryPolicy
from jobs_grpc.contract.methods import METHODS


def sync_channel(
    address: str,
    *,
    tls: Tls | None = None,
    timeout: float = 30.0,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - immutable
) -> grpc.Channel:
    """Open a channel that retries the calls that are always safe to repeat, while UNAVAILABLE.

    The contract declares them by their idempotency_level. gRPC makes the retries, so they do not
    follow RetryInfo, and at most 5 tries are made. `timeout` is in seconds, for each
    unary call of these methods with its retries; pass `timeout` to the others.
    """
    config = ("grpc.service_config", json.dumps(_service_config(timeout, retry)))
    options: tuple[tuple[str, Any], ...] = (*KEEPALIVE, config)
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
