"""pydantic-ai: the program of the same shape; all else that is seen of it is held by `tests/adapters`."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import TracerProvider
from pydantic_ai.models.function import FunctionModel

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters.losses import losses
from otel_agentbus.events import LlmResponse

from .shape import assert_outline, outline, program

TREE = (Path(__file__).parent / "trees" / "pydantic_ai.txt").read_text("utf-8")
PLANNED = TREE.partition("invoke_agent teller")[0]
LABEL: contextvars.ContextVar[str] = contextvars.ContextVar("label", default="none")


@pytest.fixture(autouse=True)
def nothing_is_lost() -> Iterator[None]:
    losses.counts.clear()
    yield
    assert not losses.counts


@pytest.fixture
def example() -> ModuleType:
    return program("pydantic-ai")


async def test_the_program_is_one_tree_for_each_run(seen: testing.Captured, example: ModuleType) -> None:
    assert await example.run() == "Tea goes with rain."
    assert await example.tell() == "Tea"
    assert agentbus.current() is None

    assert_outline(seen.spans, TREE)


async def test_each_model_call_is_counted_once(seen: testing.Captured, example: ModuleType) -> None:
    await example.run()

    total = seen.bus.summary().total
    assert (total.input, total.output, total.cached, total.calls) == (340, 40, 120, 5)
    used = {(dict(key)["gen_ai.request.model"], dict(key)["gen_ai.token.type"]): value
            for key, value in seen.metric("agentbus.tokens.used").items()}  # fmt: skip
    assert used[("fake-planner", "input")] == 300
    assert used[("fake-planner", "output")] == 30
    assert used[("fake-researcher", "input")] == 40
    assert used[("fake-researcher", "output")] == 10


async def test_a_streamed_answer_measures_its_first_chunk_and_leaves_nothing_in_its_consumer(
    seen: testing.Captured, example: ModuleType
) -> None:
    async with example.teller.run_stream_events("Tell me.") as events:
        async for _ in events:
            assert agentbus.current() is None
            assert not otel_trace.get_current_span().get_span_context().is_valid

    response = next(event for event in seen.events if isinstance(event, LlmResponse))
    assert response.outcome == "ok"
    assert response.time_to_first_chunk is not None
    assert 0 < response.time_to_first_chunk <= response.duration


async def test_what_is_done_inside_of_run_streams_with_is_inside_of_the_run(
    seen: testing.Captured, example: ModuleType
) -> None:
    async with example.teller.run_stream("Tell me.") as result:
        async for _ in result.stream_text():
            with agentbus.agent("inside"):
                pass
            break
    assert agentbus.current() is None
    with agentbus.agent("after"):
        pass

    assert [line.strip("│├└─ ").partition(" ·")[0] for line in outline(seen.spans).splitlines()] == [
        "invoke_agent after",
        "invoke_agent teller",
        "chat fake-teller",
        "invoke_agent inside",
    ]


async def behaviour(example: ModuleType) -> list[Any]:
    """What the program tells of itself: results, exceptions, the order of side effects, contexts and tasks."""
    log: list[Any] = []
    task = asyncio.current_task()
    research = example.research

    async def find_out(messages: Any, info: Any) -> Any:  # the example's is no coroutine: threads would race
        return example.find_out(messages, info)

    example.researcher.model = FunctionModel(find_out, model_name="fake-researcher")

    async def noted(topic: str) -> str:
        log.append(("research", topic, LABEL.get(), asyncio.current_task() is task))
        LABEL.set(topic)
        await asyncio.sleep(0)
        found: str = await research(topic)
        log.append(("researched", topic, LABEL.get()))
        return found

    example.planner._function_toolset.tools["research"].function_schema.function = noted
    LABEL.set("outer")
    log.append(await example.run())
    log.append(await example.tell())
    log.append(LABEL.get())
    try:
        await example.researcher.run("tea", output_type=int)
    except Exception as error:
        log.append((type(error).__name__, str(error)))
    return log


async def test_the_program_behaves_as_it_does_without_us() -> None:
    async def apart() -> list[Any]:
        return await asyncio.create_task(behaviour(program("pydantic-ai")), context=contextvars.Context())

    without = await apart()
    with adapters.instrument("pydantic-ai"), testing.capture():
        observed = await apart()
    with adapters.instrument("pydantic-ai"):  # and no bus
        unheard = await apart()

    assert observed == without
    assert unheard == without
    assert await apart() == without


async def test_parallel_runs_and_runs_inside_others_nest_right(seen: testing.Captured, example: ModuleType) -> None:
    async def inside() -> None:
        with agentbus.agent("outer"):
            await example.run()

    await asyncio.gather(inside(), example.run(), example.run())

    lines = PLANNED.splitlines()
    nested = ["invoke_agent outer", f"└─ {lines[0]}", *(f"   {line}" for line in lines[1:])]
    assert_outline(seen.spans, "\n".join([*nested, PLANNED * 2]))


async def test_what_a_tool_does_nests_under_it(
    seen: testing.Captured, example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider()
    spans: list[Any] = []

    def send(text: str) -> None:
        with provider.get_tracer("test").start_as_current_span("POST") as span, agentbus.agent("sender"):
            spans.append(span)
        raise ConnectionError("no such channel")

    monkeypatch.setattr(example, "send", send)
    await example.run()

    publish = seen.span("execute_tool publish")
    assert "└─ invoke_agent sender" in outline(seen.spans)
    assert publish.context is not None
    assert [span.parent.span_id for span in spans] == [publish.context.span_id]
    assert {span.context.trace_id for span in spans} == {publish.context.trace_id}


async def test_a_budget_stops_the_run(instrumented: adapters.Instrumented, example: ModuleType) -> None:
    with testing.capture(budgets=[Budget("small", tokens=100, on_exceeded="raise")]) as seen:
        with pytest.raises(BudgetExceeded):
            await example.run()

        assert outline(seen.spans).splitlines()[:2] == [
            "invoke_agent planner · !otel_agentbus.errors.BudgetExceeded",
            "└─ chat fake-planner · 100+10",
        ]


async def test_no_content_leaves_by_default(instrumented: adapters.Instrumented, example: ModuleType) -> None:
    with testing.capture() as seen:
        await example.run()
        said = repr([(span.attributes, span.events, span.status.description) for span in seen.spans])

    assert not [secret for secret in ("Tea goes", "Plan, research", "It is wet", "What goes", "rain") if secret in said]
