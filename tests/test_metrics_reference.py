"""docs/metrics.md says what the table of instruments says, and the table what is emitted and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, MetricsData, Sum

import otel_agentbus as agentbus
from otel_agentbus import testing
from otel_agentbus.budgets import Budget
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
)
from otel_agentbus.relay.worker_metrics import RelayNumbers, watch
from otel_agentbus.telemetry import instruments, names
from otel_agentbus.telemetry.instruments import Metric
from otel_agentbus.telemetry.metrics import MetricsBridge
from otel_agentbus.telemetry.names import FLAVOURS, Flavour
from otel_agentbus.telemetry.usage import Usage

from .measured import TABLE
from .metrics_reference import FIXED, PAGE, REASONS, SECTIONS, SILENT, bounds, page, section_of


class Emitted(NamedTuple):
    """A metric as a reader reads it: what the table says of it, too, and the values of its attributes."""

    kind: str
    unit: str
    description: str
    buckets: tuple[float, ...]
    values: dict[str, set[str]]


def emitted(reader: InMemoryMetricReader) -> dict[str, Emitted]:
    data = reader.get_metrics_data()
    assert isinstance(data, MetricsData)
    return {
        metric.name: _emitted(metric)
        for rm in data.resource_metrics
        for sm in rm.scope_metrics
        for metric in sm.metrics
    }


def _emitted(metric: Any) -> Emitted:
    kind = "gauge"
    if isinstance(metric.data, Sum):
        kind = "counter" if metric.data.is_monotonic else "level"
    elif isinstance(metric.data, Histogram):
        kind = "histogram"
    buckets: set[tuple[float, ...]] = {
        tuple(getattr(point, "explicit_bounds", ())) for point in metric.data.data_points
    }
    assert len(buckets) == 1
    values: dict[str, set[str]] = {}
    for point in metric.data.data_points:
        for attribute, value in point.attributes.items():
            values.setdefault(attribute, set()).add(value)
    return Emitted(kind, metric.unit, metric.description, buckets.pop(), values)


def declared(metric: Metric) -> tuple[Any, ...]:
    return (metric.kind, metric.unit, metric.description, metric.buckets, set(metric.attributes))


class Listed:
    """A price list that knows one model, and one that is the user's own."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        return {"gpt": (1.0, "priced"), "own": (0.5, "override"), "new": (None, "unknown_model")}.get(
            event.model, (None, "unknown_provider")
        )

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        """Nothing to look up."""


PLACE: dict[str, Any] = {"agent": "planner", "invocation_id": "run", "root_invocation_id": "run"}
RUN: dict[str, Any] = {**PLACE, "model_provider": "openai", "model": "gpt"}


def call(call_id: str, model: str = "gpt", **fields: Any) -> LlmResponse:
    given: dict[str, Any] = {"input_tokens": 120, "output_tokens": 40, "duration": 1.5, "success": True}
    return LlmResponse(**(RUN | given | {"call_id": call_id, "model": model, "response_model": f"{model}-1"} | fields))


def asked(call_id: str, operation: str) -> LlmRequest:
    return LlmRequest(**RUN, call_id=call_id, messages_count=1, operation=operation)


PARTS: dict[str, Any] = {"cache_read_input_tokens": 30, "cache_write_input_tokens": 20, "reasoning_output_tokens": 8}

#: A stream in which every instrument has something to say.
STREAM: tuple[Event, ...] = (
    AgentStart(**RUN, time_ns=1),
    AgentStart(invocation_id="goes on", agent="planner"),
    call("reported", cost_usd=0.25, time_to_first_chunk=0.1, **PARTS),
    call("priced", time_ns=2),
    call("priced", time_ns=2),  # told again
    call("own", "own"),
    call("new", "new"),
    call("unknown", "nobody's", model_provider="nobody"),
    call("failed", success=False, error_type="RateLimitError", input_tokens=None, output_tokens=None),
    call("cancelled", success=False, outcome="cancelled"),
    call("interrupted", success=False, outcome="interrupted"),
    call("odd", outcome="whatever", input_tokens=-1),
    asked("embedded", "embeddings"),
    call("embedded", success=False, error_type="TimeoutError", time_to_first_chunk=0.1),
    CacheHit(cache_type="answers", tokens_saved=100, parent_call_id="llm:hit", **PLACE),
    call("hit"),
    ToolCall(tool="search", duration=0.5, success=True, agent="planner"),
    ToolCall(tool="search", duration=0.5, success=False, error_type="TimeoutError", agent="planner"),
    AgentEnd(**RUN, duration=1.0, tokens_used=7, cost_usd=0.01, error_type="ValueError", error_message="no"),
    CacheMiss(cache_type="answers"),
    Error(component="gateway", message="m"),
    ChannelMessage(channel="telegram", direction="inbound"),
    HeartbeatTick(),
    DeploymentStarted(deploy_id="1", time_ns=0),
    DeploymentCompleted(deploy_id="1", commit_sha="abc", time_ns=5),
    DeploymentStarted(deploy_id="2", time_ns=6),
    DeploymentFailed(deploy_id="2", reason="r", time_ns=7),
    RecoveryCompleted(deploy_id="2", time_ns=8),
    DeploymentStarted(deploy_id="3", time_ns=9),
    DeploymentFailed(deploy_id="4", reason="r", time_ns=9),
    DomainEvent(name="budget_threshold_hit", data={"budget": "daily", "threshold": 0.8}),
    *(Error(component=f"component {number}", message="m") for number in range(300)),
)

