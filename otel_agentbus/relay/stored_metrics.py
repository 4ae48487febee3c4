"""Exports what relay workers have counted: the sums in the store, as cumulative metrics of the services they are of.

The series live in the store, not in a worker: whoever exports says the same sums since the same beginning, so workers
come and go without a counter ever falling. One worker at a time has the turn; a last export is made by each that ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from opentelemetry.sdk.metrics import Counter
from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from .._version import __version__
from ..errors import ConfigurationError
from ..settings import Settings
from ..telemetry import instruments
from ..telemetry.senders.quiet import suppressed
from .series import Counters, Total, began, totals

if TYPE_CHECKING:
    from ..telemetry.export import CountingMetricExporter

_log = logging.getLogger("otel_agentbus.relay")

#: Seconds between two log lines about a store or an endpoint that does not answer.
QUIET: Final = 60.0
#: For how many intervals the turn stays with a worker of which nothing is heard.
PATIENCE: Final = 1.5
_SCOPE: Final = InstrumentationScope("otel_agentbus", __version__)
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class Shard(Protocol):
    """One part of a store: see `journal.redis.ShardLog`."""

    def counters(self) -> Counters:
        """What was counted there."""


class Store(Protocol):
    """Where the workers of a group keep their counters: see `journal.redis.RedisJournal`."""

    @property
    def shards(self) -> int:
        """How many parts there are."""

    def shard(self, number: int) -> Shard:
        """One of them."""

    def turn(self, what: str, worker: str, seconds: float) -> bool:
        """Whether it is this worker's turn to do this; it then is for so many seconds."""

    def now_ms(self) -> int:
        """The store's own time, which all workers share."""


class StoredMetrics:
    """Exports the counters of a group as the settings say, every interval and once at the end. Never raises later.

    `name` says whose counters these are, the same in all workers: it is the `service.instance.id` of the series, which
    keeps them apart from what the services' own processes may export.

    Raises:
        ConfigurationError: there is no endpoint for metrics, or it wants other than sums since the beginning.

    """

    def __init__(self, store: Store, settings: Settings, *, name: str, worker: str) -> None:
        from ..telemetry.export import metric_exporters

        if not settings.exports_metrics:
            raise ConfigurationError(
                "There is nowhere to send metrics to: set OTEL_EXPORTER_OTLP_ENDPOINT to the URL of your receiver."
            )
        self._exporters = metric_exporters(settings)
        for exporter in self._exporters:
            _check(exporter)
        self._store = store
        self._name = name
        self._worker = worker
        self._interval = settings.metric_interval_ms / 1000
        self._timeout_ms = settings.metric_timeout_ms
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._failed_last = False
        self._logged = -QUIET
        self._thread = threading.Thread(target=self._work, name="otel-agentbus-relay-metrics", daemon=True)
        #: How many exports were made, and how many of them failed: nothing is lost by one that did, the next says all.
        self.exports = 0
        self.failures = 0

    def start(self) -> None:
        """Begin to export in the background."""
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Export once more, now that everything is acknowledged, and end; whether all was delivered in time."""
        ends = time.monotonic() + timeout
        self._ending.set()
        last = threading.Thread(target=self._end, name="otel-agentbus-relay-metrics-end", daemon=True)
        last.start()
        last.join(timeout)
        done = not last.is_alive() and not self._failed_last
        for exporter in self._exporters:
            exporter.shutdown(timeout_millis=max(0.0, ends - time.monotonic()) * 1000)
        return done

    def export(self) -> bool:
        """Send what the store says now; whether every endpoint took it."""
        with self._lock:
            self.exports += 1
            try:
                with suppressed():
                    taken = self._export()
            except Exception:  # noqa: BLE001 - neither a store nor an endpoint that is away may end a worker
                taken = False
                self._complain("The counters could not be exported; the next export has them, too")
            self.failures += not taken
            self._failed_last = not taken
            return taken

    def _export(self) -> bool:
        at_ns = self._store.now_ms() * 1_000_000  # before they are read: no later sum is older
        stores = [self._store.shard(number).counters() for number in range(self._store.shards)]
        start_ns = began(stores)
        if start_ns is None:
            return True
        data = metrics_data(totals(stores), start_ns, max(at_ns, start_ns + 1), self._name)
        results = [exporter.export(data, timeout_millis=self._timeout_ms) for exporter in self._exporters]
        return all(result is MetricExportResult.SUCCESS for result in results)

    def _work(self) -> None:
        while not self._ending.wait(self._interval):
            if self._has_turn():
                self.export()

    def _end(self) -> None:
        self.export()
        self._has_turn(0.001)  # whoever is left goes on at once

    def _has_turn(self, seconds: float | None = None) -> bool:
        try:
            with suppressed():
                return self._store.turn("metrics", self._worker, seconds or max(1.0, self._interval) * PATIENCE)
        except OSError:
            self._complain("The store does not answer: no counters are exported meanwhile")
            return False

    def _complain(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._logged >= QUIET:
            self._logged = now
            _log.warning(sentence, exc_info=True)


def metrics_data(found: Iterable[Total], start_ns: int, at_ns: int, name: str) -> MetricsData:
    """These sums as OpenTelemetry's, under the resources that they are of."""
    return MetricsData([
        ResourceMetrics(
            Resource({**dict(resource), "service.instance.id": name}),
            [ScopeMetrics(_SCOPE, list(_metrics(of_resource, start_ns, at_ns)), "")],
            "",
        )
        for resource, of_resource in groupby(found, lambda total: total.name.resource)
    ])  # fmt: skip


def _metrics(found: Iterable[Total], start_ns: int, at_ns: int) -> Iterable[Metric]:
    for (metric, kind, unit, _), group in groupby(found, lambda total: total.name[1:5]):
        data: Sum | Histogram
        if kind == "histogram":
            data = Histogram([_histogram_point(total, start_ns, at_ns) for total in group], _CUMULATIVE)
        else:
            points = [NumberDataPoint(dict(total.name.attributes), start_ns, at_ns, total.sum) for total in group]
            data = Sum(points, _CUMULATIVE, is_monotonic=True)
        yield Metric(metric, _DESCRIPTIONS.get(metric), unit, data)


def _histogram_point(total: Total, start_ns: int, at_ns: int) -> HistogramDataPoint:
    counts, none = total.counts, cast("float", None)  # the extremes are not known; None leaves them out
    return HistogramDataPoint(
        attributes=dict(total.name.attributes),
        start_time_unix_nano=start_ns,
        time_unix_nano=at_ns,
        count=sum(counts),
        sum=total.sum,
        bucket_counts=counts,
        explicit_bounds=total.name.bounds,
        min=none,
        max=none,
    )


def _check(exporter: CountingMetricExporter) -> None:
    preferred: Mapping[type, AggregationTemporality] = exporter._preferred_temporality or {}
    if any(preferred.get(kind, _CUMULATIVE) is not _CUMULATIVE for kind in (Counter, HistogramInstrument)):
        raise ConfigurationError(
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE asks for delta, which relay --metrics cannot send: what "
            "a killed worker was sending would be lost or doubled. Leave it unset, and let the Collector convert: its "
            "processor cumulativetodelta does."
        )


def _described() -> Iterable[instruments.Metric]:
    for value in vars(instruments).values():
        values: Iterable[Any] = value.values() if isinstance(value, Mapping) else (value,)
        yield from (each for each in values if isinstance(each, instruments.Metric))


_DESCRIPTIONS: Final = {metric.name: metric.description for metric in _described()}
