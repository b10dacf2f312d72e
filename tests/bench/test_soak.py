"""The report of a soak."""

from argparse import Namespace

from bench.samples import Sample
from bench.soak import render

SIZE = Namespace(devices=40, interval=0.25, kept=3, pressure="", begin=1.0, end=2.0)


def minute(number: int, size: int) -> Sample:
    """What a minute showed, with one table of `size` MiB."""
    others = {"waiting": 0, "memory of the server, MiB": 60.0, "PostgreSQL, MiB": 80.0}
    others |= {"dead rows": 5.0, "vacuums": 2.0, "WAL, MiB": 16.0}
    others |= {"CPU, ms/cycle": 1.5, "pages/cycle": 160.0}
    latencies = {"CreateJob": [0.012, 0.012, 0.031]}
    return Sample(number, 22_500, 60, {"jobs": (size << 20, 1 << 20)}, latencies, others)


def test_report_has_a_row_for_each_minute_and_compares_the_last_with_the_third() -> None:
    text = "\n".join(render([minute(n, 10 + n) for n in range(4)], SIZE))

    assert "| 2 | 375 | 0 | 12/30.6 | – |" in text
    assert "| 2 | 12 | 1 | 5 | 2 | 60 | 80 | 16 | 1.5 | 160 |" in text
    assert "| table `jobs`, MiB | 12 | 13 | 1.08 |  |" in text


def test_report_names_the_pressure_instead_of_comparing_minutes() -> None:
    args = Namespace(**vars(SIZE) | {"pressure": "unread-slot"})

    text = "\n".join(render([minute(n, 10 + n) for n in range(4)], args))

    assert "Pressure: unread-slot, from minute 1 to minute 2." in text
    assert "ratio" not in text
