"""What is counted, measured and observed of agents, and that the number of series stays bounded whatever comes."""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData

from otel_agentbus.errors import ConfigurationError
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
    ToolCallStart,
    TurnComplete,
)
from otel_agentbus.telemetry import run_metrics
from otel_agentbus.telemetry.metrics import MetricsBridge
from otel_agentbus.telemetry.names import Flavour
from otel_agentbus.telemetry.usage import Usage

SECOND = 1_000_000_000

#: A metric's points: what is counted or summed, under the attributes written as `key=value` and sorted.
Points = dict[str, Any]

#: How the attributes are written here.
SHORT = {
    "gen_ai.operation.name": "op",
    "gen_ai.provider.name": "provider",
    "gen_ai.request.model": "model",
    "gen_ai.response.model": "served",
    "gen_ai.agent.name": "agent",
    "gen_ai.tool.name": "tool",
    "gen_ai.token.type": "token",
    "gen_ai.token.modality": "modality",
    "error.type": "error",
    "deployment.status": "status",
    "agentbus.outcome": "outcome",
    "agentbus.reason": "reason",
    "agentbus.component": "component",
    "agentbus.channel": "channel",
    "agentbus.channel.direction": "direction",
    "agentbus.cache.type": "cache",
    "agentbus.cost.source": "source",
}


class Meter:
    """A provider, its reader, and what the reader reads as plain values."""

    def __init__(self, **options: Any) -> None:
        self.reader = InMemoryMetricReader(**options)
        self.provider = MeterProvider([self.reader])

    def bridge(self, conventions: Flavour = "1.41", **options: Any) -> MetricsBridge:
        return MetricsBridge(self.provider, conventions=conventions, **options)

    def read(self) -> dict[str, Points]:
        """For counters the value, for histograms the number of measurements and their sum."""
        return {metric.name: _points(metric) for metric in self._metrics()}

    def series(self) -> dict[str, int]:
        return {metric.name: len(metric.data.data_points) for metric in self._metrics()}

    def described(self) -> dict[str, tuple[str, str, Any]]:
        found = {}
        for metric in self._metrics():
            bounds = [
                list(point.explicit_bounds) for point in metric.data.data_points if hasattr(point, "explicit_bounds")
            ]
            found[metric.name] = (type(metric.data).__name__, metric.unit, bounds[0] if bounds else None)
        return found

    def _metrics(self) -> list[Any]:
        data = self.reader.get_metrics_data()
        if not isinstance(data, MetricsData):
            return []
        return [metric for rm in data.resource_metrics for sm in rm.scope_metrics for metric in sm.metrics]


def _points(metric: Any) -> Points:
    found = {}
    for point in metric.data.data_points:
        key = " ".join(sorted(f"{SHORT[key]}={value}" for key, value in point.attributes.items()))
        value = (point.count, round(point.sum, 9)) if hasattr(point, "sum") else point.value
        found[key] = round(value, 9) if isinstance(value, float) else value
    return found


def response(**fields: Any) -> LlmResponse:
    given: dict[str, Any] = {"model_provider": "openai", "model": "gpt", "duration": 1.5, "success": True}
    return LlmResponse(**(given | fields))


