"""Delta and cumulative say the same: the deltas of several collections add up to the sums."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData

import otel_agentbus as agentbus
from otel_agentbus import Settings
from otel_agentbus.events import Event, LlmResponse
from otel_agentbus.telemetry.metrics import MetricsBridge
from tests.receivers import HttpReceiver, forget_environment

from .measured import TABLE
from .test_metrics_reference import STREAM, Listed

#: What a metric says of an attribute set: numbers that add up (a value; or the number, the sum and the buckets).
Numbers = tuple[float, ...]
Points = dict[tuple[str, tuple[tuple[str, Any], ...]], Numbers]

DELTAS: dict[type, AggregationTemporality] = dict.fromkeys(
    (Counter, Histogram, ObservableCounter), AggregationTemporality.DELTA
)
KINDS = {metric.name: metric.kind for metric in TABLE}


def points(data: MetricsData | None) -> Points:
    if data is None:
        return {}
    return {
        (metric.name, tuple(sorted((point.attributes or {}).items()))): _numbers(point)
        for rm in data.resource_metrics
        for sm in rm.scope_metrics
        for metric in sm.metrics
        for point in metric.data.data_points
    }


def _numbers(point: Any) -> Numbers:
    return (point.count, point.sum, *point.bucket_counts) if hasattr(point, "bucket_counts") else (point.value,)


class Both:
    """One bridge that two readers read."""

    def __init__(self) -> None:
        self.cumulative = InMemoryMetricReader()
        self.delta = InMemoryMetricReader(preferred_temporality=DELTAS)
        provider = MeterProvider([self.cumulative, self.delta], shutdown_on_exit=False)
        self.emitted = 0
        self.bridge = MetricsBridge(
            provider,
            conventions="both",
            prices=Listed(),
            health=lambda: {"events.emitted": self.emitted, "events": {"dropped": {"queue_full": self.emitted // 3}}},
        )
        self.sums: Points = {}

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            self.emitted += 1
            self.bridge(event)

    def collect(self) -> Points:
        """Collect by both readers; what the one adds up to must be what the other says."""
        told = points(self.delta.get_metrics_data())
        for key, numbers in told.items():
            before = self.sums.get(key)
            if before is None or KINDS[key[0]] in {"level", "gauge"}:
                self.sums[key] = numbers
            else:
                self.sums[key] = tuple(a + b for a, b in zip(before, numbers, strict=True))
        summed = points(self.cumulative.get_metrics_data())
        assert {key: pytest.approx(numbers, abs=1e-9) for key, numbers in summed.items()} == self.sums
        return told


def test_the_deltas_of_several_collections_are_the_sums() -> None:
    both = Both()
    for start in range(0, len(STREAM), 5):
        both.feed(STREAM[start : start + 5])
        both.collect()
    both.feed(STREAM)
    both.collect()
    assert {KINDS[name] for name, _ in both.sums} == {"counter", "level", "histogram"}


def test_a_delta_in_which_nothing_happened_is_nothing() -> None:
    both = Both()
    both.feed(STREAM)
    both.collect()
    again = both.collect()
    moved = {name for (name, _), numbers in again.items() if any(numbers) and KINDS[name] != "level"}
    assert moved == set()


@settings(max_examples=60)
@given(st.lists(st.integers(0, len(STREAM) - 1), max_size=40), st.sets(st.integers(0, 40)))
def test_for_any_events_and_any_moments_of_collection_both_say_the_same(which: list[int], moments: set[int]) -> None:
    both = Both()
    for number, index in enumerate(which):
        both.feed([STREAM[index]])
        if number in moments:
            both.collect()
    both.collect()


# -- through our own pipeline -----------------------------------------------------------------------------------------

TEMPORALITIES = {"DELTA": AggregationTemporality.DELTA, "CUMULATIVE": AggregationTemporality.CUMULATIVE}


class Arrived(NamedTuple):
    """The sums and histograms that a receiver got, and how they were told."""

    exports: int
    temporality: dict[str, set[int]]
    values: dict[str, list[float]]


def arrived(receiver: HttpReceiver) -> Arrived:
    temporality: dict[str, set[int]] = {}
    values: dict[str, list[float]] = {}
    requests = receiver.of("/v1/metrics")
    for request in requests:
        for rm in request.message.resource_metrics:
            for metric in (metric for sm in rm.scope_metrics for metric in sm.metrics):
                data = getattr(metric, metric.WhichOneof("data"))
                if metric.WhichOneof("data") in {"sum", "histogram"}:
                    temporality.setdefault(metric.name, set()).add(data.aggregation_temporality)
                told = [
                    point.sum if metric.WhichOneof("data") == "histogram" else point.as_double or point.as_int
                    for point in data.data_points
                ]
                values.setdefault(metric.name, []).append(sum(told))
    return Arrived(len(requests), temporality, values)


@pytest.mark.parametrize("preference", ["DELTA", "CUMULATIVE"])
def test_the_standard_variable_chooses_for_our_own_pipeline(monkeypatch: pytest.MonkeyPatch, preference: str) -> None:
    forget_environment(monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", preference)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with agentbus.connect(settings=Settings()) as bus:
            for turn in range(3):
                for number in range(turn + 1):
                    bus.emit(
                        LlmResponse(
                            model_provider="p",
                            model="m",
                            duration=0.5,
                            success=True,
                            call_id=f"{turn} {number}",
                            input_tokens=10,
                            output_tokens=5,
                            cost_usd=0.25,
                        )
                    )
                assert bus.flush()
        found = arrived(receiver)
    each = {
        "agentbus.tokens.used": 15,
        "agentbus.cost.spent": 0.25,
        "gen_ai.client.operation.duration": 0.5,
        "agentbus.events.emitted": 1,
    }
    turns = [1, 2, 3] if preference == "DELTA" else [1, 3, 6]
    for name, amount in each.items():
        last = [0.0] if preference == "DELTA" else [6 * amount]
        assert found.values[name][:3] == [amount * turn for turn in turns], name
        assert set(found.values[name][3:]) <= set(last), name  # what is exported once more when the bus closes
        assert found.temporality[name] == {TEMPORALITIES[preference]}, name
    assert found.temporality["agentbus.spans.open"] == {AggregationTemporality.CUMULATIVE}
