"""The workloads of `make bench`. Each module has `run(bench)`."""

from dataclasses import dataclass

from bench.figures import Measure, Results, Scale
from bench.peers import Peers


@dataclass(frozen=True)
class Bench:
    """The databases, the size of the run, and the figures."""

    env: Peers
    scale: Scale
    results: Results

    async def in_turn(
        self, workload: str, case: str, unit: str, *, runs: int | None = None, **subjects: Measure
    ) -> None:
        """Measure the subjects in turn, so that a drift affects all of them."""
        for _ in range(runs or self.scale.runs):
            for subject, measure in subjects.items():
                self.results.add(workload, case, subject, unit, await measure())
