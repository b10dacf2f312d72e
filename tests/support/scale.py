"""The size of long tests: small in `make test`, full in `make nightly`."""

import os

import pytest
from hypothesis import settings

SCALE = int(os.environ.get("JOBS_TEST_SCALE", "1"))
"""How many times larger the long tests are than in `make test`."""

FULL_SCALE = 20
"""SCALE in `make nightly`."""

only_nightly = pytest.mark.skipif(SCALE == 1, reason="only in make nightly")


def scaled(count: int, factor: int = 1) -> int:
    """Return `count` times SCALE, and at a larger SCALE than 1 also times `factor`."""
    return count if SCALE == 1 else count * SCALE * factor


def examples(count: int, factor: int = 1) -> settings:
    """Return hypothesis settings for so many examples: see scaled."""
    return settings(max_examples=scaled(count, factor))
