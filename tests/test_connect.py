"""connect(): one bus in a process, over whatever providers there are, and nothing half done when it fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import otel_agentbus
from otel_agentbus import Bus, Settings, adapters, agent, connect, current, llm
from otel_agentbus.attachment import process
from otel_agentbus.blocks import installed
from otel_agentbus.errors import ConfigurationError, UnsupportedFramework
from otel_agentbus.events import Event, LlmRequest
from otel_agentbus.telemetry.providers import application_tracer_provider
from otel_agentbus.testing import wait_until

from .bridging import connected
from .receivers import HttpReceiver, forget_environment, in_a_process_of_its_own


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_environment(monkeypatch)
    assert process.bus is None, "the test before has left a bus behind"
    yield
    assert process.bus is None, "this test has left a bus behind"
    assert installed() is None


# One bus


def test_connecting_again_gives_the_same_bus_and_the_last_close_closes_it() -> None:
    bus = connect()
    assert connect() is bus
    with connect() as again:
        assert again is bus
    assert bus.close()
    with agent("a"):
        pass
    assert bus.health()["events"]["emitted"] == 2
    assert bus.close()
    with agent("a"):
        pass
    assert bus.health()["events"]["emitted"] == 2
    assert bus.close()


def test_the_same_arguments_give_the_same_bus_and_others_are_refused() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    with connect(tracer_provider=provider, validate=True) as bus:
        with connect(tracer_provider=provider, validate=True) as again:
            assert again is bus
        with connect() as again:
            assert again is bus
        others: list[dict[str, Any]] = [
            {"tracer_provider": provider},
            {"tracer_provider": TracerProvider(shutdown_on_exit=False), "validate": True},
            {"validate": False},
            {"settings": Settings()},
            {"set_global": True},
            {"redact": lambda name, value: value},
        ]
        for other in others:
            with pytest.raises(ConfigurationError, match="other arguments"):
                connect(**other)
    assert process.bus is None  # those that were refused have not counted


def test_arguments_after_none_at_all_are_refused() -> None:
    with connect(), pytest.raises(ConfigurationError, match="close the first bus"):
        connect(validate=True)


def test_names_of_frameworks_may_be_a_text_or_a_list() -> None:
    with connect(instrument="pydantic-ai") as bus:
        assert list(adapters.active()) == ["pydantic-ai"]
        with connect(instrument=["pydantic-ai"]) as again:
            assert again is bus
    assert not adapters.active()


def test_connecting_after_a_close_makes_a_new_bus_with_the_arguments_of_now() -> None:
    with connect() as first:
        pass
    with connect(validate=True) as second:
        assert second is not first
        assert second.source != first.source
        assert second.settings.validate_events
        with agent("a"):
            pass
        assert second.health()["events"]["emitted"] == 2
    assert first.health()["events"]["emitted"] == 0


def test_a_closed_bus_is_closed_by_its_context_even_when_the_program_fails() -> None:
    with pytest.raises(ValueError, match="boom"), connect():
        raise ValueError("boom")
    assert process.bus is None


def test_threads_that_connect_and_close_at_the_same_time_share_living_buses_only() -> None:
    wrong: list[object] = []
    barrier = threading.Barrier(4)

    def connect_and_close() -> None:
        barrier.wait()
        for _ in range(50):
            with connect() as bus:
                heard: list[Event] = []
                with bus.subscribe(heard.append):
                    bus.publish("here")
                if not heard:
                    wrong.append(bus)

    threads = [threading.Thread(target=connect_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_block_that_is_open_when_its_bus_closes_ends_without_harm() -> None:
    with connected() as seen:
        block = agent("a").start()
        inner = llm("m").start()
    inner.record(input_tokens=3)
    inner.end()
    block.end(ValueError("late"))
    assert current() is None
    assert not trace.get_current_span().get_span_context().is_valid
    outcomes = [(span.name, (span.attributes or {})["agentbus.outcome"]) for span in seen.exporter.get_finished_spans()]
    assert outcomes == [("chat m", "interrupted"), ("invoke_agent a", "interrupted")]


def test_a_block_of_one_bus_is_nothing_to_the_next() -> None:
    with connected():
        block = agent("old").start()
    with connected() as seen:
        with agent("new"):
            pass
        block.end()
        assert [span.name for span in seen.spans] == ["invoke_agent new"]


def test_buses_that_come_and_go_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    gone: list[weakref.ref[object]] = []
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        for _ in range(5):
            bus = connect()
            bus.subscribe(lambda event: None, deliver="thread")
            with agent("a") as run, run.llm("m"):
                pass
            assert bus.close(10)
            gone += [weakref.ref(bus), weakref.ref(bus._outlet.pipeline.tracer_provider)]
            del bus, run
    assert wait_until(lambda: threading.active_count() <= before)
    assert wait_until(lambda: gc.collect() >= 0 and [found for found in gone if found()] == [])


# What goes wrong


def test_an_unknown_framework_leaves_no_bus_behind() -> None:
    before = set(threading.enumerate())  # of an earlier test's bus one may still be ending
    with pytest.raises(UnsupportedFramework, match="no adapter named 'nothing'"):
        connect(instrument="nothing")
    assert process.bus is None
    assert installed() is None
    assert set(threading.enumerate()) <= before
    with connect() as bus:
        assert bus.settings.instrument == ()


def test_of_several_frameworks_none_is_left_on_when_one_is_unknown() -> None:
    with pytest.raises(UnsupportedFramework):
        connect(instrument=["pydantic-ai", "nothing"])
    assert not adapters.active()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_EXPORTER", "fax"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("AGENTBUS_CONVENTIONS", "1.0"),
        ("AGENTBUS_QUEUE_SIZE", "-1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "no/such/file.pem"),
    ],
)
def test_wrong_settings_leave_no_bus_behind(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        connect(instrument="pydantic-ai")
    assert value in str(caught.value)
    assert process.bus is None
    assert not adapters.active()
    monkeypatch.delenv(variable)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    connect().close()


# Nothing, or off


def test_with_nothing_configured_nothing_is_exported_and_health_says_so() -> None:
    before = set(threading.enumerate())
    with connect() as bus:
        with agent("a") as run, run.llm("m"):
            pass
        assert bus.flush()
        health = bus.health()
        threads = sorted(thread.name for thread in set(threading.enumerate()) - before)
    assert threads == ["otel-agentbus-pump"]
    assert health["traces"].startswith("not exported: neither OTEL_EXPORTER_OTLP_ENDPOINT nor OTEL_TRACES_EXPORTER")
    assert health["metrics"].startswith("not exported: neither OTEL_EXPORTER_OTLP_ENDPOINT nor OTEL_METRICS_EXPORTER")
    assert health["endpoints"] == {}
    assert health["events"]["emitted"] == 4
    assert health["events"]["queued"] == 0
    assert health["spans"]["exported"] == 0
    assert wait_until(lambda: not set(threading.enumerate()) - before)


def test_a_disabled_sdk_is_obeyed_and_handlers_go_on_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    before = set(threading.enumerate())
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        before |= set(threading.enumerate())
        heard: list[str] = []
        with connect() as bus:
            bus.on()(lambda event: heard.append(event.kind))
            with agent("a") as run, run.llm("m") as call:
                assert call.span is None
                assert not trace.get_current_span().get_span_context().is_valid
            assert bus.flush()
            health = bus.health()
            assert not {thread for thread in set(threading.enumerate()) - before if "agentbus" in thread.name}
        assert receiver.received == []
    assert heard == ["agent.start", "llm.request", "llm.response", "agent.end"]
    assert health["traces"] == health["metrics"] == "off: OTEL_SDK_DISABLED is true"
    assert set(health["balance"].values()) == {0}


def test_a_disabled_sdk_leaves_given_providers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with connected() as seen:
        with agent("a"):
            pass
        assert seen.spans == ()


# The application's own providers


GLOBALS = """
import json
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import otel_agentbus
from otel_agentbus.events import LlmResponse

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider, meters = TracerProvider(), MeterProvider([reader])
provider.add_span_processor(SimpleSpanProcessor(exporter))

