"""Examines what a server needs: its settings, this host, its files and its database."""

from jobs_grpc.config import Config
from jobs_grpc.doctor import (
    address,
    authentication,
    certificates,
    counts,
    database,
    device_certificates,
    dot_segments,
    fact_labels,
    host,
    maintenance,
    webhooks,
)
from jobs_grpc.doctor.finding import Finding, Status

__all__ = ["Finding", "Status", "examine"]


async def examine(config: Config, max_executions: int = counts.MAX_EXECUTIONS) -> list[Finding]:
    """Run all checks and return what they found, at least one finding of each check.

    `max_executions` limits those that are recounted. Changes nothing and does not need a running
    server. Takes up to about 30 seconds if nothing responds. No finding contains a password or a
    key.
    """
    return [
        host.check_version(),
        host.check_open_files(config),
        await address.check_address(config),
        *authentication.check_trust(config),
        *await authentication.check_keys(config),
        *certificates.check_certificates(config.tls),
        *device_certificates.check_files(config),
        *await database.check_database(config),
        *await webhooks.check_webhooks(config),
        *await device_certificates.check_tenants(config),
        *await dot_segments.check_dot_segments(config),
        *await fact_labels.check_fact_labels(config),
        *await maintenance.check_maintenance(config, max_executions),
    ]
