"""`jobs-grpc serve` without the extras that its settings need."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.auth.support import JWT_SETTINGS
from tests.support.device_certificates import device_settings
from tests.support.identities import Authority, mutual_tls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "extra", "module"),
    [
        ("JOBS_AUTH=jwt", "jwt", "joserfc"),
        ("JOBS_TRUSTED_PEERS", "mtls", "cryptography"),
        ("JOBS_DEVICE_LISTEN", "mtls", "cryptography"),
    ],
)
async def test_serve_fails_with_one_line_when_an_extra_is_missing(
    tmp_path: Path, setting: str, extra: str, module: str
) -> None:
    settings = JWT_SETTINGS | {"JOBS_JWT_KEYS": "keys.pem"}
    if setting == "JOBS_DEVICE_LISTEN":
        settings = device_settings(Authority(), tmp_path)
    elif extra == "mtls":
        settings = mutual_tls(Authority(), tmp_path) | {"JOBS_TRUSTED_PEERS": "gateway.internal"}
    script = (
        f"import sys; sys.modules['{module}'] = None\n"
        "from jobs_grpc.cli.program import run; sys.exit(run(['serve']))"
    )
    environ = settings | {"JOBS_DATABASE_URL": "postgresql://h/d", "JOBS_LISTEN": "127.0.0.1:0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()

    assert (process.returncode, err.decode()) == (
        2,
        f"jobs-grpc: {setting} needs the extra {extra} ({module} can't be imported):"
        f' pip install "jobs-grpc[{extra}]"\n',
    )
