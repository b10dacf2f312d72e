"""Generate gRPC load with ghz, for calls that need a different body each time.

h2load sends the same body in every call. ghz uses five times the CPU of h2load per call: on two
cores it measures a rate of GetJob that is one fifth lower, to the service's disadvantage.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.requests import InvalidRun

_ROOT = Path(__file__).parents[1]
_PROTOS = _ROOT / "protos"

# `make test-clients` builds ghz as well, so its go.mod has the version and Go has the packages.
_MODULE = _ROOT / "tests" / "clients"


class GhzUnavailable(Exception):
    """ghz is not available; the message gives the reason."""


async def build(folder: Path) -> Path:
    """Build ghz in the folder and return its path. Raises GhzUnavailable."""
    if shutil.which("go") is None:
        raise GhzUnavailable("ghz needs Go; install Go")
    process = await asyncio.create_subprocess_exec(
        *("go", "build", "-o", folder / "ghz", "github.com/bojand/ghz/cmd/ghz"),
        cwd=_MODULE,
        env=os.environ | {"CGO_ENABLED": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    output = (await process.communicate())[1].decode().splitlines()
    if process.returncode:
        raise GhzUnavailable(f"go build failed: {output[-1] if output else 'no output'}")
    return folder / "ghz"


def versions(folder: Path) -> dict[str, str]:
    """Return ghz's version by its name, or nothing if it was not built in the folder."""
    if not (folder / "ghz").exists():
        return {}
    (version,) = re.findall(r"bojand/ghz v(\S+)", (_MODULE / "go.mod").read_text())
    return {"ghz": version}


async def measure_rate(
    program: Path,
    address: str,
    method: str,
    requests: Sequence[Mapping[str, object]],
    *,
    tenant: str,
    clients: int,
) -> float:
    """Call a method of JobService once per request and return the calls per second.

    The requests are JSON. Each client has its own connection and one call at a time. Raises
    InvalidRun.
    """
    data = program.with_suffix(".json")
    data.write_text(json.dumps(requests))
    process = await asyncio.create_subprocess_exec(
        program,
        *("--insecure", "--format=json", "--disable-template-data"),
        *(f"--proto={_PROTOS}/fleet/jobs/v1/jobs.proto", f"--import-paths={_PROTOS}"),
        *(f"--call=fleet.jobs.v1.JobService/{method}", f"--data-file={data}"),
        f"--metadata={json.dumps({'x-tenant-id': tenant})}",
        *(f"--total={len(requests)}", f"--concurrency={clients}", f"--connections={clients}"),
        address,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    if process.returncode:
        raise InvalidRun(f"{method}: {errors.decode()}")
    report = json.loads(out)
    if report["statusCodeDistribution"] != {"OK": len(requests)}:
        raise InvalidRun(f"{method} returned {report['statusCodeDistribution']}")
    return float(report["rps"])
