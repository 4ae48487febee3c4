"""What links a bucket to its trace stays with it until another measurement falls into that bucket.

The SDK exports an exemplar once. Where a page is scraped it is gone with the next export, and a program that ends
exports twice within a moment (a flush, then the shutdown), so that of a short run nobody would ever see one.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    ScopeMetrics,
)

from .recent import Recent

#: Of how many points of histograms the exemplars are kept.
POINTS = 2_000


class KeptExemplars:
    """Adds the exemplars of earlier exports to cumulative histograms, which still count what they are examples of."""

    def __init__(self) -> None:
        self._kept: Recent[tuple[object, ...], dict[int, Any]] = Recent(2 * POINTS)

    def __call__(self, data: MetricsData) -> MetricsData:
        """The same data, with the exemplars that each bucket has had last."""
        found = [
            replace(of_resource, scope_metrics=[self._scope(of_scope) for of_scope in of_resource.scope_metrics])
            for of_resource in data.resource_metrics
        ]
        return replace(data, resource_metrics=found)

    def _scope(self, of_scope: ScopeMetrics) -> ScopeMetrics:
        return replace(of_scope, metrics=[self._metric(of_scope.scope.name, metric) for metric in of_scope.metrics])

    def _metric(self, scope: str, metric: Metric) -> Metric:
        data = metric.data
        if not isinstance(data, Histogram) or data.aggregation_temporality is not AggregationTemporality.CUMULATIVE:
            return metric
        points = [self._point((scope, metric.name), point) for point in data.data_points]
        return replace(metric, data=replace(data, data_points=points))

    def _point(self, name: tuple[str, str], point: HistogramDataPoint) -> HistogramDataPoint:
        key = (*name, point.start_time_unix_nano, *sorted((point.attributes or {}).items()))
        bounds = point.explicit_bounds
        latest = {bisect_left(bounds, exemplar.value): exemplar for exemplar in point.exemplars}
        before = self._kept.get(key)
        if before:
            latest = before | latest
        if not latest:
            return point
        self._kept.put(key, latest)
        return replace(point, exemplars=list(latest.values()))