HEALTH: dict[str, Any] = {
    **dict.fromkeys((*instruments.HEALTH, "spans.open"), 1),
    "events": {"dropped": {"queue_full": 1, "invalid": 2}},
    "spans": {"dropped": {"spool_full": 3}},
    "budget": {"used": {"daily": 0.8}},
}
del HEALTH["events.dropped"], HEALTH["spans.dropped"]  # which have reasons


def speak(flavour: Flavour, *readers: InMemoryMetricReader) -> None:
    """Make every instrument of this flavour say something to these readers."""
    provider = MeterProvider(readers, shutdown_on_exit=False)
    bridge = MetricsBridge(
        provider, conventions=flavour, prices=Listed(), health=lambda: HEALTH, commit_times=lambda _sha: 0.0
    )
    watch(provider, "relay", lambda: RelayNumbers(1, 2, 3, 4, 5))
    for event in STREAM:
        bridge(event)
    assert bridge.settle(5.0)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


def test_the_page_is_renewed() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.metrics_reference"


def test_the_page_has_every_metric_once_and_every_attribute() -> None:
    text = PAGE.read_text("utf-8")
    assert [text.count(f"\n| `{metric.name}` |") for metric in TABLE] == [1] * len(TABLE)
    assert {section_of(metric) for metric in TABLE} == set(SECTIONS)
    attributes = {attribute for metric in TABLE for attribute in metric.attributes}
    assert [text.count(f"\n| `{attribute}` |") for attribute in attributes] == [1] * len(attributes)


def test_names_are_there_once_and_buckets_rise() -> None:
    assert len({metric.name for metric in TABLE}) == len(TABLE)
    for metric in TABLE:
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert bool(metric.buckets) == (metric.kind == "histogram")


def test_what_is_declared_is_emitted_and_nothing_else(flavour: Flavour) -> None:
    reader = InMemoryMetricReader()
    speak(flavour, reader)
    found = emitted(reader)
    assert {name: (*said[:4], set(said.values)) for name, said in found.items()} == {
        metric.name: declared(metric) for metric in TABLE if flavour in metric.flavours
    }


def test_fixed_values_are_those_of_the_page(flavour: Flavour) -> None:
    reader = InMemoryMetricReader()
    speak(flavour, reader)
    seen: dict[str, set[str]] = {}
    for said in emitted(reader).values():
        for attribute, values in said.values.items():
            seen.setdefault(attribute, set()).update(values)
    assert {attribute: seen.get(attribute, set()) - set(values) for attribute, values in FIXED.items()} == {
        attribute: set() for attribute in FIXED
    }
    assert {
        key: seen[key] for key in (names.OUTCOME, names.COST_SOURCE, names.TOKEN_TYPE, names.DEPLOYMENT_STATUS)
    } == {key: set(FIXED[key]) for key in (names.OUTCOME, names.COST_SOURCE, names.TOKEN_TYPE, names.DEPLOYMENT_STATUS)}
    assert all(len(values) <= bounds()[attribute] + 1 for attribute, values in seen.items())


def test_reasons_are_those_of_the_page() -> None:
    reader = InMemoryMetricReader()
    speak("1.41", reader)
    found = emitted(reader)
    with_reasons = {metric for metric in TABLE if names.REASON in metric.attributes}
    assert with_reasons == set(REASONS)
    for metric in with_reasons:
        assert found[metric.name].values[names.REASON] <= set(REASONS[metric])


def test_of_the_health_of_a_bus_all_is_told_but_what_the_page_says() -> None:
    budget = Budget("daily", tokens=100)
    with testing.capture(budgets=[budget]) as seen, agentbus.agent("planner") as run:
        with run.llm(provider="openai", model="gpt") as said:
            said.record(input_tokens=50, output_tokens=0)
        told = {key: seen.metric(metric.name) for key, metric in instruments.HEALTH.items()}
        used = seen.metric(instruments.BUDGET_USED.name)
        spans = seen.metric(instruments.SPANS_OPEN.name)
    assert {key for key, points in told.items() if not points} == set(SILENT)
    for key in ("events.dropped", "spans.dropped"):
        reasons = {dict(point)[names.REASON] for point in told[key]}
        assert reasons == set(REASONS[instruments.HEALTH[key]])
    assert (used, spans) == ({((names.BUDGET, "daily"),): 0.5}, {(): 1})
