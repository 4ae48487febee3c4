"""Which start and which end make one span: the producers' ordering rules, each as a test."""

from __future__ import annotations

from typing import Any

import pytest

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    DomainEvent,
    Error,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    TurnComplete,
    UnknownEvent,
)

from .bridging import Emitter, at, bridged

RUN: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r", "agent": "a"}
MODEL: dict[str, Any] = {"model_provider": "openai", "model": "m"}


def test_a_plain_run_is_a_root_with_its_calls_below() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(LlmResponse, 2, **RUN, **MODEL, call_id="1", duration=1.0, success=True)
    emit(ToolCallStart, 3, **RUN, tool="t", tool_call_id="x")
    emit(ToolCall, 4, **RUN, tool="t", tool_call_id="x", duration=1.0, success=False, error_type="Boom")
    emit(AgentEnd, 5, **RUN, duration=5.0)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent a", None, 0, 5, "ok"),
        ("chat m", "invoke_agent a", 1, 2, "ok"),
        ("execute_tool t", "invoke_agent a", 3, 4, "error"),
    ]


def test_a_span_lasts_as_long_as_its_event_says() -> None:
    """The end event may be told late (its own time stamp is later); its duration is the call's."""
    emit = Emitter()
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(LlmResponse, 9, **RUN, **MODEL, call_id="1", duration=0.25, success=True)
    assert bridged().feed(emit.events).rows() == [("chat m", "?", 1, 1.25, "ok")]


def test_a_request_without_a_response_is_interrupted_by_the_next_request() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1)
    emit(LlmRequest, 2, **RUN, model_provider="other", model="n", messages_count=1)
    emit(LlmResponse, 4, **RUN, model_provider="third", model="k", duration=2.0, success=True)
    emit(AgentEnd, 5, **RUN)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent a", None, 0, 5, "ok"),
        ("chat m", "invoke_agent a", 1, 2, "interrupted"),
        ("chat n", "invoke_agent a", 2, 4, "ok"),  # never matched by provider or model
    ]


def test_parallel_tools_of_one_name_pair_by_their_ids() -> None:
    emit = Emitter()
    for number, call in enumerate("abc"):
        emit(ToolCallStart, number, **RUN, tool="t", tool_call_id=call)
    for number, call in enumerate("bca"):
        emit(ToolCall, 10 + number, **RUN, tool="t", tool_call_id=call, duration=0.5, success=True)
    assert bridged().feed(emit.events).rows() == [
        ("execute_tool t", "?", 0, 0.5, "ok"),
        ("execute_tool t", "?", 1, 1.5, "ok"),
        ("execute_tool t", "?", 2, 2.5, "ok"),
    ]


def test_parallel_tools_without_ids_pair_first_in_first_out_by_name() -> None:
    emit = Emitter()
    emit(ToolCallStart, 0, **RUN, tool="t")
    emit(ToolCallStart, 1, **RUN, tool="u")
    emit(ToolCallStart, 2, **RUN, tool="t")
    emit(ToolCall, 3, **RUN, tool="t", duration=3.0, success=True)
    emit(ToolCall, 4, **RUN, tool="t", duration=2.0, success=False)
    emit(ToolCall, 5, **RUN, tool="u", duration=4.0, success=True)
    assert bridged().feed(emit.events).rows() == [
        ("execute_tool t", "?", 0, 3, "ok"),
        ("execute_tool u", "?", 1, 5, "ok"),
        ("execute_tool t", "?", 2, 4, "error"),
    ]


def test_tools_left_open_are_cancelled_at_the_agents_end() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(AgentEnd, 2, **RUN, duration=2.0)
    emit(HeartbeatTick, 10)  # the grace period is over, in the time of the events
    seen = bridged().feed(emit.events)
    assert seen.bridge.open_spans == 0
    assert seen.rows() == [
        ("invoke_agent a", None, 0, 2, "ok"),
        ("execute_tool t", "invoke_agent a", 1, 2, "cancelled"),
    ]


