"""A budget that is to stop agents stops those of pydantic-ai, too, and every call before that is counted."""

from __future__ import annotations

import pytest
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.test import TestModel

from otel_agentbus import Budget, BudgetExceeded, adapters, current, testing
from otel_agentbus.adapters.losses import losses

STOP = Budget("week", tokens=100, window="7d", on_exceeded="raise")
QUESTION = "hello " * 40


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> None:
    losses.counts.clear()


async def outcomes(agent: Agent[None, str], runs: int) -> list[str]:
    found = []
    for _ in range(runs):
        try:
            await agent.run(QUESTION)  # `run_sync` would leave a loop open
            found.append("ran")
        except BudgetExceeded as refused:
            found.append(refused.budget)
    return found


async def test_the_call_after_the_one_that_used_it_up_is_refused() -> None:
    with testing.capture(budgets=[STOP]) as seen, adapters.instrument("pydantic-ai"):
        before = get_current()
        assert await outcomes(Agent(TestModel(), name="a"), 5) == ["ran", "ran", "week", "week", "week"]
        assert (get_current(), current()) == (before, None)
        total = seen.bus.summary().total
        assert (total.calls, total.input > 50) == (2, True)
        assert [e.outcome for e in seen.events if e.kind == "agent.end"] == ["ok", "ok", "error", "error", "error"]  # type: ignore[attr-defined]
    assert not losses.counts


async def test_a_budget_that_only_tells_lets_all_of_them_run_and_counts_them() -> None:
    with testing.capture(budgets=[Budget("week", tokens=100, window="7d")]) as seen, adapters.instrument("pydantic-ai"):
        assert await outcomes(Agent(TestModel(), name="a"), 5) == ["ran"] * 5
        assert seen.bus.summary().total.calls == 5


async def test_the_applications_own_spans_end_where_a_call_is_refused() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider))
    try:
        with testing.capture(budgets=[STOP]), adapters.instrument("pydantic-ai"):
            assert await outcomes(Agent(TestModel(), name="a"), 3) == ["ran", "ran", "week"]
    finally:
        Agent.instrument_all(False)
    assert [span.name for span in exporter.get_finished_spans()] == ["chat test", "invoke_agent a"] * 3
    assert not losses.counts
