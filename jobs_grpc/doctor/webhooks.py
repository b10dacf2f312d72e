"""Checks of webhooks: the master keys, and whether endpoints can be reached."""

import importlib.util
from pathlib import Path

import asyncpg

from jobs_grpc.config import Config, EventsConfig
from jobs_grpc.doctor.connection import (
    DATABASE_ERRORS,
    ConnectError,
    connect,
    fetch_one,
    not_examined,
)
from jobs_grpc.doctor.finding import Finding, Status
from jobs_grpc.webhooks.destinations import webhook_destinations
from jobs_grpc.webhooks.secrets import MalformedKeys, MasterKeys, load_master_keys

_CHECK = "webhooks"

_STATE_REMEDY = (
    "`jobs-grpc webhooks list` shows the state of a tenant's webhooks and their last error; tell"
    " the tenants"
)


async def check_webhooks(config: Config) -> list[Finding]:
    """Check the master keys, and the state of the webhooks of all tenants."""
    keys: MasterKeys | None = None
    if path := config.events.webhook_keys_file:
        if importlib.util.find_spec("aiohttp") is None:
            detail = "JOBS_WEBHOOK_KEYS_FILE needs the extra webhooks (aiohttp can't be imported)"
            return [Finding(_CHECK, Status.ERROR, detail, "install the extra webhooks")]
        try:
            keys = load_master_keys(Path(path))
        except (OSError, MalformedKeys) as e:
            detail = f"JOBS_WEBHOOK_KEYS_FILE is not usable: {e}"
            return [Finding(_CHECK, Status.ERROR, detail, "correct the file or its permissions")]
    owner_url = config.maintenance.owner_database_url
    if owner_url is None:
        if keys is None:
            return [Finding(_CHECK, Status.OK, "this server sends no webhooks")]
        return [
            Finding(
                _CHECK,
                Status.WARNING,
                "JOBS_OWNER_DATABASE_URL is not set: this server sends no webhooks, and whether"
                " another one does is unknown",
                "set it on at least one server, and run `jobs-grpc doctor` there",
            )
        ]
    try:
        async with connect(owner_url, config) as connection:
            row = await fetch_one(connection, "webhooks", keys.ids if keys else [])
    except (ConnectError, *DATABASE_ERRORS) as e:
        return [not_examined(_CHECK, e)]
    return _check_state(row, config.events, has_keys=keys is not None)


def _check_state(row: asyncpg.Record, events: EventsConfig, *, has_keys: bool) -> list[Finding]:
    enabled = row["enabled"]
    if enabled and not has_keys:
        return [
            Finding(
                _CHECK,
                Status.ERROR,
                f"JOBS_WEBHOOK_KEYS_FILE is not set, and {enabled} webhooks are enabled",
                "set it to the file with the master keys, or disable the webhooks",
            )
        ]
    if row["without_key"]:
        return [
            Finding(
                _CHECK,
                Status.ERROR,
                f"JOBS_WEBHOOK_KEYS_FILE lacks the master key of {row['without_key']} webhooks",
                "add the key to the file again; before you remove a key, rotate the secrets of all"
                " webhooks",
            )
        ]
    detail = f"enabled: {enabled - row['retrying']}; retrying: {row['retrying']}"
    if row["disabled"]:
        detail += f"; disabled after failures: {row['disabled']}"
    if row["retrying"] and row["unreachable"] == enabled:
        return [
            Finding(
                _CHECK,
                Status.ERROR,
                f"{detail}; no endpoint can be reached",
                "start the receivers, and let this host resolve their names and connect to them"
                " (firewall, NetworkPolicy, name servers); the settings allow"
                f" {webhook_destinations(events)}",
            )
        ]
    if row["retrying"] or row["disabled"]:
        return [Finding(_CHECK, Status.WARNING, detail, _STATE_REMEDY)]
    return [Finding(_CHECK, Status.OK, detail)]
