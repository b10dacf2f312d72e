"""Lets `jobs-grpc dev` send webhooks to receivers on this machine."""

import base64
import importlib.util
import os
import secrets
from contextlib import suppress
from pathlib import Path

from jobs_grpc.config import is_local
from jobs_grpc.dev.embedded_postgres.account import acting_as, unprivileged_account

# Common ports of programs in development. The gateway has 8080.
WEBHOOK_PORTS = "80,443,3000,5000,8000,9000"


def webhook_settings(data_dir: Path, listen: str) -> dict[str, str]:
    """Return the settings; empty without the extra `webhooks`.

    If others can call the server, its webhooks must not reach services of this machine.
    """
    if importlib.util.find_spec("aiohttp") is None or not is_local(listen):
        return {}
    return {
        "JOBS_WEBHOOK_KEYS_FILE": os.fspath(_keys_file(data_dir)),
        "JOBS_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "JOBS_WEBHOOK_ALLOWED_PORTS": WEBHOOK_PORTS,
        "JOBS_WEBHOOK_ALLOW_HTTP": "true",
    }


def make_webhook_keys(data_dir: Path) -> None:
    """Write a file with a master key into the data folder, unless there is one."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    with acting_as(unprivileged_account()):
        keys = _keys_file(data_dir)
        # Killed at any moment, this leaves a whole file or none.
        unfinished = keys.with_name(f"{keys.name}.new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"dev {key}\n")
        with suppress(FileExistsError):
            os.link(unfinished, keys)
        unfinished.unlink()


def _keys_file(data_dir: Path) -> Path:
    return data_dir / "webhook-keys"
