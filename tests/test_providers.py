"""The providers that are found or built, and who owns them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.export import Delivery
from otel_agentbus.telemetry.providers import Pipeline, build
from tests.receivers import HttpReceiver, emit, flush, forget_environment, in_a_process_of_its_own, shut_down


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


def test_console_writes_to_standard_output_and_is_counted(
    capsys: pytest.CaptureFixture[str], built: list[Pipeline]
) -> None:
    pipeline = build(Settings(traces_exporter="console", metrics_exporter="console"))
    built.append(pipeline)
    emit(pipeline)
    assert flush(pipeline)
    out = capsys.readouterr().out
    assert '"name": "span 0"' in out
    assert '"name": "counted"' in out
    assert pipeline.deliveries == [Delivery("metrics", "console", "stdout", delivered=1)]
    account = pipeline.ways[0].account()
    assert [account[name] for name in ("exporter", "endpoint", "taken", "exported")] == ["console", "stdout", 1, 1]
    assert pipeline.endpoints == {}


def test_several_exporters_of_one_signal_all_get_it(capsys: pytest.CaptureFixture[str], built: list[Pipeline]) -> None:
    with HttpReceiver() as receiver:
        pipeline = build(Settings(endpoint=receiver.url, traces_exporter="otlp,console", metrics_exporter="none"))
        built.append(pipeline)
        emit(pipeline)
        assert flush(pipeline)
        assert [request.path for request in receiver.received] == ["/v1/traces"]
    assert '"name": "span 0"' in capsys.readouterr().out
    assert pipeline.meter_provider is None
    assert pipeline.description == {
        "traces": f"our own pipeline, otlp to {receiver.url}/v1/traces and console to stdout",
        "metrics": "not exported: OTEL_METRICS_EXPORTER is none",
    }


def test_without_variables_there_are_no_providers_and_no_threads() -> None:
    threads = threading.enumerate()
    pipeline = build(Settings())
    assert (pipeline.tracer_provider, pipeline.meter_provider) == (None, None)
    assert pipeline.description == {
        "traces": "not exported: neither OTEL_EXPORTER_OTLP_ENDPOINT nor OTEL_TRACES_EXPORTER is set",
        "metrics": "not exported: neither OTEL_EXPORTER_OTLP_ENDPOINT nor OTEL_METRICS_EXPORTER is set",
    }
    assert flush(pipeline, 1)
    shut_down(pipeline, 1)
    assert threading.enumerate() == threads


def test_a_disabled_sdk_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    pipeline = build(Settings(endpoint="http://localhost:1"))
    assert (pipeline.tracer_provider, pipeline.meter_provider, pipeline.ways) == (None, None, [])
    assert set(pipeline.description.values()) == {"off: OTEL_SDK_DISABLED is true"}


def test_an_exporter_that_only_others_can_build_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER names 'otlp_proto_grpc'"):
        build(Settings(traces_exporter="otlp_proto_grpc"))


def test_what_an_official_exporter_refuses_by_itself_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES", "NO_SUCH_CODE")
    with pytest.raises(
        ConfigurationError, match="the grpc exporter for metrics to localhost:1 cannot be made: KeyError"
    ):
        build(Settings(protocol="grpc", endpoint="localhost:1"))
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "no-such-plug-in")
    with pytest.raises(ConfigurationError, match="'no-such-plug-in' is not installed"):
        build(Settings(endpoint="http://localhost:1"))


def test_an_endpoint_that_does_not_fit_the_default_protocol_is_told_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT is localhost:4317: over HTTP write"):
        build(Settings())
    provider = TracerProvider(shutdown_on_exit=False)
    build(Settings(metrics_exporter="none"), tracer_provider=provider)


class Recording(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span.name)


def test_providers_given_as_arguments_win_and_nothing_is_added_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:1")
    recording = Recording()
    tracing, metering = (
        TracerProvider(shutdown_on_exit=False),
        MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
    )
    tracing.add_span_processor(recording)
    before = tracing._active_span_processor._span_processors
    pipeline = build(Settings(), tracer_provider=tracing, meter_provider=metering)
    emit(pipeline)
    assert tracing._active_span_processor._span_processors == before == (recording,)
    assert recording.ended == ["span 0"]
    assert (pipeline.tracer_provider, pipeline.meter_provider) == (tracing, metering)
    assert (pipeline.owns_traces, pipeline.owns_metrics, pipeline.ways) == (False, False, [])
    assert pipeline.description["traces"] == (
        "the application's own provider (opentelemetry.sdk.trace.TracerProvider), nothing added to it, "
        "as given to connect()"
    )
    shut_down(pipeline, 1)
    emit(pipeline)
    assert recording.ended == ["span 0", "span 0"]


def test_global_providers_of_the_application_are_used_and_left_alone() -> None:
    found = in_a_process_of_its_own(
        """
        import json
        from opentelemetry import trace, metrics
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from otel_agentbus.settings import Settings
        from otel_agentbus.telemetry.providers import build

        tracing, metering, kept = TracerProvider(), MeterProvider(), InMemorySpanExporter()
        tracing.add_span_processor(SimpleSpanProcessor(kept))
        trace.set_tracer_provider(tracing)
        metrics.set_meter_provider(metering)
        before = tracing._active_span_processor._span_processors
        pipeline = build(Settings())
        pipeline.tracer_provider.get_tracer("t").start_span("mine").end()
        pipeline.shut_down(1)
        print(json.dumps([
            pipeline.tracer_provider is tracing, pipeline.meter_provider is metering,
            pipeline.owns_traces, pipeline.owns_metrics, len(pipeline.ways),
            tracing._active_span_processor._span_processors == before,
            [span.name for span in kept.get_finished_spans()],
        ]))
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:1",
        AGENTBUS_SET_GLOBAL="1",
    )
    assert found == [True, True, False, False, 0, True, ["mine"]]


