"""Checks that the extra `metrics` is installed, before the modules that need it are imported."""

import importlib.util

from jobs_grpc.config import ConfigError


def require_metrics_extra() -> None:
    """Raise ConfigError if the extra `metrics` is not installed."""
    if importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError(
            "JOBS_METRICS_LISTEN needs the extra metrics (prometheus_client can't be imported): "
            'pip install "jobs-grpc[metrics]"'
        )
