"""An exemplar is there in every export until its bucket has another one; no longer where exports are deltas."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import TracerProvider

from otel_agentbus.telemetry import kept_exemplars
from otel_agentbus.telemetry.kept_exemplars import KeptExemplars


class Exported:
    """A histogram, and what is exported of it."""

    def __init__(self, temporality: AggregationTemporality = AggregationTemporality.CUMULATIVE) -> None:
        self._reader = InMemoryMetricReader(preferred_temporality={Histogram: temporality})
        meter = MeterProvider([self._reader], shutdown_on_exit=False).get_meter("test")
        self._histogram = meter.create_histogram("seconds", explicit_bucket_boundaries_advisory=[1.0, 10.0])
        self._counter = meter.create_counter("things")
        self._tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
        self._keep = KeptExemplars()

    def record(self, value: float, **attributes: str) -> int:
        """Measure in a span, whose id this gives."""
        with self._tracer.start_as_current_span("work") as span:
            self._histogram.record(value, attributes)
            self._counter.add(1)
        return span.get_span_context().span_id

    def export(self) -> dict[str, dict[float, int]]:
        """For each point the spans that its exemplars link to, by their values."""
        data = self._reader.get_metrics_data()
        if not isinstance(data, MetricsData):
            return {}
        kept = self._keep(data)
        assert without_exemplars(kept) == without_exemplars(data)
        points = [point for point in points_of(kept) if hasattr(point, "explicit_bounds")]
        return {
            " ".join(map(str, point.attributes.values())): {found.value: found.span_id for found in point.exemplars}
            for point in points
        }


def points_of(data: MetricsData) -> list[Any]:
    return [
        p for rm in data.resource_metrics for sm in rm.scope_metrics for m in sm.metrics for p in m.data.data_points
    ]


def without_exemplars(data: MetricsData) -> list[str]:
    return [str({key: value for key, value in vars(p).items() if key != "exemplars"}) for p in points_of(data)]


def test_an_exemplar_stays_until_its_bucket_has_another() -> None:
    exported = Exported()
    first, slow = exported.record(0.5), exported.record(60.0)
    assert exported.export() == {"": {0.5: first, 60.0: slow}}
    assert exported.export() == {"": {0.5: first, 60.0: slow}}
    second = exported.record(0.75)
    assert exported.export() == {"": {0.75: second, 60.0: slow}}
    on_the_bound = exported.record(1.0)  # which is the upper one of the first bucket
    assert exported.export() == {"": {1.0: on_the_bound, 60.0: slow}}


def test_points_keep_their_own() -> None:
    exported = Exported()
    one, other = exported.record(0.5, agent="one"), exported.record(0.5, agent="other")
    exported.export()
    again = exported.record(0.5, agent="one")
    assert again != one
    assert exported.export() == {"one": {0.5: again}, "other": {0.5: other}}


def test_a_delta_says_what_came_with_it() -> None:
    exported = Exported(AggregationTemporality.DELTA)
    first = exported.record(0.5)
    assert exported.export() == {"": {0.5: first}}
    second = exported.record(60.0)
    assert exported.export() == {"": {60.0: second}}


def test_the_points_of_which_exemplars_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_exemplars, "POINTS", 3)
    exported = Exported()
    for number in range(10):
        exported.record(0.5, agent=str(number))
        exported.export()
    kept = exported.export()
    assert len(kept) == 10
    assert 3 <= sum(bool(links) for links in kept.values()) <= 6