def test_looking_again_finds_providers_and_never_replaces_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = TracerProvider(shutdown_on_exit=False), TracerProvider(shutdown_on_exit=False)
    meters = MeterProvider(shutdown_on_exit=False)
    pipeline, disabled = build(Settings()), build(Settings(sdk_disabled=True))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: first)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: meters)
    assert [pipeline.resolve(), pipeline.resolve(), disabled.resolve()] == [True, False, False]
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: second)
    assert pipeline.resolve() is False
    assert (pipeline.tracer_provider, pipeline.meter_provider) == (first, meters)


def test_a_provider_that_cannot_be_hashed_is_used_like_any_other() -> None:
    """Logfire's is one."""
    found = in_a_process_of_its_own(
        """
        import json
        from dataclasses import dataclass
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        import otel_agentbus as agentbus

        @dataclass
        class Meters(metrics.MeterProvider):
            provider: MeterProvider

            def get_meter(self, *given, **named):
                return self.provider.get_meter(*given, **named)

        @dataclass
        class Proxy(trace.TracerProvider):
            provider: TracerProvider

            def get_tracer(self, *given, **named):
                return self.provider.get_tracer(*given, **named)

        trace.set_tracer_provider(Proxy(TracerProvider()))
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(Meters(MeterProvider([reader])))
        for _ in range(2):
            with agentbus.connect() as bus, agentbus.agent("planner") as run:
                valid = run.span.get_span_context().is_valid
        told = reader.get_metrics_data().to_json()
        print(json.dumps([valid, told.count('"agentbus.agent.runs"')]))
        """,
        AGENTBUS_SET_GLOBAL="1",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:1",
    )
    assert found == [True, 1]


