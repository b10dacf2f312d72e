"""Load by ghz, for calls of gRPC that can't be made twice: h2load sends one body again and again.

A call takes five times the CPU that h2load takes for it: on two cores, ghz measures GetJob a
fifth lower. So its rates are to the disadvantage of the service.
"""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.calls import Void

VERSION = "0.121.0"

_PACKAGE = f"github.com/bojand/ghz/cmd/ghz@v{VERSION}"
_PROTOS = Path(__file__).parents[1] / "protos"


class Missing(Exception):
    """It can't be had; the message says why."""


async def build(folder: Path) -> Path:
    """The program, built in the folder. Raises Missing."""
    if shutil.which("go") is None:
        raise Missing("ghz needs Go")
    process = await asyncio.create_subprocess_exec(
        *("go", "install", _PACKAGE),
        env=os.environ | {"GOBIN": str(folder)},
        stderr=asyncio.subprocess.PIPE,
    )
    said = (await process.communicate())[1].decode().splitlines()
    if process.returncode:
        raise Missing(f"ghz can't be built: {said[-1] if said else 'go does not say why'}")
    return folder / "ghz"


def versions(folder: Path) -> dict[str, str]:
    """Its version, by its name, if it was built there."""
    return {"ghz": VERSION} if (folder / "ghz").exists() else {}


async def rate(
    program: Path,
    address: str,
    method: str,
    requests: Sequence[dict[str, object]],
    *,
    tenant: str,
    clients: int,
) -> float:
    """Calls a second of a method of JobService, one for each request, as JSON.

    Each client has a connection of its own and waits for its answers. Raises Void.
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
        raise Void(f"{method}: {errors.decode()}")
    ran = json.loads(out)
    if ran["statusCodeDistribution"] != {"OK": len(requests)}:
        raise Void(f"{method} answered {ran['statusCodeDistribution']}")
    return float(ran["rps"])
