"""Translates what the parts of the server count to Prometheus metrics, when they are scraped.

docs/reference/metrics.md lists the metrics. Importing this module needs the extra `metrics`.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

import grpc
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from jobs_grpc.auth.authenticator import Authenticator
from jobs_grpc.config import Config
from jobs_grpc.db.database import Database
from jobs_grpc.db.last_seen import LastSeen
from jobs_grpc.db.update_batcher import UpdateBatcher
from jobs_grpc.limits.memory_limit import MemoryLimit
from jobs_grpc.maintenance.sweeper import Sweeper
from jobs_grpc.observability.call_metrics import CallMetrics
from jobs_grpc.observability.histogram import Histogram
from jobs_grpc.services.device_jobs import DeviceJobService
from jobs_grpc.services.events import EventService
from jobs_grpc.services.fleet import FleetService
from jobs_grpc.services.jobs import JobService
from jobs_grpc.webhooks.dispatcher import Dispatcher

_METHOD_LABELS = ("grpc_type", "grpc_service", "grpc_method")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParts:
    """The parts of a server that count something."""

    config: Config
    calls: CallMetrics
    is_serving: Callable[[], bool]
    database: Database
    batcher: UpdateBatcher
    last_seen: LastSeen
    memory: MemoryLimit
    jobs: JobService
    fleet: FleetService
    device_jobs: DeviceJobService
    events: EventService
    authenticator: Authenticator
    sweeper: Sweeper | None
    dispatcher: Dispatcher | None
    event_loop_lag: Histogram


class ServerCollector(Collector):
    """Collects the metrics of one server process. Call it in the event loop of the server.

    A new part adds a function to `collect`. No label may have a value that callers choose.
    """

    def __init__(self, parts: ServerParts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, except those of the process."""
        parts = self._parts
        yield _build_info()
        yield _gauge(
            "jobs_serving",
            "1 if the health check reports SERVING, otherwise 0.",
            parts.is_serving(),
        )
        yield from _calls(parts.calls)
        yield from _database(parts.database, parts.config)
        yield from _updates(parts.batcher)
        yield from _last_seen(parts.last_seen)
        yield _finished_executions(parts)
        yield _watches(parts)
        yield from _buffered_bytes(parts.memory)
        yield from _maintenance(parts.sweeper)
        yield from _stopped_rollouts(parts.sweeper)
        yield from _scheduled_jobs(parts.sweeper)
        yield from _retrying_executions(parts.sweeper)
        yield from _webhooks(parts.dispatcher)
        yield from _jwks(parts.authenticator)
        yield _histogram(
            "jobs_event_loop_lag_seconds",
            "How late the event loop ran a timer, which it sets twice a second.",
            parts.event_loop_lag,
        )


