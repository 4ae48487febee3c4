"""Runs and tool calls count once however often they are told, and nothing odd in an event costs what it used."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData

from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall
from otel_agentbus.telemetry import call_metrics

from .test_metrics_bridge import Meter
from .test_metrics_cardinality import ODD

RUN: dict[str, Any] = {"agent": "planner", "invocation_id": "run", "root_invocation_id": "run", "source": "s"}


def search(seq: int, **fields: Any) -> ToolCall:
    given: dict[str, Any] = {"tool": "search", "tool_call_id": "c1", "duration": 0.5, "success": True}
    return ToolCall(**(RUN | given | fields), seq=seq)


ONE_RUN: tuple[Event, ...] = (AgentStart(**RUN, seq=0, time_ns=0), search(1), AgentEnd(**RUN, seq=2, duration=2.0))
COUNTED = {
    "agentbus.agent.runs": {"agent=planner outcome=ok": 1},
    "gen_ai.invoke_agent.duration": {"agent=planner": (1, 2.0)},
    "agentbus.tool.calls": {"agent=planner outcome=ok tool=search": 1},
    "gen_ai.execute_tool.duration": {"agent=planner tool=search": (1, 0.5)},
}


@given(st.permutations(ONE_RUN * 3))
def test_a_run_and_its_calls_count_once_however_often_and_in_whatever_order_they_are_told(events: list[Event]) -> None:
    meter = Meter()
    bridge = meter.bridge()
    for event in events:
        bridge(event)
    read = meter.read()
    assert read.pop("agentbus.agent.active", {"agent=planner": 0}) == {"agent=planner": 0}
    assert read == COUNTED


def test_an_end_that_is_told_in_three_events_of_its_own_counts_once() -> None:
    meter = Meter()
    bridge = meter.bridge()
    bridge(AgentStart(**RUN, seq=0, time_ns=0))
    for seq in (1, 2, 3):
        bridge(search(seq))
    for seq in (4, 5, 6):
        bridge(AgentEnd(**RUN, seq=seq, duration=2.0))
    assert meter.read() == COUNTED | {"agentbus.agent.active": {"agent=planner": 0}}


def test_other_calls_attempts_and_runs_are_no_repetition() -> None:
    meter = Meter()
    bridge = meter.bridge()
    others: tuple[dict[str, Any], ...] = (
        *({}, {"tool_call_id": "c2"}, {"attempt": 2}, {"invocation_id": "another"}),
        *({"tool_call_id": None}, {"tool_call_id": None}),
    )
    for seq, fields in enumerate(others):
        bridge(search(seq, **fields))
    bridge(AgentEnd(**RUN, seq=10, duration=1.0))
    bridge(AgentEnd(**RUN, seq=11, duration=1.0, attempt=2))
    read = meter.read()
    assert read["agentbus.tool.calls"] == {"agent=planner outcome=ok tool=search": 6}
    assert read["agentbus.agent.runs"] == {"agent=planner outcome=ok": 2}


def test_ids_are_told_apart_to_their_last_letter_however_long_they_are() -> None:
    meter = Meter()
    bridge = meter.bridge()
    for number in range(3):
        run = RUN | {"invocation_id": "tenant/" * 100 + str(number)}
        bridge(AgentStart(**run, seq=3 * number))
        for seq in range(2):
            bridge(ToolCall(**run, tool="t", tool_call_id="x" * 1000 + str(seq), duration=0.5, success=True, seq=seq))
        bridge(AgentEnd(**run, duration=1.0, seq=3 * number + 1))
    read = meter.read()
    assert read["agentbus.agent.runs"] == {"agent=planner outcome=ok": 3}
    assert read["agentbus.tool.calls"] == {"agent=planner outcome=ok tool=t": 6}
    assert read["agentbus.agent.active"] == {"agent=planner": 0}


def test_the_child_of_a_fork_knows_nothing_of_what_the_parent_was_told() -> None:
    meter = Meter()
    bridge = meter.bridge()
    for event in ONE_RUN:
        bridge(event)
    bridge.forget()
    for event in ONE_RUN:
        bridge(event)
    assert meter.read()["agentbus.agent.runs"] == {"agent=planner outcome=ok": 1}


def test_an_open_run_keeps_nothing_of_its_start_but_names_and_its_time() -> None:
    bridge = Meter().bridge(entered=True)
    start = AgentStart(
        **(RUN | {"agent": "a" * 10_000}), seq=0, input=["what the user said"], instructions="a system prompt"
    )
    bridge(start)
    (run,) = bridge._runs._runs._waiting.values()
    assert run[1:] == ("a" * 128, None, None, None)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("field", ["call_id", "invocation_id", "operation", "model", "model_provider", "agent"])
def test_odd_names_and_ids_cost_no_token(field: str, odd: Any) -> None:
    meter = Meter()
    bridge = meter.bridge("both")
    place: dict[str, Any] = {"model_provider": "p", "model": "m", "call_id": "c", "invocation_id": "i"}
    other = LlmRequest(**(place | {"call_id": "another"}), messages_count=1, operation="embeddings")
    request = LlmRequest(**place, messages_count=1)
    response = LlmResponse(**place, duration=0.5, success=True, input_tokens=7, output_tokens=3, cost_usd=0.25)
    for event in (request, response):
        if hasattr(event, field):
            setattr(event, field, odd)
    for event in (other, request, response):
        bridge(event)
    read = meter.read()
    assert sum(read["agentbus.tokens.used"].values()) == 10
    assert sum(read["agentbus.cost.spent"].values()) == 0.25
    assert sum(count for count, _ in read["gen_ai.client.token.usage"].values()) == 2
    assert "agentbus.metrics.discarded" not in read


def test_a_measurement_that_fails_costs_neither_tokens_nor_money(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_event: Event) -> None:
        raise RuntimeError("an error that cannot be read")

    monkeypatch.setattr(call_metrics, "error_of", fail)
    meter = Meter()
    meter.bridge()(LlmResponse(model_provider="p", model="m", duration=0.5, success=True, input_tokens=7, cost_usd=0.5))
    assert meter.read() == {
        "agentbus.llm.calls": {"model=m outcome=ok provider=p": 1},
        "agentbus.tokens.used": {"model=m provider=p token=input": 7},
        "agentbus.cost.spent": {"model=m provider=p source=reported": 0.5},
        "agentbus.metrics.discarded": {"reason=failure": 1},
    }


def test_names_of_budgets_can_be_encoded_whatever_they_are() -> None:
    meter = Meter()
    used = {"daily": 0.5, "a\ud800": 0.25, "": 0.1, "x" * 10_000: 1.5, 7: 0.3, "no share": "many", "less": -1.0}
    meter.bridge(health=lambda: {"budget": {"used": used}})
    data = meter.reader.get_metrics_data()
    assert isinstance(data, MetricsData)
    (metric,) = (m for rm in data.resource_metrics for sm in rm.scope_metrics for m in sm.metrics)
    told = {(point.attributes or {})["agentbus.budget.name"]: point.value for point in metric.data.data_points}  # type: ignore[union-attr]  # a gauge
    assert told == {"daily": 0.5, "a?": 0.25, "x" * 128: 1.5}
    assert encode_metrics(data).SerializeToString()
