"""Settings that make the server trust others without verification, or send data unencrypted."""

from collections.abc import Sequence

from jobs_grpc.config import Config, is_local


def insecure_settings(config: Config) -> Sequence[str]:
    """Return one line for each insecure setting that is in effect."""
    problems = []
    if config.auth.insecure_metadata and config.auth.mode == "metadata":
        problems.append(
            f"JOBS_INSECURE_METADATA is set: any client that reaches {config.server.listen} can act"
            " for any tenant"
        )
    if config.tls.terminated_by_proxy and not config.tls.cert and config.auth.mode == "jwt":
        problems.append(
            f"JOBS_TLS_TERMINATED_BY_PROXY is set: tokens reach {config.server.listen} unencrypted;"
            " a proxy in front must terminate TLS"
        )
    # On loopback, the server is being tried, with receivers on the same machine.
    is_served = not is_local(config.server.listen)
    if config.events.webhook_allow_http and config.events.webhook_keys_file and is_served:
        problems.append("JOBS_WEBHOOK_ALLOW_HTTP is set: events can cross the network unencrypted")
    return problems
