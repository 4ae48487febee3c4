"""The health of a pipeline as metrics: asked once for each collection, and never older than that."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_agentbus.telemetry.metrics import MetricsBridge


class Pipeline:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.emitted = 0

    def __call__(self) -> Mapping[str, Any]:
        self.asked += 1
        return {
            "events": {"emitted": self.emitted},
            "spans": {"open": self.emitted},
            "budget": {"used": {"b": self.emitted / 10}},
        }


def collected(reader: InMemoryMetricReader) -> dict[str, Any]:
    data: Any = reader.get_metrics_data()
    return {
        metric.name: next(iter(metric.data.data_points)).value
        for of_resource in data.resource_metrics
        for scope in of_resource.scope_metrics
        for metric in scope.metrics
        if metric.name in {"agentbus.events.emitted", "agentbus.spans.open", "agentbus.budget.used"}
    }


def all_say(emitted: int) -> dict[str, Any]:
    return {
        "agentbus.events.emitted": emitted,
        "agentbus.spans.open": emitted,
        "agentbus.budget.used": emitted / 10,
    }


def test_each_collection_asks_each_pipeline_once_and_is_never_told_what_the_last_one_was() -> None:
    reader, pipeline = InMemoryMetricReader(), Pipeline()
    provider = MeterProvider([reader])
    bridge = MetricsBridge(provider, health=pipeline)
    for number in range(1, 6):  # one right after the other
        pipeline.emitted = number
        before = pipeline.asked
        assert collected(reader) == all_say(number)
        assert pipeline.asked == before + 1
    bridge.close()
    pipeline.emitted = 99
    assert collected(reader)["agentbus.events.emitted"] == 5
    provider.shutdown()


def test_two_readers_at_once_both_see_what_is_true() -> None:
    readers, pipeline = [InMemoryMetricReader(), InMemoryMetricReader()], Pipeline()
    provider = MeterProvider(readers)
    MetricsBridge(provider, health=pipeline)
    wrong: list[Any] = []

    def read(reader: InMemoryMetricReader) -> None:
        for _ in range(50):
            least = pipeline.emitted
            found = collected(reader)["agentbus.events.emitted"]
            pipeline.emitted += 1
            if not least <= found <= pipeline.emitted + 1:
                wrong.append((least, found))

    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    provider.shutdown()