def test_an_end_within_the_grace_period_is_still_the_tools_own() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(AgentEnd, 2, **RUN, duration=2.0)
    emit(ToolCall, 3.5, **RUN, tool="t", tool_call_id="x", duration=2.5, success=True)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent a", None, 0, 2, "ok"),
        ("execute_tool t", "invoke_agent a", 1, 3.5, "ok"),
    ]


def test_a_duplicate_start_is_one_run() -> None:
    """A model switch emits a second AgentStart."""
    emit = Emitter()
    emit(AgentStart, 0, **RUN, model="m")
    emit(AgentStart, 1, **RUN, model="n")
    emit(AgentEnd, 2, **RUN, duration=2.0)
    seen = bridged().feed(emit.events)
    assert seen.rows() == [("invoke_agent a", None, 0, 2, "ok")]
    assert seen.bridge.health()["duplicate"] == 1


def test_an_end_told_three_times_is_one_span() -> None:
    emit = Emitter()
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    for _ in range(3):
        emit(LlmResponse, 2, **RUN, **MODEL, call_id="1", duration=1.0, success=True)
    seen = bridged().feed(emit.events)
    assert seen.rows() == [("chat m", "?", 1, 2, "ok")]
    assert seen.bridge.health()["duplicate"] == 2


def test_an_end_without_a_start_is_back_dated_by_its_duration() -> None:
    emit = Emitter()
    emit(LlmResponse, 5, **RUN, **MODEL, call_id="1", duration=2.0, success=True)
    emit(ToolCall, 5, **RUN, tool="t", tool_call_id="x", duration=1.0, success=True)
    emit(AgentEnd, 6, **RUN, duration=6.0)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent a", None, 0, 6, "ok"),
        ("chat m", "invoke_agent a", 3, 5, "ok"),
        ("execute_tool t", "invoke_agent a", 4, 5, "ok"),
    ]


def test_an_end_before_its_start_waits_for_it() -> None:
    emit = Emitter()
    emit(LlmResponse, 2, **RUN, **MODEL, call_id="1", duration=1.0, success=True)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    assert bridged().feed(emit.events).rows() == [("chat m", "?", 1, 2, "ok")]


def test_events_without_any_ids_are_one_run_from_start_to_end() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **MODEL)
    emit(LlmRequest, 1, **MODEL, messages_count=1)
    emit(LlmResponse, 2, **MODEL, duration=1.0, success=True)
    emit(ToolCallStart, 3, tool="t")
    emit(ToolCall, 4, tool="t", duration=1.0, success=True)
    emit(AgentEnd, 5, **MODEL, duration=5.0)
    emit(AgentStart, 6, **MODEL)
    emit(AgentEnd, 7, **MODEL, duration=1.0)
    seen = bridged().feed(emit.events)
    assert seen.rows() == [
        ("invoke_agent", None, 0, 5, "ok"),
        ("chat m", "invoke_agent", 1, 2, "ok"),
        ("execute_tool t", "invoke_agent", 3, 4, "ok"),
        ("invoke_agent", None, 6, 7, "ok"),
    ]
    assert len({span.context.trace_id for span in seen.exporter.get_finished_spans()}) == 2


def test_stray_calls_without_ids_are_roots_of_their_own() -> None:
    emit = Emitter()
    emit(LlmRequest, 1, **MODEL, messages_count=1)
    emit(LlmResponse, 2, **MODEL, duration=1.0, success=True)
    emit(ToolCall, 4, tool="t", duration=1.0, success=True)
    seen = bridged().feed(emit.events)
    assert seen.rows() == [("chat m", None, 1, 2, "ok"), ("execute_tool t", None, 3, 4, "ok")]
    assert len({span.context.trace_id for span in seen.exporter.get_finished_spans()}) == 2


