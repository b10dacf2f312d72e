"""Measure what features since labels and selectors cost jobs that use none of them.

Run by `make bench-release`. The commit before labels, selectors and the directory of devices is
compared with this version, which also has start times, retries, events and webhooks: see
bench.comparison.
"""

from bench.comparison import (
    Comparison,
    Comparisons,
    Scale,
    compare,
    create_for_all,
    create_for_device,
    report,
    run,
    start_next,
)
from jobs_grpc.dev.embedded_postgres import Cluster
from tests.chaos.system import Code

COMMIT_BEFORE = "60bbff167"


async def _measure(cluster: Cluster, before: Code, scale: Scale) -> str:
    # In this order: reports end the executions that are started.
    comparisons: Comparisons = {
        "CreateJob, 1 device": Comparison(create_for_device, scale.calls, 1.35),
        f"CreateJob, {scale.created:,} devices": Comparison(
            create_for_all, scale.creations, 1.06, "ms"
        ),
        "StartNextExecution": Comparison(start_next, scale.calls, 1.15),
        "UpdateExecution, one report": Comparison(report, scale.calls, 1.15),
    }
    return await compare(cluster, before, comparisons, scale)


if __name__ == "__main__":
    run("release", __doc__, COMMIT_BEFORE, _measure)
