"""Checks of how callers are authenticated: what the server trusts, and the keys of tokens."""

import asyncio
from typing import TYPE_CHECKING

from jobs_grpc.auth.peers import TrustedPeers
from jobs_grpc.config import Config, ConfigError, JwtConfig
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.server.insecure_settings import insecure_settings

if TYPE_CHECKING:
    from jobs_grpc.auth.jwks_parser import KeySet

_TRUST = "authentication"
_KEYS = "token-keys"


def check_trust(config: Config) -> list[Finding]:
    """Report insecure settings of the authentication, and trusted peers."""
    findings = [
        Finding(_TRUST, Status.WARNING, problem, "see Listen beyond loopback in docs/operations.md")
        for problem in insecure_settings(config)
    ]
    if config.tls.trusted_peers:
        try:
            TrustedPeers(config.tls.trusted_peers)
        except ConfigError as e:
            findings.append(Finding(_TRUST, Status.ERROR, str(e), "install the extra mtls"))
    if findings:
        return findings
    peers = f", {len(config.tls.trusted_peers)} trusted peers" if config.tls.trusted_peers else ""
    return [Finding(_TRUST, Status.OK, f"JOBS_AUTH={config.auth.mode}{peers}")]


async def check_keys(config: Config) -> list[Finding]:
    """Read the keys that verify tokens. With JOBS_AUTH=metadata, there are none to check."""
    if config.auth.mode != "jwt":
        return []
    # Imported here because only JOBS_AUTH=jwt needs these packages.
    try:
        from jobs_grpc.auth.jwks_cache import JwksError, read_keys
    except ImportError as e:
        detail = f"JOBS_AUTH=jwt needs the extra jwt ({e.name} can't be imported)"
        return [Finding(_KEYS, Status.ERROR, detail, "install the extra jwt")]
    try:
        keys = await asyncio.to_thread(read_keys, config.jwt.keys or "")
    except JwksError as e:
        return [
            Finding(
                _KEYS,
                Status.ERROR,
                f"the keys can't be read: {e}",
                "make JOBS_JWT_KEYS name a JWKS or a PEM file with a public key that this account"
                " can read, or a URL that responds",
            )
        ]
    return [_check_algorithms(config.jwt, keys)]


def _check_algorithms(config: JwtConfig, keys: "KeySet") -> Finding:
    from jobs_grpc.auth.jwks_parser import supports

    without_key = [
        algorithm
        for algorithm in config.algorithms
        if not any(supports(key, algorithm) for key in keys.values())
    ]
    if len(without_key) == len(config.algorithms):
        return Finding(
            _KEYS,
            Status.ERROR,
            f"none of the keys ({len(keys)}) of JOBS_JWT_KEYS is for {', '.join(without_key)}",
            "set JOBS_JWT_ALGORITHMS to the algorithms of the keys, or correct JOBS_JWT_KEYS",
        )
    if without_key:
        return Finding(
            _KEYS,
            Status.WARNING,
            f"no key of JOBS_JWT_KEYS is for {', '.join(without_key)}",
            "remove the algorithms without a key from JOBS_JWT_ALGORITHMS",
        )
    algorithms = ", ".join(config.algorithms)
    return Finding(_KEYS, Status.OK, f"{len(keys)} for {algorithms}")