def test_two_interleaved_runs_keep_to_themselves() -> None:
    one, two = {"invocation_id": "1", "agent": "one"}, {"invocation_id": "2", "agent": "two"}
    emit = Emitter()
    emit(AgentStart, 0, **one)
    emit(AgentStart, 1, **two)
    emit(LlmRequest, 2, **one, **MODEL, messages_count=1)
    emit(LlmRequest, 3, **two, model_provider="p", model="n", messages_count=1)
    emit(LlmResponse, 4, **one, **MODEL, duration=2.0, success=True)
    emit(LlmResponse, 5, **two, model_provider="p", model="n", duration=2.0, success=True)
    emit(AgentEnd, 6, **one, duration=6.0)
    emit(AgentEnd, 7, **two, duration=6.0)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent one", None, 0, 6, "ok"),
        ("invoke_agent two", None, 1, 7, "ok"),
        ("chat m", "invoke_agent one", 2, 4, "ok"),
        ("chat n", "invoke_agent two", 3, 5, "ok"),
    ]


def test_calls_after_the_agents_end_still_hang_below_it() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(AgentEnd, 1, **RUN, duration=1.0)
    emit(LlmRequest, 2, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(LlmResponse, 3, **RUN, **MODEL, call_id="1", duration=1.0, success=True)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent a", None, 0, 1, "ok"),
        ("chat m", "invoke_agent a", 2, 3, "ok"),
    ]


def test_a_run_that_nobody_ended_is_interrupted_when_it_was_last_heard_of() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(TurnComplete, 2.5, **RUN)
    seen = bridged().feed(emit.events)
    assert seen.rows() == [
        ("invoke_agent a", None, 0, 2.5, "interrupted"),
        ("chat m", "invoke_agent a", 1, 2.5, "interrupted"),
    ]
    assert seen.bridge.health()["interrupted"] == 2


def test_a_sub_agent_hangs_below_the_call_that_runs_it() -> None:
    sub: dict[str, Any] = {
        "invocation_id": "sub",
        "parent_invocation_id": "r",
        "root_invocation_id": "r",
        "agent": "b",
    }
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    emit(AgentStart, 2, **sub, parent_call_id="x")
    emit(LlmRequest, 3, **sub, **MODEL, messages_count=1, call_id="1")
    emit(ToolCallStart, 3.25, **sub, parent_call_id="llm:1", tool="inner", tool_call_id="y")
    emit(ToolCall, 3.5, **sub, parent_call_id="llm:1", tool="inner", tool_call_id="y", duration=0.25, success=True)
    emit(LlmResponse, 4, **sub, **MODEL, call_id="1", duration=1.0, success=True)
    emit(AgentEnd, 5, **sub, parent_call_id="x", duration=3.0)
    emit(ToolCall, 6, **RUN, tool="t", tool_call_id="x", duration=5.0, success=True)
    emit(AgentEnd, 7, **RUN, duration=7.0)
    assert bridged().feed(emit.events).rows() == [
        ("invoke_agent a", None, 0, 7, "ok"),
        ("execute_tool t", "invoke_agent a", 1, 6, "ok"),
        ("invoke_agent b", "execute_tool t", 2, 5, "ok"),
        ("chat m", "invoke_agent b", 3, 4, "ok"),
        ("execute_tool inner", "chat m", 3.25, 3.5, "ok"),
    ]


def test_moments_stand_on_the_block_that_encloses_them() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(CacheHit, 1.5, **RUN, parent_call_id="llm:1", cache_type="response", tokens_saved=7)
    emit(LlmResponse, 2, **RUN, **MODEL, call_id="1", duration=1.0, success=True)
    emit(DomainEvent, 3, **RUN, name="lead_qualified", data={"score": 87})
    emit(AgentEnd, 4, **RUN, duration=4.0)
    seen = bridged().feed(emit.events)
    seen.closed()
    events = {
        span.name: [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events]
        for span in seen.exporter.get_finished_spans()
    }
    hit = {"agentbus.cache.type": "response", "agentbus.cache.tokens_saved": 7}
    assert events == {
        "chat m": [("agentbus.cache.hit", at(1.5), hit)],
        "invoke_agent a": [("lead_qualified", at(3), {"agentbus.data.score": 87})],
    }


