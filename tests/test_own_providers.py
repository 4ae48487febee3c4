"""The providers of our own: ids, batches, limits and samplers, as the variables say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler

from otel_agentbus import values
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry import providers
from otel_agentbus.telemetry.export import UnseededIds
from otel_agentbus.telemetry.processor import SpoolingBatchSpanProcessor
from otel_agentbus.telemetry.providers import Pipeline, build
from tests.receivers import forget_environment, shut_down


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@pytest.fixture
def built() -> Iterator[list[Pipeline]]:
    """Pipelines that are shut down after the test."""
    pipelines: list[Pipeline] = []
    yield pipelines
    for pipeline in pipelines:
        pipeline.cut()
        shut_down(pipeline)


def test_ids_do_not_depend_on_the_global_random_module(built: list[Pipeline]) -> None:
    pipeline = build(Settings(traces_exporter="console", metrics_exporter="none", sampler="always_off"))
    built.append(pipeline)
    assert pipeline.tracer_provider is not None
    tracer = pipeline.tracer_provider.get_tracer("test")
    seen = set()
    for _ in range(50):
        random.seed(0)
        context = tracer.start_span("same seed").get_span_context()
        seen.add((context.trace_id, context.span_id))
    assert len(seen) == 50
    assert UnseededIds().is_trace_id_random()


def test_the_processor_takes_what_the_variables_say(monkeypatch: pytest.MonkeyPatch, built: list[Pipeline]) -> None:
    made: list[dict[str, Any]] = []
    original = SpoolingBatchSpanProcessor.__init__

    def spy(self: SpoolingBatchSpanProcessor, exporter: Any, **options: Any) -> None:
        made.append({name: value for name, value in options.items() if name != "meter_provider"})
        original(self, exporter, **options)

    monkeypatch.setattr(SpoolingBatchSpanProcessor, "__init__", spy)
    monkeypatch.setenv("AGENTBUS_EXIT_TIMEOUT", "3")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "123")
    monkeypatch.setenv("OTEL_BSP_EXPORT_TIMEOUT", "456")
    built.append(build(Settings(traces_exporter="console", metrics_exporter="none")))
    assert made == [
        {
            "max_queue_size": 64,
            "max_export_batch_size": 64,  # the default of 512 would not fit into the queue
            "schedule_delay_millis": 123.0,
            "export_timeout_millis": 456.0,
            "exit_timeout": 3.0,
        }
    ]


def one_span(settings: Settings, built: list[Pipeline], **start: Any) -> Any:
    pipeline = build(settings)
    built.append(pipeline)
    assert pipeline.tracer_provider is not None
    return pipeline.tracer_provider.get_tracer("test").start_span("limited", **start)


def test_a_span_holds_a_thousand_events_and_the_limits_of_the_variables(built: list[Pipeline]) -> None:
    span = one_span(Settings(traces_exporter="console", metrics_exporter="none"), built)
    for number in range(1_100):
        span.add_event(str(number))
    assert len(span.events) == 1_000
    limited = one_span(
        Settings(
            traces_exporter="console",
            metrics_exporter="none",
            span_event_limit=2,
            attribute_limit=3,
            event_attribute_limit=1,
            attribute_length_limit=4,
            span_attribute_length_limit=6,
        ),
        built,
        attributes={str(number): "abcdefgh" for number in range(9)},
    )
    for number in range(5):
        limited.add_event(str(number), {"a": "abcdefgh", "b": "c"})
    assert dict(limited.attributes) == {"6": "abcdef", "7": "abcdef", "8": "abcdef"}
    assert [(event.name, dict(event.attributes)) for event in limited.events] == [("3", {"b": "c"}), ("4", {"b": "c"})]


def test_an_empty_limit_variable_means_the_default_and_not_no_limit(
    monkeypatch: pytest.MonkeyPatch, built: list[Pipeline]
) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "")
    attributes = {str(number): number for number in range(200)}
    span = one_span(Settings(traces_exporter="console", metrics_exporter="none"), built, attributes=attributes)
    assert len(span.attributes) == 128


def test_a_sampler_of_a_package_gets_the_argument_as_text(
    monkeypatch: pytest.MonkeyPatch, built: list[Pipeline]
) -> None:
    asked: list[str] = []

    def make(argument: str) -> Sampler:
        asked.append(argument)
        return ALWAYS_OFF

    found = [SimpleNamespace(load=lambda: make)]
    monkeypatch.setattr(values, "entry_points", lambda **_: found)
    monkeypatch.setattr(providers, "entry_points", lambda **_: found)
    settings = Settings(traces_exporter="console", metrics_exporter="none", sampler="mine", sampler_arg="7 a second")
    built.append(build(settings))
    assert isinstance(built[0].tracer_provider, TracerProvider)
    assert built[0].tracer_provider.sampler is ALWAYS_OFF
    assert asked == ["7 a second"]
    monkeypatch.setattr(providers, "entry_points", lambda **_: [])
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER is 'mine': that plug-in cannot be made"):
        build(settings)


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        ("always_on", None, "AlwaysOnSampler"),
        ("always_off", None, "AlwaysOffSampler"),
        ("traceidratio", "0.25", "TraceIdRatioBased{0.25}"),
        ("traceidratio", None, "TraceIdRatioBased{1.0}"),
        ("parentbased_always_on", None, "ParentBased{root:AlwaysOnSampler,"),
        ("parentbased_always_off", None, "ParentBased{root:AlwaysOffSampler,"),
        ("parentbased_traceidratio", "0", "ParentBased{root:TraceIdRatioBased{0.0},"),
    ],
)
def test_the_sampler_is_the_named_one(built: list[Pipeline], sampler: str, argument: str | None, expected: str) -> None:
    pipeline = build(
        Settings(traces_exporter="console", metrics_exporter="none", sampler=sampler, sampler_arg=argument)
    )
    built.append(pipeline)
    assert isinstance(pipeline.tracer_provider, TracerProvider)
    assert pipeline.tracer_provider.sampler.get_description().startswith(expected)