def test_providers_that_the_application_sets_later_are_found_by_looking_again() -> None:
    found = in_a_process_of_its_own(
        """
        import json
        from opentelemetry import trace, metrics
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.metrics import MeterProvider
        from otel_agentbus.settings import Settings
        from otel_agentbus.telemetry.providers import build

        pipeline = build(Settings())
        before = [pipeline.resolve(), pipeline.tracer_provider, pipeline.meter_provider]
        trace.set_tracer_provider(TracerProvider())
        first = [pipeline.resolve(), pipeline.tracer_provider is trace.get_tracer_provider(), pipeline.meter_provider]
        metrics.set_meter_provider(MeterProvider())
        second = [pipeline.resolve(), pipeline.meter_provider is metrics.get_meter_provider(), pipeline.owns_metrics]
        print(json.dumps([before, first, second, pipeline.resolve(), pipeline.description["metrics"]]))
        """
    )
    assert found == [
        [False, None, None],
        [True, True, None],
        [True, True, False],
        False,
        "the application's own provider (opentelemetry.sdk.metrics._internal.MeterProvider), nothing added to it",
    ]


@pytest.mark.parametrize(
    ("environment", "argument", "is_global"),
    [
        ({}, "None", False),
        ({}, "True", True),
        ({"AGENTBUS_SET_GLOBAL": "1"}, "None", True),
        ({"AGENTBUS_SET_GLOBAL": "1"}, "False", False),
    ],
)
def test_providers_of_ours_become_global_only_if_asked(
    environment: dict[str, str], argument: str, is_global: bool
) -> None:
    found = in_a_process_of_its_own(
        f"""
        import json
        from opentelemetry import trace, metrics
        from otel_agentbus.settings import Settings
        from otel_agentbus.telemetry.providers import build

        pipeline = build(Settings(), set_global={argument})
        again = build(Settings(), set_global={argument})
        print(json.dumps([
            trace.get_tracer_provider() is pipeline.tracer_provider,
            metrics.get_meter_provider() is pipeline.meter_provider,
            [pipeline.owns_traces, pipeline.owns_metrics, again.owns_traces, again.owns_metrics],
        ]))
        """,
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
        **environment,
    )
    assert found == [is_global, is_global, [True, True, True, True]]


def test_finding_providers_creates_none() -> None:
    """The API's getter would make one where a variable names one; only the user's own variable may do that."""
    found = in_a_process_of_its_own(
        """
        import json
        from opentelemetry import trace, metrics
        from otel_agentbus.settings import Settings
        from otel_agentbus.telemetry.providers import build

        build(Settings(traces_exporter="console", metrics_exporter="none"))
        print(json.dumps([type(trace.get_tracer_provider()).__name__, type(metrics.get_meter_provider()).__name__]))
        """
    )
    assert found == ["ProxyTracerProvider", "_ProxyMeterProvider"]


def test_a_provider_that_cannot_be_loaded_does_no_harm() -> None:
    found = in_a_process_of_its_own(
        """
        import json
        from otel_agentbus.settings import Settings
        from otel_agentbus.telemetry.providers import build

        pipeline = build(Settings())
        print(json.dumps([pipeline.tracer_provider, pipeline.resolve()]))
        """,
        OTEL_PYTHON_TRACER_PROVIDER="no_such_provider",
    )
    assert found == [None, False]


def test_building_loads_only_the_exporters_that_are_asked_for() -> None:
    found = in_a_process_of_its_own(
        """
        import json, sys
        from otel_agentbus.settings import Settings
        from otel_agentbus.telemetry.providers import build

        def loaded():
            return sorted({name.split(".")[0] for name in sys.modules} & {"grpc", "requests"})

        before = loaded()
        build(Settings(endpoint="http://localhost:1", metrics_exporter="none"))
        http = loaded()
        build(Settings(endpoint="http://localhost:1", protocol="grpc", metrics_exporter="none"))
        print(json.dumps([before, http, loaded()]))
        """
    )
    assert found == [[], ["requests"], ["grpc", "requests"]]
