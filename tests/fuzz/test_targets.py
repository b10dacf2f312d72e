"""The seeds of the fuzz targets hold their properties; `make fuzz` looks for other input."""

from types import ModuleType

import pytest

from tests.fuzz import fuzz_document, fuzz_page_token, fuzz_selector

TARGETS = (fuzz_document, fuzz_page_token, fuzz_selector)


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        pytest.param(target, seed, id=f"{target.__name__}-{number}")
        for target in TARGETS
        for number, seed in enumerate(target.SEEDS)
    ],
)
def test_seed_holds_the_property(target: ModuleType, seed: bytes) -> None:
    target.check(seed)
