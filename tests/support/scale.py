"""The size of long tests: small in `make test`, full in `make nightly`."""

import os

from hypothesis import settings

SCALE = int(os.environ.get("JOBS_TEST_SCALE", "1"))
"""How many times larger the long tests are than in `make test`."""

FULL_SCALE = 20
"""SCALE in `make nightly`."""


def examples(count: int) -> settings:
    """Return hypothesis settings for `count` examples, times SCALE."""
    return settings(max_examples=count * SCALE)
