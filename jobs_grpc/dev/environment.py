"""The settings of `jobs-grpc dev`, and its database."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from jobs_grpc.config import DEFAULT_ADDRESS, DEV_METRICS_ADDRESS, DEV_POLL_AFTER, ConfigError
from jobs_grpc.db.migrate import RequestRole, migrate
from jobs_grpc.dev import embedded_postgres
from jobs_grpc.dev.demo_fleet import load_demo_fleet
from jobs_grpc.dev.webhooks import webhook_settings

DATABASE = "jobs"
_ROLE = RequestRole()


def data_dir() -> Path:
    """Return the folder of JOBS_DATA_DIR, or the default one."""
    folder = os.environ.get("JOBS_DATA_DIR") or embedded_postgres.default_data_dir()
    return Path(folder).absolute()


def settings_with_database(setting: str) -> Mapping[str, str]:
    """Return the environment if it has the URL of a database in `setting`.

    Otherwise, return the settings of the `jobs-grpc dev` that runs with this data folder. Raises
    ConfigError if none runs.
    """
    if setting in os.environ:
        return os.environ
    folder = data_dir()
    if cluster := embedded_postgres.find_running(folder):
        return server_settings(cluster)
    raise ConfigError(
        f"{setting} is not set, and no `jobs-grpc dev` runs with the data in"
        f" {folder}: set it, or start one (JOBS_DATA_DIR names another folder)"
    )


def server_settings(cluster: embedded_postgres.Cluster) -> dict[str, str]:
    """Return the settings of the server, among them those of the environment."""
    return {
        **default_settings(),
        **webhook_settings(cluster.data_dir, os.environ.get("JOBS_LISTEN") or DEFAULT_ADDRESS),
        **os.environ,
        "JOBS_DATABASE_URL": cluster.dsn(DATABASE, _ROLE.name),
        "JOBS_OWNER_DATABASE_URL": cluster.dsn(DATABASE),
    }


def default_settings() -> dict[str, str]:
    """Return the settings that differ from the defaults of `serve`."""
    defaults = {
        # People who try the service watch a simulated fleet.
        "JOBS_POLL_AFTER": DEV_POLL_AFTER,
        # A line for each call would scroll the example commands out of view.
        "JOBS_LOG_LEVEL": "WARNING",
    }
    if importlib.util.find_spec("prometheus_client") is not None:
        defaults["JOBS_METRICS_LISTEN"] = DEV_METRICS_ADDRESS
    return defaults


async def prepare_database(cluster: embedded_postgres.Cluster) -> None:
    """Create the database, or migrate it, and add the demo fleet. Raises MigrationError."""
    connection = await asyncpg.connect(cluster.dsn("postgres"))
    try:
        await connection.execute(f"CREATE DATABASE {DATABASE}")
    except asyncpg.DuplicateDatabaseError:
        pass
    finally:
        await connection.close()
    await migrate(cluster.dsn(DATABASE), _ROLE)
    await load_demo_fleet(cluster.dsn(DATABASE))
