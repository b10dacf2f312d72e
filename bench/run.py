"""The command line of a benchmark: its options, and where its tables go.

A benchmark is a function that starts what it needs, loads and measures it, and returns its tables.
`run` parses the options, prints the tables, and with --page writes them to bench/results.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from bench.page import RESULTS, replace_figures


class InvalidRun(Exception):
    """A measurement does not count, such as because a response was not the expected one."""


@dataclass(frozen=True)
class Option:
    """An option of the command line. With --quick, it has the value of `quick`, if there is one.

    A tuple takes several values, and False takes none.
    """

    name: str
    default: Any
    help: str
    quick: Any = None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a parser."""
        name, default = f"--{self.name}", self.default
        if default is False:
            parser.add_argument(name, action="store_true", help=self.help)
        elif isinstance(default, tuple):
            kind = type(default[0]) if default else str
            parser.add_argument(name, nargs="+", type=kind, default=default, help=self.help)
        else:
            text = f"{self.help} [{default}]"
            parser.add_argument(name, type=type(default), default=default, help=text)


@dataclass(frozen=True)
class Report:
    """The tables of a run as Markdown, and why the run fails."""

    text: str
    problems: Sequence[str] = ()


Measure = Callable[[argparse.Namespace], Coroutine[Any, Any, str | Report]]


def run(name: str, doc: str | None, measure: Measure, *options: Option) -> None:
    """Run `bench.NAME` from the command line. `measure` gets the options. Exits on failure."""
    parser = argparse.ArgumentParser(
        prog=f"bench.{name}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    for option in options:
        option.add_to(parser)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: check that the benchmark works"
    )
    parser.add_argument(
        "--page", action="store_true", help=f"write the tables to bench/results/{name}.md"
    )
    args = parser.parse_args()
    if args.quick:
        vars(args).update({o.name: o.quick for o in options if o.quick is not None})
    try:
        measured = asyncio.run(measure(args))
    except InvalidRun as e:
        sys.exit(f"invalid run: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
    report = measured if isinstance(measured, Report) else Report(measured)
    print(f"\n{report.text}")
    if args.page:
        replace_figures(RESULTS / f"{name}.md", report.text)
    if report.problems:
        sys.exit("\n".join(report.problems))