def test_a_moment_outside_any_run_is_a_span_of_its_own_or_a_metric_only() -> None:
    emit = Emitter()
    emit(DomainEvent, 1, name="lead_lost")
    emit(Error, 2, component="gateway", message="boom", error_type="IOError")
    emit(CacheHit, 3, cache_type="response", tokens_saved=7)
    emit(HeartbeatTick, 4)
    emit(UnknownEvent, 5, name="history.trimmed")
    seen = bridged().feed(emit.events)
    assert [row[:4] for row in seen.rows()] == [("lead_lost", None, 1, 1), ("error gateway", None, 2, 2)]
    error = next(span for span in seen.exporter.get_finished_spans() if span.name == "error gateway")
    assert error.status.description == "boom"
    assert (error.attributes or {})["error.type"] == "IOError"
    assert seen.bridge.health()["unknown"] == 1


def test_a_moment_whose_span_is_over_stands_below_it() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(AgentEnd, 1, **RUN, duration=1.0)
    emit(DomainEvent, 2, **RUN, name="lead_late")
    assert [row[:4] for row in bridged().feed(emit.events).rows()] == [
        ("invoke_agent a", None, 0, 1),
        ("lead_late", "invoke_agent a", 2, 2),
    ]


def test_totals_stand_on_the_agents_and_usage_on_the_calls() -> None:
    sub = {"invocation_id": "sub", "parent_invocation_id": "r", "root_invocation_id": "r", "agent": "b"}
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmResponse, 1, **RUN, **MODEL, duration=1.0, success=True, input_tokens=10, output_tokens=1, cost_usd=0.5)
    emit(AgentStart, 2, **sub)
    emit(LlmResponse, 3, **sub, **MODEL, duration=1.0, success=True, input_tokens=20, output_tokens=2)
    emit(AgentEnd, 4, **sub, duration=2.0, tokens_used={"input_tokens": 999, "output_tokens": 999})
    emit(AgentEnd, 5, **RUN, duration=5.0)
    seen = bridged().feed(emit.events)
    seen.closed()
    totals = {
        span.name: {k: v for k, v in (span.attributes or {}).items() if k.startswith("agentbus.usage.")}
        for span in seen.exporter.get_finished_spans()
        if span.name.startswith("invoke_agent")
    }
    assert totals == {
        "invoke_agent a": {
            "agentbus.usage.input_tokens": 30,
            "agentbus.usage.output_tokens": 3,
            "agentbus.usage.cost_usd": 0.5,
            "agentbus.usage.llm_calls": 2,
        },
        "invoke_agent b": {
            "agentbus.usage.input_tokens": 20,
            "agentbus.usage.output_tokens": 2,
            "agentbus.usage.llm_calls": 1,
            "agentbus.usage.mismatch": ("input_tokens", "output_tokens"),
        },
    }
    assert not any(
        key.startswith("gen_ai.usage.")
        for span in seen.exporter.get_finished_spans()
        if span.name.startswith("invoke_agent")
        for key in span.attributes or {}
    )


@pytest.mark.parametrize("duration", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_duration_that_cannot_be_true_is_not_believed(duration: float) -> None:
    emit = Emitter()
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="1")
    emit(LlmResponse, 2, **RUN, **MODEL, call_id="1", duration=duration, success=True)
    assert bridged().feed(emit.events).rows() == [("chat m", "?", 1, 2, "ok")]


def test_open_spans_are_bounded_and_the_longest_idle_run_goes_first() -> None:
    emit = Emitter()
    for number in range(50):
        emit(AgentStart, number, invocation_id=f"r{number}", agent=f"a{number}")
    emit(TurnComplete, 60, invocation_id="r0")
    emit(AgentStart, 61, invocation_id="last", agent="last")
    seen = bridged(max_open_spans=50).feed(emit.events)
    assert seen.bridge.open_spans == 50
    assert [span.name for span in seen.exporter.get_finished_spans()] == ["invoke_agent a1"]
    assert seen.bridge.health()["interrupted"] == 1


def test_a_lineage_that_runs_in_a_circle_ends() -> None:
    emit = Emitter()
    emit(AgentStart, 0, invocation_id="x", parent_invocation_id="y", agent="x")
    emit(AgentStart, 1, invocation_id="y", parent_invocation_id="x", agent="y")
    emit(LlmResponse, 2, invocation_id="x", **MODEL, duration=1.0, success=True, input_tokens=1)
    assert len(bridged().feed(emit.events).rows()) == 3