def make_registry(parts: ServerParts) -> CollectorRegistry:
    """Return the metrics of a server process and of the process itself."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(parts))
    ProcessCollector(registry=registry)
    return registry


def merge_workers(
    metrics_by_worker: Mapping[int, Iterable[Metric] | None], restarts: Mapping[int, int]
) -> list[Metric]:
    """Return the metrics of all workers, with the label `worker`.

    Worker numbers start at 1. None instead of metrics: the worker did not answer.
    """
    up = GaugeMetricFamily(
        "jobs_worker_up", "1 if the worker answered this scrape, otherwise 0.", labels=["worker"]
    )
    restarted = CounterMetricFamily(
        "jobs_worker_restarts", "How often the worker ended and was replaced.", labels=["worker"]
    )
    merged: dict[str, Metric] = {}
    for number, metrics in sorted(metrics_by_worker.items()):
        worker = str(number)
        up.add_metric([worker], metrics is not None)
        restarted.add_metric([worker], restarts.get(number, 0))
        for metric in metrics or ():
            for sample in metric.samples:
                sample.labels["worker"] = worker
            if metric.name in merged:
                merged[metric.name].samples += metric.samples
            else:
                merged[metric.name] = metric
    return [up, restarted, *merged.values()]


def _build_info() -> Metric:
    info = GaugeMetricFamily(
        "jobs_build_info",
        "1, with the versions of this package and of Python.",
        labels=["version", "python"],
    )
    info.add_metric([version("jobs-grpc"), platform.python_version()], 1)
    return info


def _calls(calls: CallMetrics) -> Iterator[Metric]:
    started = CounterMetricFamily("grpc_server_started", "Calls started.", labels=_METHOD_LABELS)
    handled = CounterMetricFamily(
        "grpc_server_handled",
        "Calls ended, by status code.",
        labels=(*_METHOD_LABELS, "grpc_code"),
    )
    seconds = HistogramMetricFamily(
        "grpc_server_handling_seconds",
        "Time from the headers of a call to its end.",
        labels=_METHOD_LABELS,
    )
    received = CounterMetricFamily(
        "grpc_server_msg_received", "Request messages decoded.", labels=_METHOD_LABELS
    )
    sent = CounterMetricFamily(
        "grpc_server_msg_sent",
        "Response messages passed to gRPC for sending.",
        labels=_METHOD_LABELS,
    )
    for method in calls.methods:
        labels = (method.type, method.service, method.method)
        started.add_metric(labels, method.started)
        for code, count in method.handled.items():
            handled.add_metric((*labels, _code_name(code)), count)
        _add_histogram(seconds, labels, method.seconds)
        received.add_metric(labels, method.messages_received)
        sent.add_metric(labels, method.messages_sent)
    yield from (started, handled, seconds, received, sent)

    refused = CounterMetricFamily(
        "jobs_refused_calls",
        "Calls refused over a limit, by its setting; empty if it has none.",
        labels=["setting"],
    )
    for setting, count in calls.refused.items():
        refused.add_metric([setting], count)
    yield refused


def _database(database: Database, config: Config) -> Iterator[Metric]:
    yield _gauge(
        "jobs_database_up",
        "1 if the database responds, 0 during an outage and until the first check has passed.",
        database.pool is not None and not database.outage.active,
    )
    yield _counter(
        "jobs_database_outages",
        "Outages of the database that this process has noticed.",
        database.outage.count,
    )
    if database.statement_seconds is not None:
        yield _histogram(
            "jobs_database_statement_seconds",
            "Time of the SQL statements of calls, including the round trip.",
            database.statement_seconds,
        )
    pool = database.pool
    connections = GaugeMetricFamily(
        "jobs_database_connections", "Open connections of the pool.", labels=["state"]
    )
    connections.add_metric(["in_use"], pool.in_use if pool else 0)
    connections.add_metric(["idle"], pool.idle if pool else 0)
    yield connections
    yield _gauge(
        "jobs_database_connections_max",
        "Most connections that the pool opens (JOBS_POOL_MAX_SIZE).",
        config.pool.max_size,
    )
    yield _gauge(
        "jobs_database_waiting_calls",
        "Calls that wait for a connection.",
        pool.waiting if pool else 0,
    )
    if pool:
        yield _histogram(
            "jobs_database_connection_wait_seconds",
            "Time that calls waited for a connection. Others do not count.",
            pool.wait_seconds,
        )


def _updates(batcher: UpdateBatcher) -> Iterator[Metric]:
    yield _gauge(
        "jobs_updates_queued",
        "Starts and reports of devices that wait to be sent to the database.",
        batcher.queued,
    )
    yield _histogram(
        "jobs_update_batch_size",
        "Starts and reports in each batch that was sent to the database.",
        batcher.batch_sizes,
    )
    if batcher.wait_seconds is not None:
        yield _histogram(
            "jobs_update_wait_seconds",
            "Time from the arrival of a start or report to its result.",
            batcher.wait_seconds,
        )


def _last_seen(last_seen: LastSeen) -> Iterator[Metric]:
    yield _gauge(
        "jobs_last_seen_queued",
        "Devices whose last seen time waits to be stored.",
        last_seen.queued,
    )
    yield _counter(
        "jobs_last_seen_dropped",
        "Devices seen but not stored, because too many others waited.",
        last_seen.dropped,
    )


def _finished_executions(parts: ServerParts) -> Metric:
    metric = CounterMetricFamily(
        "jobs_executions_finished",
        "Executions that this process stored as finished, by status.",
        labels=["status"],
    )
    counts = Counter(parts.batcher.finished)
    counts.update(parts.jobs.finished)
    counts.update(parts.fleet.finished)
    counts.update(parts.sweeper.finished if parts.sweeper else {})
    for status, count in counts.items():
        metric.add_metric([status], count)
    return metric


def _watches(parts: ServerParts) -> Metric:
    watches = GaugeMetricFamily("jobs_watches", "Open watch streams.", labels=["grpc_method"])
    watches.add_metric(["WatchJob"], parts.jobs.watch.hub.open_watches)
    watches.add_metric(["WatchPendingExecutions"], parts.device_jobs.watch.hub.open_watches)
    watches.add_metric(["WatchEvents"], parts.events.streams.open_streams)
    return watches


def _buffered_bytes(memory: MemoryLimit) -> Iterator[Metric]:
    yield _gauge(
        "jobs_buffered_bytes",
        "Bytes that are reserved for requests and unread responses.",
        memory.held,
    )
    yield _gauge(
        "jobs_buffered_bytes_max",
        "Most bytes that are reserved (JOBS_MAX_BUFFERED_BYTES).",
        memory.capacity,
    )
    yield _gauge(
        "jobs_buffered_bytes_waiting",
        "Calls and messages of streams that wait for bytes.",
        memory.waiting,
    )


def _maintenance(sweeper: Sweeper | None) -> Iterator[Metric]:
    """Nothing if this process runs no maintenance. Each task of the sweeper is included."""
    if sweeper is None:
        return
    overdue = GaugeMetricFamily(
        "jobs_maintenance_overdue_seconds",
        "Seconds since the oldest unfinished work became due; 0 if none.",
        labels=["task"],
    )
    runs = CounterMetricFamily(
        "jobs_maintenance_runs", "Runs of the task that succeeded.", labels=["task"]
    )
    errors = CounterMetricFamily(
        "jobs_maintenance_errors",
        "Runs of the task that failed, and failures of single jobs.",
        labels=["task"],
    )
    for task in sweeper.tasks:
        overdue.add_metric([task.name], task.overdue_seconds())
        runs.add_metric([task.name], task.completed_runs)
        errors.add_metric([task.name], task.errors)
    yield from (overdue, runs, errors)
    if sweeper.joins:
        yield _counter(
            "jobs_joined_devices", "Devices that have joined continuous jobs.", sweeper.joins.joined
        )


def _stopped_rollouts(sweeper: Sweeper | None) -> Iterator[Metric]:
    """Nothing if this process runs no maintenance, or has not counted yet."""
    if sweeper is None or sweeper.stopped_rollouts is None:
        return
    counts = sweeper.stopped_rollouts
    paused = GaugeMetricFamily(
        "jobs_rollouts_paused", "Jobs that are paused, by the cause of the pause.", labels=["cause"]
    )
    for cause, count in counts.paused.items():
        paused.add_metric([cause], count)
    yield paused
    yield _gauge(
        "jobs_rollouts_awaiting_approval",
        "Jobs whose next stage, or start within a day, lacks only an approval.",
        counts.awaiting_approval,
    )
    yield _gauge(
        "jobs_rollouts_canceled_last_hour",
        "Jobs that a failure criterion canceled in the last hour.",
        counts.canceled,
    )


def _scheduled_jobs(sweeper: Sweeper | None) -> Iterator[Metric]:
    """Nothing if this process runs no maintenance, or has not counted yet."""
    if sweeper is not None and sweeper.scheduled_jobs is not None:
        yield _gauge("jobs_scheduled", "Jobs that have not started yet.", sweeper.scheduled_jobs)


def _retrying_executions(sweeper: Sweeper | None) -> Iterator[Metric]:
    """Nothing if this process runs no maintenance, or has not counted yet."""
    if sweeper is not None and sweeper.retrying_executions is not None:
        yield _gauge(
            "jobs_executions_retrying",
            "Executions that failed and whose next attempt has not started.",
            sweeper.retrying_executions,
        )


def _webhooks(dispatcher: Dispatcher | None) -> Iterator[Metric]:
    """Nothing if this process delivers no events to webhooks."""
    if dispatcher is None:
        return
    deliveries = CounterMetricFamily(
        "jobs_webhook_deliveries",
        "Deliveries to webhooks, by result.",
        labels=["result"],
    )
    for result, count in dispatcher.log.results.items():
        deliveries.add_metric([result], count)
    yield deliveries
    yield _histogram(
        "jobs_webhook_delivery_lag_seconds",
        "Age of the events at their delivery.",
        dispatcher.log.lag_seconds,
    )
    yield _gauge(
        "jobs_webhook_lag_seconds",
        "Age of the oldest event that waits for a proven webhook; 0 if none.",
        dispatcher.lag_seconds(),
    )
    if dispatcher.counts is None:
        return
    webhooks = GaugeMetricFamily("jobs_webhooks", "Webhooks by state.", labels=["state"])
    for state, count in asdict(dispatcher.counts).items():
        webhooks.add_metric([state], count)
    yield webhooks


def _jwks(authenticator: Authenticator) -> Iterator[Metric]:
    """Nothing without JOBS_AUTH=jwt."""
    keys = authenticator.keys
    if keys is None:
        return
    yield _gauge("jobs_jwks_keys", "Keys that verify tokens.", keys.key_count)
    if keys.age is not None:
        yield _gauge(
            "jobs_jwks_age_seconds",
            "Time since the last refresh of the keys that succeeded.",
            keys.age,
        )
    yield _counter(
        "jobs_jwks_refresh_failures", "Refreshes of the keys that failed.", keys.refresh_failures
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _histogram(name: str, documentation: str, histogram: Histogram) -> Metric:
    metric = HistogramMetricFamily(name, documentation, labels=())
    _add_histogram(metric, (), histogram)
    return metric


def _add_histogram(
    metric: HistogramMetricFamily, labels: Iterable[str], histogram: Histogram
) -> None:
    buckets = [
        ("+Inf" if bound == float("inf") else f"{bound:g}", float(count))
        for bound, count in histogram.cumulative()
    ]
    metric.add_metric(tuple(labels), buckets, histogram.total)


def _code_name(code: grpc.StatusCode) -> str:
    """The name of a status code in Go, as in the metrics of go-grpc-middleware."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return "".join(word.capitalize() for word in code.name.split("_"))