class OneDollar:
    """A price list in which every call costs a dollar."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        return 1.0, "priced"

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        """Nothing to look up."""


@pytest.fixture
def meter() -> Meter:
    return Meter()


def lacks_price(call: LlmResponse) -> bool:
    untold = call.input_tokens is None and call.output_tokens is None
    return call.cost_usd is None and not (untold and call.outcome == "error")


# -- model calls ------------------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "agent": "planner",
    "response_model": "gpt-2026",
    "input_tokens": 120,
    "output_tokens": 40,
    "cache_read_input_tokens": 30,
    "cache_write_input_tokens": 20,
    "reasoning_output_tokens": 8,
    "time_to_first_chunk": 0.25,
    "cost_usd": 0.5,
}
SERVED = "model=gpt op=chat provider=openai served=gpt-2026"
SPENDER = "agent=planner model=gpt"

OURS: dict[str, Points] = {
    "agentbus.llm.calls": {f"{SPENDER} outcome=ok provider=openai": 2},
    "agentbus.tokens.used": {
        f"{SPENDER} provider=openai token=input": 240,
        f"{SPENDER} provider=openai token=output": 80,
        f"{SPENDER} provider=openai token=cache_read": 60,
        f"{SPENDER} provider=openai token=cache_write": 40,
        f"{SPENDER} provider=openai token=reasoning": 16,
    },
    "agentbus.cost.spent": {f"{SPENDER} provider=openai source=reported": 1.0},
}
OLD: dict[str, Points] = {
    "gen_ai.client.token.usage": {f"{SERVED} token=input": (2, 240), f"{SERVED} token=output": (2, 80)},
    "gen_ai.client.operation.duration": {SERVED: (2, 3.0)},
    "gen_ai.client.operation.time_to_first_chunk": {SERVED: (2, 0.5)},
}
MODAL = "modality=unknown model=gpt op=chat provider=openai served=gpt-2026"
NEW: dict[str, Points] = {
    "gen_ai.client.inference.operation.input_tokens": {SERVED: (2, 240)},
    "gen_ai.client.inference.operation.output_tokens": {SERVED: (2, 80)},
    "gen_ai.client.inference.duration": {SERVED: (2, 3.0)},
    "gen_ai.client.inference.time_to_first_chunk": {SERVED: (2, 0.5)},
    "gen_ai.client.inference.usage.input_tokens": {MODAL: 240},
    "gen_ai.client.inference.usage.output_tokens": {MODAL: 80},
    "gen_ai.client.inference.usage.cache_read.input_tokens": {MODAL: 60},
    "gen_ai.client.inference.usage.cache_write.input_tokens": {MODAL: 40},
    "gen_ai.client.inference.usage.reasoning.output_tokens": {MODAL: 16},
}


@pytest.mark.parametrize(("flavour", "standard"), [("1.41", OLD), ("2026-10", NEW), ("both", OLD | NEW)])
def test_a_model_call_is_measured_under_the_names_of_its_flavour_and_counted_under_ours(
    meter: Meter, flavour: Flavour, standard: dict[str, Points]
) -> None:
    bridge = meter.bridge(flavour)
    bridge(response(**FULL))
    bridge(response(**FULL))
    assert meter.read() == standard | OURS


def test_calls_that_failed_or_were_cancelled_are_told_apart(meter: Meter) -> None:
    bridge = meter.bridge()
    bridge(response(success=False, error_type="RateLimitError"))
    bridge(response(success=False, error_type="the prompt 'hello' is bad"))
    bridge(response(success=False, outcome="cancelled"))
    bridge(response(success=True, outcome="whatever"))
    assert meter.read() == {
        "gen_ai.client.operation.duration": {
            "error=RateLimitError model=gpt op=chat provider=openai": (1, 1.5),
            "error=_OTHER model=gpt op=chat provider=openai": (1, 1.5),
            "model=gpt op=chat provider=openai": (2, 3.0),
        },
        "agentbus.llm.calls": {
            "model=gpt outcome=error provider=openai": 2,
            "model=gpt outcome=cancelled provider=openai": 1,
            "model=gpt outcome=other provider=openai": 1,
        },
        "agentbus.cost.unpriced_calls": {"model=gpt provider=openai reason=no_usage": 2},  # failed ones used nothing
    }


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cost_usd": 0.0}, {"agentbus.cost.spent": {"model=gpt provider=openai source=reported": 0.0}}),
        (
            {"input_tokens": 3},
            {"agentbus.cost.unpriced_calls": {"model=gpt provider=openai reason=no_price_source": 1}},
        ),
        ({}, {"agentbus.cost.unpriced_calls": {"model=gpt provider=openai reason=no_usage": 1}}),
        ({"input_tokens": -1}, {"agentbus.cost.unpriced_calls": {"model=gpt provider=openai reason=invalid_usage": 1}}),
        ({"cost_usd": -1.0}, {"agentbus.cost.unpriced_calls": {"model=gpt provider=openai reason=invalid_usage": 1}}),
    ],
)
def test_a_call_without_a_known_cost_is_counted_with_the_reason_and_never_as_free(
    meter: Meter, fields: dict[str, Any], told: dict[str, Points]
) -> None:
    meter.bridge()(response(**fields))
    assert {name: points for name, points in meter.read().items() if ".cost." in name} == told


def test_a_response_is_of_the_operation_that_its_request_said(meter: Meter) -> None:
    bridge = meter.bridge("both")

    def ask(operation: str, **fields: Any) -> None:
        bridge(LlmRequest(model_provider="openai", model="gpt", messages_count=1, operation=operation, **fields))

    ask("embeddings", invocation_id="i", call_id="c1")
    ask("chat", invocation_id="i", call_id="c2")
    bridge(response(invocation_id="i", call_id="c2", duration=1.0))
    bridge(response(invocation_id="i", call_id="c1", duration=2.0, input_tokens=7))
    ask("embeddings", invocation_id="j")  # no call id, and no response: the next request takes its place
    ask("chat", invocation_id="j")
    bridge(response(invocation_id="j", duration=4.0))
    read = meter.read()
    assert {name: points for name, points in read.items() if "duration" in name or "token" in name} == {
        "gen_ai.client.operation.duration": {
            "model=gpt op=chat provider=openai": (2, 5.0),
            "model=gpt op=embeddings provider=openai": (1, 2.0),
        },
        "gen_ai.client.inference.duration": {"model=gpt op=chat provider=openai": (2, 5.0)},
        "gen_ai.client.inference.usage.input_tokens": {"modality=unknown model=gpt op=chat provider=openai": 0},
        "gen_ai.client.inference.usage.output_tokens": {"modality=unknown model=gpt op=chat provider=openai": 0},
        "gen_ai.client.inference.usage.cache_read.input_tokens": {
            "modality=unknown model=gpt op=chat provider=openai": 0
        },
        "gen_ai.client.inference.usage.cache_write.input_tokens": {
            "modality=unknown model=gpt op=chat provider=openai": 0
        },
        "gen_ai.client.inference.usage.reasoning.output_tokens": {
            "modality=unknown model=gpt op=chat provider=openai": 0
        },
        "gen_ai.client.token.usage": {"model=gpt op=embeddings provider=openai token=input": (1, 7)},
        "agentbus.tokens.used": {"model=gpt provider=openai token=input": 7},
    }


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf"), True, None, "1", 1e12])
def test_what_cannot_be_a_duration_is_not_recorded_but_counted(meter: Meter, duration: Any) -> None:
    event = ToolCall(tool="search", duration=1.0, success=True)
    event.duration = duration
    meter.bridge()(event)
    assert meter.read() == {
        "agentbus.tool.calls": {"outcome=ok tool=search": 1},
        "agentbus.metrics.discarded": {"reason=invalid": 1},
    }


@pytest.mark.parametrize("tokens", [-1, True, 1.5, 10**12, "3"])
def test_what_cannot_be_a_count_of_tokens_is_not_recorded_but_counted(meter: Meter, tokens: Any) -> None:
    meter.bridge()(response(input_tokens=tokens, output_tokens=2))
    read = meter.read()
    assert read["agentbus.tokens.used"] == {"model=gpt provider=openai token=output": 2}
    assert read["gen_ai.client.token.usage"] == {"model=gpt op=chat provider=openai token=output": (1, 2)}
    assert read["agentbus.metrics.discarded"] == {"reason=invalid": 1}


# -- agents and tools -------------------------------------------------------------------------------------------------


def test_runs_are_counted_measured_and_active_while_they_last(meter: Meter) -> None:
    bridge = meter.bridge()
    bridge(AgentStart(invocation_id="1", agent="planner", time_ns=1 * SECOND, model="gpt"))
    bridge(AgentStart(invocation_id="1", agent="planner", time_ns=1 * SECOND))  # once more
    bridge(AgentStart(invocation_id="2", agent="writer", time_ns=2 * SECOND))
    bridge(AgentStart(invocation_id="2", agent="writer", time_ns=2 * SECOND, attempt=2))
    assert meter.read() == {"agentbus.agent.active": {"agent=planner": 1, "agent=writer": 2}}
    bridge(AgentEnd(invocation_id="1", time_ns=4 * SECOND))  # neither a duration nor a name of its own
    bridge(AgentEnd(invocation_id="2", agent="writer", duration=0.5, error_type="ValueError"))
    bridge(AgentEnd(invocation_id="3", agent="lost", duration=9.0))  # its start is lost
    assert meter.read() == {
        "agentbus.agent.active": {"agent=planner": 0, "agent=writer": 1},
        "agentbus.agent.runs": {
            "agent=planner outcome=ok": 1,
            "agent=writer outcome=error": 1,
            "agent=lost outcome=ok": 1,
        },
        "gen_ai.invoke_agent.duration": {
            "agent=planner model=gpt": (1, 3.0),
            "agent=writer error=ValueError": (1, 0.5),
            "agent=lost": (1, 9.0),
        },
    }


def test_runs_of_a_producer_without_ids_pair_by_source_and_agent(meter: Meter) -> None:
    bridge = meter.bridge()
    bridge(AgentStart(source="s", agent="a", time_ns=0))
    bridge(AgentStart(source="t", agent="a", time_ns=1 * SECOND))
    bridge(AgentEnd(source="s", agent="a", time_ns=5 * SECOND))
    read = meter.read()
    assert read["agentbus.agent.active"] == {"agent=a": 1}
    assert read["gen_ai.invoke_agent.duration"] == {"agent=a": (1, 5.0)}


def test_runs_that_never_end_do_not_make_the_level_drift_for_ever(
    meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_metrics, "OPEN_RUNS", 3)
    bridge = meter.bridge()
    for number in range(10):
        bridge(AgentStart(invocation_id=str(number), agent="a"))
    assert meter.read() == {
        "agentbus.agent.active": {"agent=a": 3},
        "agentbus.metrics.discarded": {"reason=open_too_long": 7},
    }
    bridge.close()
    assert meter.read()["agentbus.agent.active"] == {"agent=a": 0}


def test_tool_calls_are_counted_and_measured_by_tool_and_agent(meter: Meter) -> None:
    bridge = meter.bridge()
    bridge(ToolCallStart(tool="search", agent="planner"))
    bridge(ToolCall(tool="search", agent="planner", duration=0.5, success=True, tool_call_id="call_77"))
    bridge(ToolCall(tool="search", agent="planner", duration=0.25, success=False, error_type="TimeoutError"))
    assert meter.read() == {
        "agentbus.tool.calls": {
            "agent=planner outcome=ok tool=search": 1,
            "agent=planner outcome=error tool=search": 1,
        },
        "gen_ai.execute_tool.duration": {
            "agent=planner tool=search": (1, 0.5),
            "agent=planner error=TimeoutError tool=search": (1, 0.25),
        },
    }


# -- what happens at one moment, and deployments ----------------------------------------------------------------------


def test_moments_are_counted_by_the_few_things_that_tell_them_apart(meter: Meter) -> None:
    bridge = meter.bridge()
    for event in (
        CacheHit(cache_type="response", tokens_saved=100),
        CacheHit(cache_type="response", tokens_saved=-5),
        CacheMiss(cache_type="response"),
        Error(component="gateway", message="no secret in here"),
        ChannelMessage(channel="slack", direction="inbound"),
        HeartbeatTick(),
        HeartbeatTick(),
        TurnComplete(),
        DomainEvent(name="lead_qualified", data={"score": 1}),
    ):
        bridge(event)
    assert meter.read() == {
        "agentbus.cache.hits": {"cache=response": 2},
        "agentbus.cache.tokens_saved": {"cache=response": 100},
        "agentbus.cache.misses": {"cache=response": 1},
        "agentbus.errors": {"component=gateway": 1},
        "agentbus.channel.messages": {"channel=slack direction=inbound": 1},
        "agentbus.heartbeats": {"": 2},
        "agentbus.metrics.discarded": {"reason=invalid": 1},
    }


def test_deployments_and_recoveries_are_paired_by_their_id(meter: Meter) -> None:
    bridge = meter.bridge()
    for event in (
        DeploymentStarted(deploy_id="1", time_ns=0),
        DeploymentCompleted(deploy_id="1", commit_sha="abc", time_ns=30 * SECOND),
        DeploymentStarted(deploy_id="2", time_ns=40 * SECOND),
        DeploymentFailed(deploy_id="2", reason="no quota", time_ns=50 * SECOND),
        RecoveryCompleted(deploy_id="2", time_ns=80 * SECOND),
        RecoveryCompleted(deploy_id="2", time_ns=99 * SECOND),  # once more
        DeploymentFailed(deploy_id="3", reason="its start is lost"),
        RecoveryCompleted(deploy_id="4", time_ns=99 * SECOND),
        DeploymentStarted(deploy_id="5", time_ns=70 * SECOND),
        DeploymentCompleted(deploy_id="5", commit_sha="abc", time_ns=60 * SECOND),  # the clock was set back
    ):
        bridge(event)
    assert meter.read() == {
        "agentbus.deployments": {"status=succeeded": 2, "status=failed": 2},
        "agentbus.deployment.duration": {"status=succeeded": (1, 30.0), "status=failed": (1, 10.0)},
        "agentbus.recovery.time": {"": (1, 30.0)},
        "agentbus.deployment.open": {"": 0},
        "agentbus.recovery.open": {"": 1},  # of 3 nobody has said that it works again
    }


# -- instruments ------------------------------------------------------------------------------------------------------


def test_every_instrument_has_its_kind_its_unit_and_buckets_that_fit(meter: Meter) -> None:
    health = {"spans.open": 1, "events.emitted": 2, "budget": {"used": {"daily": 0.5}}}
    bridge = meter.bridge("both", health=lambda: health, prices=OneDollar(), commit_times=lambda _sha: 0.0)
    run: dict[str, Any] = {"agent": "a", "invocation_id": "1", "model": "gpt", "model_provider": "openai"}
    for event in (
        AgentStart(**run),
        response(**FULL, invocation_id="1"),
        response(),
        ToolCall(tool="t", duration=0.1, success=True),
        CacheHit(cache_type="c", tokens_saved=1, invocation_id="1", agent="a"),
        response(call_id="c", source="s", seq=1),
        response(call_id="c", source="s", seq=2),
        AgentEnd(**run, duration=1.0, tokens_used=1),
        DomainEvent(name="budget_threshold_hit", data={"budget": "daily", "threshold": 0.8}),
        CacheMiss(cache_type="c"),
        Error(component="c", message="m"),
        ChannelMessage(channel="c", direction="d"),
        HeartbeatTick(),
        DeploymentStarted(deploy_id="1", time_ns=0),
        DeploymentFailed(deploy_id="1", reason="r", time_ns=1),
        RecoveryCompleted(deploy_id="1", time_ns=2),
        DeploymentCompleted(deploy_id="2", commit_sha="abc", time_ns=3),
        CacheHit(cache_type="c", tokens_saved=-1),
    ):
        bridge(event)
    call = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
    run_ = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6]
    tokens = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]
    calls = [1, 2, 4, 8, 16, 32, 64, 128]
    hour, day = 3600, 86_400
    lead = [60, 300, 900, 1800, hour, 2 * hour, 4 * hour, 8 * hour, *(day * days for days in (1, 2, 4, 7, 14, 30))]
    deploy = [1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200]
    histograms = {
        "gen_ai.client.token.usage": ("{token}", tokens),
        "gen_ai.client.operation.duration": ("s", call),
        "gen_ai.client.operation.time_to_first_chunk": ("s", call),
        "gen_ai.client.inference.duration": ("s", call),
        "gen_ai.client.inference.time_to_first_chunk": ("s", call),
        "gen_ai.client.inference.operation.input_tokens": ("{token}", tokens),
        "gen_ai.client.inference.operation.output_tokens": ("{token}", tokens),
        "gen_ai.invoke_agent.duration": ("s", run_),
        "gen_ai.execute_tool.duration": ("s", call),
        "agentbus.deployment.duration": ("s", deploy),
        "agentbus.recovery.time": ("s", deploy),
        "agentbus.deployment.lead_time": ("s", lead),
        "gen_ai.invoke_agent.inference_calls": ("{inference_call}", calls),
        "gen_ai.invoke_agent.tool_calls": ("{tool_call}", calls),
    }
    sums = {
        "gen_ai.client.inference.usage.input_tokens": "{token}",
        "gen_ai.client.inference.usage.output_tokens": "{token}",
        "gen_ai.client.inference.usage.cache_read.input_tokens": "{token}",
        "gen_ai.client.inference.usage.cache_write.input_tokens": "{token}",
        "gen_ai.client.inference.usage.reasoning.output_tokens": "{token}",
        "agentbus.tokens.used": "{token}",
        "agentbus.cost.spent": "{USD}",
        "agentbus.cost.unpriced_calls": "{call}",
        "agentbus.llm.calls": "{call}",
        "agentbus.tool.calls": "{call}",
        "agentbus.agent.runs": "{run}",
        "agentbus.agent.active": "{run}",
        "agentbus.cache.hits": "{hit}",
        "agentbus.cache.misses": "{miss}",
        "agentbus.cache.tokens_saved": "{token}",
        "agentbus.errors": "{error}",
        "agentbus.channel.messages": "{message}",
        "agentbus.heartbeats": "{heartbeat}",
        "agentbus.deployments": "{deployment}",
        "agentbus.deployment.open": "{deployment}",
        "agentbus.recovery.open": "{deployment}",
        "agentbus.cost.saved": "{USD}",
        "agentbus.calls.duplicate": "{call}",
        "agentbus.usage.mismatch": "{run}",
        "agentbus.budget.thresholds": "{threshold}",
        "agentbus.metrics.discarded": "{measurement}",
        "agentbus.events.emitted": "{event}",
        "agentbus.spans.open": "{span}",
    }
    assert meter.described() == {
        **{name: ("Histogram", unit, buckets) for name, (unit, buckets) in histograms.items()},
        **{name: ("Sum", unit, None) for name, unit in sums.items()},
        "agentbus.budget.used": ("Gauge", "1", None),
    }


def test_counters_only_rise_and_levels_may_fall(meter: Meter) -> None:
    bridge = meter.bridge(health=lambda: {"spans.open": 1, "spans.exported": 1})
    bridge(AgentStart(agent="a"))
    bridge(response())
    rising = {
        metric.name: metric.data.is_monotonic for metric in meter._metrics() if hasattr(metric.data, "is_monotonic")
    }
    assert rising == {
        "agentbus.agent.active": False,
        "agentbus.spans.open": False,
        "agentbus.spans.exported": True,
        "agentbus.llm.calls": True,
        "agentbus.cost.unpriced_calls": True,
    }


def test_a_reader_that_wants_deltas_gets_deltas() -> None:
    kinds = [type(MeterProvider([]).get_meter("x").create_observable_counter("y")).__mro__[1]]
    meter = Meter(preferred_temporality=dict.fromkeys(kinds, AggregationTemporality.DELTA))
    bridge = meter.bridge()
    seen = []
    for number in (3, 2):
        for _ in range(number):
            bridge(HeartbeatTick())
        seen.append(meter.read()["agentbus.heartbeats"])
    assert seen == [{"": 3}, {"": 2}]


# -- our own health ---------------------------------------------------------------------------------------------------


def test_our_own_health_is_observed_flat_or_nested_and_by_reason(meter: Meter) -> None:
    numbers: dict[str, Any] = {
        "events.emitted": 10,
        "events": {"dropped": {"ring_full": 2, "closed_loop": 1}, "late": 4, "duplicate": "many", "skipped": True},
        "handler": {"failures": 5},
        "spans": {"open": 3, "exported": 7, "dropped": {}, "interrupted": 1},
        "something else": 9,
    }
    meter.bridge(health=lambda: numbers)
    assert meter.read() == {
        "agentbus.events.emitted": {"": 10},
        "agentbus.events.dropped": {"reason=ring_full": 2, "reason=closed_loop": 1},
        "agentbus.events.late": {"": 4},
        "agentbus.handler.failures": {"": 5},
        "agentbus.spans.open": {"": 3},
        "agentbus.spans.exported": {"": 7},
        "agentbus.spans.interrupted": {"": 1},
    }


def test_reasons_are_bounded_and_none_of_them_is_lost(meter: Meter) -> None:
    meter.bridge(health=lambda: {"handler.failures": {f"handler {number}": 1 for number in range(500)}})
    told = meter.read()["agentbus.handler.failures"]
    assert (len(told), sum(told.values()), told["reason=other"]) == (51, 500, 450)


def test_a_health_that_raises_costs_only_its_own_metrics(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, Any]:
        raise RuntimeError("broken")

    bridge = meter.bridge(health=broken)
    bridge(HeartbeatTick())
    with caplog.at_level(logging.CRITICAL):
        assert meter.read() == {"agentbus.heartbeats": {"": 1}}
    bridge.close()
    assert meter.read() == {"agentbus.heartbeats": {"": 1}}


def test_a_bus_connected_again_on_the_same_provider_goes_on_counting_where_the_last_one_stopped(meter: Meter) -> None:
    first = meter.bridge(health=lambda: {"events.emitted": 5, "spans.open": 2})
    first(HeartbeatTick())
    first(AgentStart(agent="a"))
    first.close()
    first.close()
    second = meter.bridge(health=lambda: {"events.emitted": 1, "spans.open": 1})
    second(HeartbeatTick())
    assert meter.read() == {
        "agentbus.heartbeats": {"": 2},
        "agentbus.agent.active": {"agent=a": 0},
        "agentbus.events.emitted": {"": 6},
        "agentbus.spans.open": {"": 1},
    }


def test_the_child_of_a_fork_starts_from_nothing(meter: Meter) -> None:
    numbers = {"events.emitted": 5}
    bridge = meter.bridge(health=lambda: numbers)
    bridge(AgentStart(invocation_id="1", agent="a"))
    bridge(HeartbeatTick())
    numbers["events.emitted"] = 0
    bridge.forget()
    bridge(AgentEnd(invocation_id="1", agent="a"))
    bridge(HeartbeatTick())
    assert meter.read() == {
        "agentbus.agent.runs": {"agent=a outcome=ok": 1},
        "agentbus.heartbeats": {"": 1},
        "agentbus.events.emitted": {"": 0},
    }


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_ids_in_names_cost_a_bounded_number_of_series_over_ten_thousand_runs_and_no_sum(meter: Meter) -> None:
    bridge = meter.bridge("both")
    for number in range(10_000):
        ids: dict[str, Any] = {
            "invocation_id": f"run-{number}",
            "root_invocation_id": f"run-{number}",
            "agent": f"agent-{number}",
            "conversation_id": f"conversation-{number}",
        }
        bridge(AgentStart(**ids, time_ns=number))
        bridge(response(**ids, model=f"model-{number % 900}", model_provider=f"host-{number}", input_tokens=1))
        bridge(ToolCall(**ids, tool=f"tool-{number}", duration=0.1, success=False, error_type=f"E{number}"))
        bridge(Error(**ids, component=f"component-{number}", message=f"message {number}"))
        bridge(ChannelMessage(**(ids | {"channel": f"channel-{number}"}), direction=f"to {number}"))
        bridge(AgentEnd(**ids, duration=0.1))
    read, series = meter.read(), meter.series()
    assert max(series.values()) < 2000
    assert sum(read["agentbus.tokens.used"].values()) == 10_000
    assert sum(count for count, _ in read["gen_ai.execute_tool.duration"].values()) == 10_000
    assert sum(read["agentbus.agent.active"].values()) == 0
    assert read["agentbus.errors"]["component=other"] == 9_800
    assert read["agentbus.metrics.overflowed"][""] == bridge.overflowed > 0
    assert "otel.metric.overflow" not in str(read)


def test_names_are_cut_and_what_is_no_name_is_left_out(meter: Meter) -> None:
    bridge = meter.bridge()
    long, half = "x" * 10_000, "a\ud800"
    for name in (long, half, "", None, ["not", "hashable"]):
        event = Error(component="c", message="m")
        event.component = name  # type: ignore[assignment]  # what nobody has validated
        bridge(event)
    assert meter.read() == {
        "agentbus.errors": {"component=" + "x" * 128: 1, "component=a?": 1, "": 3},
    }


def test_the_same_names_stay_themselves_when_later_ones_are_folded(meter: Meter) -> None:
    bridge = meter.bridge()
    for number in [*range(300), 0, 0, 299]:
        bridge(CacheMiss(cache_type=f"type {number}"))
    told = meter.read()["agentbus.cache.misses"]
    assert (told["cache=type 0"], told["cache=other"], sum(told.values())) == (3, 269, 303)
    assert bridge.overflowed == 269


# -- never raises -----------------------------------------------------------------------------------------------------

EVERY_KIND: tuple[Event, ...] = (
    AgentStart(),
    AgentEnd(),
    LlmRequest(model_provider="p", model="m", messages_count=1),
    response(),
    ToolCallStart(tool="t"),
    ToolCall(tool="t", duration=0.1, success=True),
    TurnComplete(),
    ChannelMessage(channel="c", direction="d"),
    HeartbeatTick(),
    CacheHit(cache_type="c", tokens_saved=1),
    CacheMiss(cache_type="c"),
    Error(component="c", message="m"),
    DeploymentStarted(deploy_id="d"),
    DeploymentCompleted(deploy_id="d", commit_sha="s"),
    DeploymentFailed(deploy_id="d", reason="r"),
    RecoveryCompleted(deploy_id="d"),
    DomainEvent(name="n"),
)
ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(EVERY_KIND), max_size=12), st.data())
def test_whatever_stands_in_an_event_counting_it_does_not_raise(kinds: list[Event], data: st.DataObject) -> None:
    meter = Meter()
    bridge = meter.bridge("both")
    for kind in kinds:
        event = copy.copy(kind)
        for field in dataclasses.fields(event):
            if field.init and data.draw(st.booleans()):
                setattr(event, field.name, data.draw(ANYTHING, label=field.name))
        bridge(event)
    meter.read()


def test_an_event_that_cannot_be_counted_is_counted_as_that_and_logged_once(
    meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    bridge = meter.bridge()
    event = DeploymentStarted(deploy_id="d", time_ns=0)
    event.deploy_id = ["no id"]  # type: ignore[assignment]  # what nobody has validated
    bridge(event)
    bridge(event)
    assert meter.read() == {"agentbus.metrics.discarded": {"reason=failure": 2}}
    assert [record.getMessage() for record in caplog.records] == [
        "An event could not be counted; further failures are only counted"
    ]


def test_a_provider_that_measures_nothing_is_fine() -> None:
    bridge = MetricsBridge(NoOpMeterProvider())
    bridge(response(**FULL))
    bridge.close()


def test_a_flavour_that_does_not_exist_is_refused(meter: Meter) -> None:
    with pytest.raises(ConfigurationError, match=r"no flavour '2\.0'"):
        meter.bridge("2.0")  # type: ignore[arg-type]


# -- sums -------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d"])
CALLS = st.builds(
    response,
    model_provider=NAMES,
    model=NAMES,
    agent=st.none() | NAMES,
    success=st.booleans(),
    duration=st.floats(0, 100),
    input_tokens=st.none() | st.integers(0, 1000),
    output_tokens=st.none() | st.integers(0, 1000),
    cost_usd=st.none() | st.floats(0, 10),
)
TOOLS = st.builds(ToolCall, tool=NAMES, agent=NAMES, duration=st.floats(0, 10), success=st.booleans())
RUNS = st.builds(AgentStart, agent=NAMES, invocation_id=NAMES) | st.builds(
    AgentEnd, agent=NAMES, invocation_id=NAMES, duration=st.none() | st.floats(0, 10)
)
MOMENTS = (
    st.builds(CacheHit, cache_type=NAMES, tokens_saved=st.integers(0, 50))
    | st.builds(Error, component=NAMES, message=st.text())
    | st.builds(ChannelMessage, channel=NAMES, direction=NAMES)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(CALLS | TOOLS | RUNS | MOMENTS, max_size=60))
def test_for_any_events_the_sums_over_a_metric_are_the_sums_over_the_events(events: list[Event]) -> None:
    meter = Meter()
    bridge = meter.bridge()
    for event in events:
        bridge(event)
    calls = [event for event in events if isinstance(event, LlmResponse)]
    ends = [event for event in events if isinstance(event, AgentEnd)]
    open_runs = set()
    for event in events:
        if isinstance(event, AgentStart):
            open_runs.add(event.invocation_id)
        elif isinstance(event, AgentEnd):
            open_runs.discard(event.invocation_id)
    expected = {
        "agentbus.tokens.used": sum((call.input_tokens or 0) + (call.output_tokens or 0) for call in calls),
        "agentbus.cost.spent": sum(call.cost_usd for call in calls if call.cost_usd is not None),
        "agentbus.cost.unpriced_calls": sum(map(lacks_price, calls)),
        "agentbus.llm.calls": len(calls),
        "gen_ai.client.operation.duration": sum(call.duration for call in calls),
        "agentbus.tool.calls": sum(isinstance(event, ToolCall) for event in events),
        "gen_ai.execute_tool.duration": sum(event.duration for event in events if isinstance(event, ToolCall)),
        "agentbus.agent.runs": len(ends),
        "agentbus.agent.active": len(open_runs),
        "gen_ai.invoke_agent.duration": sum(event.duration for event in ends if event.duration is not None),
        "agentbus.cache.tokens_saved": sum(event.tokens_saved for event in events if isinstance(event, CacheHit)),
        "agentbus.errors": sum(isinstance(event, Error) for event in events),
        "agentbus.channel.messages": sum(isinstance(event, ChannelMessage) for event in events),
    }
    read = meter.read()
    told = {
        name: sum(value[1] if isinstance(value, tuple) else value for value in read.get(name, {}).values())
        for name in expected
    }
    assert told == pytest.approx(expected, abs=1e-6)


def test_sums_are_right_when_several_threads_count(meter: Meter) -> None:
    bridge = meter.bridge()
    barrier = threading.Barrier(4)

    def count(agent: str) -> None:
        barrier.wait()
        for number in range(500):
            bridge(response(agent=agent, model=f"m{number % 5}", input_tokens=3, output_tokens=2))
            if number % 100 == 0:
                meter.read()

    threads = [threading.Thread(target=count, args=(f"agent {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = meter.read()
    kinds: Counter[str] = Counter()
    for key, value in read["agentbus.tokens.used"].items():
        kinds[key.rpartition("=")[2]] += value
    assert kinds == {"input": 6000, "output": 4000}
    assert sum(read["agentbus.llm.calls"].values()) == 2000