def metric_names():
    data = reader.get_metrics_data()
    found = [m.name for r in (data.resource_metrics if data else ()) for s in r.scope_metrics for m in s.metrics]
    return sorted(name for name in found if name in ("agentbus.llm.calls", "agentbus.agent.runs"))

def run():
    with otel_agentbus.agent("a") as run, run.llm("m"):
        pass

def report(**more):
    processors = provider._active_span_processor._span_processors
    provider.get_tracer("app").start_span("still alive").end()
    print(json.dumps({
        "spans": [span.name for span in exporter.get_finished_spans()], "metrics": metric_names(),
        "processors": [type(processor).__name__ for processor in processors], **more,
    }))
"""
ALL = {
    "spans": ["chat m", "invoke_agent a", "still alive"],
    "metrics": ["agentbus.agent.runs", "agentbus.llm.calls"],
    "processors": ["SimpleSpanProcessor"],
}


@pytest.mark.parametrize("order", ["before", "after", "metrics much later", "traces much later", "just before the end"])
def test_the_applications_global_providers_are_used_whenever_they_were_set(order: str) -> None:
    """Nothing is added to them, and they are neither flushed nor shut down by us."""
    steps = {
        "before": """
trace.set_tracer_provider(provider)
metrics.set_meter_provider(meters)
bus = otel_agentbus.connect()
run()
""",
        "after": """
bus = otel_agentbus.connect()
trace.set_tracer_provider(provider)
metrics.set_meter_provider(meters)
run()
""",
        "metrics much later": """
trace.set_tracer_provider(provider)
bus = otel_agentbus.connect()
run()
bus.flush()
exporter.clear()
metrics.set_meter_provider(meters)
run()
""",
        "traces much later": """
metrics.set_meter_provider(meters)
bus = otel_agentbus.connect()
run()
bus.flush()
trace.set_tracer_provider(provider)
run()
""",
        "just before the end": """
