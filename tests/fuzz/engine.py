"""Runs a fuzz target with Atheris: `make fuzz` and ClusterFuzzLite do so.

A target is a module with `check`, which raises if bytes break a property, and `SEEDS`, which are
also tests.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_ATHERIS: Any = import_module("atheris") if find_spec("atheris") else None


def instrumented() -> AbstractContextManager[None]:
    """Measure the coverage of what the block imports from `jobs_grpc`, if Atheris is installed."""
    return _ATHERIS.instrument_imports(include=["jobs_grpc"]) if _ATHERIS else nullcontext()


def fuzz(check: Callable[[bytes], None], seeds: Sequence[bytes]) -> None:
    """Run a target with the arguments of libFuzzer. Writes the seeds to the first folder."""
    if _ATHERIS is None:
        sys.exit("Atheris is not installed: run `make fuzz`")
    paths = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if paths and not paths[0].is_file():
        paths[0].mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds):
            (paths[0] / f"seed-{number}").write_bytes(seed)
    _ATHERIS.Setup(sys.argv, check)
    _ATHERIS.Fuzz()
