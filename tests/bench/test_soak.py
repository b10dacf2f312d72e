"""The report of a soak."""

from argparse import Namespace

from bench.soak import Minute, render

SIZE = Namespace(devices=40, interval=0.25, kept=3)


def minute(number: int, size: int) -> Minute:
    """What a minute showed, with one table of `size` MiB."""
    table = {
        "bytes": size << 20,
        "index_bytes": 1 << 20,
        "live": 10,
        "dead": 5,
        "updated": 4,
        "hot": 1,
        "vacuums": 2,
        "analyzes": 1,
        "vacuuming": True,
    }
    return Minute(number, 375.0, 0, {"CreateJob": (12.0, 31.0)}, {"jobs": table}, 60.0, 80.0)


def test_report_has_a_row_for_each_minute_and_compares_the_tables() -> None:
    text = render([minute(1, 10), minute(2, 11)], {"python": "3.11"}, SIZE)

    assert "| 2 | 375 | 0 | 12/31 | – |" in text
    assert "| 2 | 11.0 | 1.0 | 5 | 2 +1 | 60.0 | 80.0 |" in text
    assert "| `jobs` | 10.0, 11.0 | 1.0, 1.0 | 5, 5 | 25% | 2, 1 |" in text