bus = otel_agentbus.connect()
trace.set_tracer_provider(provider)
metrics.set_meter_provider(meters)
bus.emit(LlmResponse(model_provider="p", model="m", duration=0.1, success=True, call_id="c"))
bus.emit(LlmResponse(model_provider="p", model="m", duration=0.1, success=True, call_id="c"))
""",
    }
    found = in_a_process_of_its_own(GLOBALS + steps[order] + "\nbus.close()\nreport()")
    if order == "just before the end":
        assert found == {
            "spans": ["chat m", "still alive"],
            "metrics": ["agentbus.llm.calls"],
            "processors": ["SimpleSpanProcessor"],
        }
    else:
        assert found == ALL


def test_given_providers_go_before_the_global_ones() -> None:
    code = """
other = TracerProvider()
trace.set_tracer_provider(other)
metrics.set_meter_provider(MeterProvider())
bus = otel_agentbus.connect(tracer_provider=provider, meter_provider=meters)
run()
bus.close()
report()
"""
    assert in_a_process_of_its_own(GLOBALS + code) == ALL


def test_health_says_whose_the_providers_are() -> None:
    code = """
trace.set_tracer_provider(provider)
bus = otel_agentbus.connect(meter_provider=meters)
run()
health = bus.health()
bus.close()
report(health=[health["traces"], health["metrics"]])
"""
    own = "the application's own provider ({}), nothing added to it"
    assert in_a_process_of_its_own(GLOBALS + code)["health"] == [
        own.format("opentelemetry.sdk.trace.TracerProvider"),
        own.format("opentelemetry.sdk.metrics._internal.MeterProvider") + ", as given to connect()",
    ]


@pytest.mark.parametrize("asked", ["argument", "environment", "not at all"])
def test_our_own_providers_become_global_only_when_asked(asked: str) -> None:
    code = """
import json, os
from opentelemetry import metrics, trace
import otel_agentbus
bus = otel_agentbus.connect(ARGUMENT)
print(json.dumps([type(trace.get_tracer_provider()).__module__, type(metrics.get_meter_provider()).__module__]))
""".replace("ARGUMENT", "set_global=True" if asked == "argument" else "")
    with HttpReceiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        if asked == "environment":
            environment["AGENTBUS_SET_GLOBAL"] = "1"
        found = in_a_process_of_its_own(code, **environment)
    sdk = ["opentelemetry.sdk.trace", "opentelemetry.sdk.metrics._internal"]
    api = ["opentelemetry.trace", "opentelemetry.metrics._internal"]
    assert found == (api if asked == "not at all" else sdk)


def test_no_global_state_is_changed_by_connecting() -> None:
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    with connect(
        tracer_provider=TracerProvider(shutdown_on_exit=False), meter_provider=MeterProvider(shutdown_on_exit=False)
    ):
        with agent("a"):
            pass
        assert trace.get_tracer_provider() is tracers
        assert metrics.get_meter_provider() is meters
        assert application_tracer_provider() is None


# Our own


def test_spans_and_metrics_go_to_the_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-agents")
        with connect() as bus:
            with agent("a") as run, run.llm("m") as call:
                call.record(input_tokens=3)
            assert bus.flush()
            spans = [
                (service(of_resource), span.name)
                for request in receiver.of("/v1/traces")
                for of_resource in request.message.resource_spans
                for of_scope in of_resource.scope_spans
                for span in of_scope.spans
            ]
            names = {
                metric.name
                for request in receiver.of("/v1/metrics")
                for of_resource in request.message.resource_metrics
                for of_scope in of_resource.scope_metrics
                for metric in of_scope.metrics
            }
            health = bus.health()
    assert spans == [("my-agents", "chat m"), ("my-agents", "invoke_agent a")]
    assert {"agentbus.tokens.used", "gen_ai.client.token.usage"} <= names
    assert health["spans"]["exported"] == 2
    assert health["endpoints"] == {"traces": f"{receiver.url}/v1/traces", "metrics": f"{receiver.url}/v1/metrics"}


def service(of_resource: Any) -> str:
    (found,) = (pair.value.string_value for pair in of_resource.resource.attributes if pair.key == "service.name")
    assert isinstance(found, str)
    return found


def test_the_sampler_of_the_environment_decides_for_whole_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
        with connect() as bus:
            for _ in range(100):
                with agent("a") as run, run.llm("m"):
                    pass
            assert bus.flush()
        traces: dict[bytes, int] = {}
        for request in receiver.of("/v1/traces"):
            for span in request.message.resource_spans[0].scope_spans[0].spans:
                traces[span.trace_id] = traces.get(span.trace_id, 0) + 1
    assert set(traces.values()) == {2}
    assert 25 <= len(traces) <= 75


def test_the_bus_has_the_settings_it_was_made_with() -> None:
    settings = Settings(validate_events=True)
    with connect(settings=settings) as bus:
        assert bus.settings is settings
        bus.emit(LlmRequest(model_provider="p", model="m", messages_count="many"))  # type: ignore[arg-type]  # invalid
        assert bus.health()["events"]["dropped"]["invalid"] == 1


def test_a_bus_that_was_made_is_a_bus() -> None:
    with connect() as bus:
        assert isinstance(bus, Bus)
        assert otel_agentbus.Bus is Bus
