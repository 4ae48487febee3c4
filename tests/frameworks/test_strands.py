"""Strands Agents, observed through its hook events: the same program, its tree, its tokens, and nothing changed."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
from collections.abc import AsyncGenerator, Iterator
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, get_current_span, use_span
from pydantic import BaseModel
from strands import Agent, tool
from strands.event_loop import event_loop
from strands.hooks import (
    AfterModelCallEvent,
    AfterToolCallEvent,
    BeforeToolCallEvent,
    HookProvider,
    HookRegistry,
)
from strands.multiagent import GraphBuilder, Swarm
from strands.tools.executors import ConcurrentToolExecutor, SequentialToolExecutor
from strands.tools.executors._executor import ToolExecutor
from strands.types.exceptions import EventLoopException

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters.losses import losses
from otel_agentbus.adapters.strands import mapping
from otel_agentbus.adapters.strands.observing import Observation
from otel_agentbus.adapters.strands.steps import Run
from otel_agentbus.events import ToolCall

from .shape import assert_outline, outline, program

TREE = """
    invoke_agent planner
    ├─ chat fake-planner · 100+10
    ├─ chat fake-planner · 100+10
    ├─ chat fake-planner · 100+10
    ├─ execute_tool publish · !ConnectionError
    ├─ execute_tool research
    │  └─ invoke_agent researcher
    │     └─ chat fake-researcher · 20+5
    └─ execute_tool research
       └─ invoke_agent researcher
          └─ chat fake-researcher · 20+5
"""
LEFT = """
    invoke_agent teller · ~cancelled
    └─ chat fake-teller · ~cancelled
"""

marked: contextvars.ContextVar[str] = contextvars.ContextVar("marked", default="")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> Iterator[None]:
    losses.counts.clear()
    for name in ("strands", "opentelemetry.context"):  # what pytest would keep of their records, keeps streams open
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield
    assert not losses.counts


@pytest.fixture
def fake() -> ModuleType:
    return program("strands")


def agent(fake: ModuleType, name: str, *turns: dict[str, Any], usage: tuple[int, int] = (10, 2), **given: Any) -> Agent:
    return Agent(name=name, model=fake.FakeModel(f"fake-{name}", usage, *turns), callback_handler=None, **given)


CALL = {"calls": [("probe", "{}")]}
DONE = {"text": ["Do", "ne."]}


def test_the_program_is_one_tree_with_every_model_call_counted_once(seen: testing.Captured, fake: ModuleType) -> None:
    assert fake.run() == "Tea goes with rain."
    assert_outline(seen.spans, TREE)
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.cached, total.duplicates) == (5, 340, 40, 120, 0)
    used = seen.metric("agentbus.tokens.used")
    by = {(dict(k)["gen_ai.agent.name"], dict(k)["gen_ai.token.type"]): v for k, v in used.items()}
    assert by[("planner", "input")] == 300
    assert by[("researcher", "input")] == 40
    assert (by[("planner", "output")], by[("researcher", "output")]) == (30, 10)


async def test_a_stream_that_is_left_early_is_cancelled_and_no_error(seen: testing.Captured, fake: ModuleType) -> None:
    assert await fake.tell() == "Once "
    await until(lambda: gc.collect() >= 0 and len(seen.spans) == 2)  # old versions leave what they run to the collector
    assert_outline(seen.spans, LEFT)
    assert "gen_ai.response.time_to_first_chunk" in (seen.span("chat fake-teller").attributes or {})


def test_what_the_program_says_is_printed_with_and_without_us(fake: ModuleType, capsys: Any) -> None:
    fake.main()
    without = capsys.readouterr()
    with testing.capture() as seen, adapters.instrument("strands"):
        fake.main()
        assert outline(seen.spans).splitlines()[0] == "invoke_agent planner"
        assert len(seen.spans) == 13
    assert capsys.readouterr().out == without.out == "Tea goes with rain.\nOnce \n"


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("It did not happen.")


# -- nothing is changed ------------------------------------------------------------------------------------------------


async def told(fake: ModuleType, executor: ToolExecutor) -> list[Any]:
    """What a program sees of itself: its order, its variables, its tasks, its chunks."""
    seen: list[Any] = []
    here = asyncio.current_task()

    @tool
    async def probe() -> AsyncGenerator[str, None]:
        """Look around."""
        seen.append(("tool", marked.get(), asyncio.current_task() is here))
        yield "half"
        marked.set("tool")
        seen.append(("tool again", marked.get(), asyncio.current_task() is here))
        yield "whole"

    class Model(fake.FakeModel):  # type: ignore[misc, name-defined]  # the example's own
        async def stream(self, *args: Any, **named: Any) -> AsyncGenerator[Any, None]:
            seen.append(("model", marked.get(), asyncio.current_task() is here))
            async for chunk in super().stream(*args, **named):
                yield chunk
                marked.set("model")

    class Hooks(HookProvider):
        def register_hooks(self, registry: HookRegistry, **named: Any) -> None:
            for kind in (BeforeToolCallEvent, AfterToolCallEvent, AfterModelCallEvent):
                registry.add_callback(kind, self.heard)

        def heard(self, event: Any) -> None:
            seen.append((type(event).__name__, marked.get(), asyncio.current_task() is here))

    marked.set("program")
    model = Model("fake", (1, 1), CALL, DONE)
    asked = Agent(model=model, tools=[probe], hooks=[Hooks()], callback_handler=None, tool_executor=executor)
    async for event in asked.stream_async("Go."):
        chunk = (sorted(event), marked.get())
        seen.append(chunk)
    return seen


@pytest.mark.parametrize("executor", [ConcurrentToolExecutor, SequentialToolExecutor])
async def test_order_variables_tasks_and_chunks_are_the_same_with_and_without_us(
    fake: ModuleType, executor: type[ToolExecutor]
) -> None:
    without = await asyncio.create_task(told(fake, executor()))
    with testing.capture(), adapters.instrument("strands"):
        assert await asyncio.create_task(told(fake, executor())) == without


@pytest.mark.parametrize("executor", [ConcurrentToolExecutor, SequentialToolExecutor])
async def test_nothing_of_ours_is_current_in_the_consumer_between_two_chunks(
    seen: testing.Captured, fake: ModuleType, executor: type[ToolExecutor]
) -> None:
    inside: list[Any] = []

    @tool
    async def probe() -> AsyncGenerator[str, None]:
        """Look around."""
        for chunk in ("half", "whole"):
            inside.append((get_current_span().get_span_context().span_id, agentbus.current() is not None))
            yield chunk

    with agentbus.agent("consumer") as consumer:
        before = get_current_span().get_span_context()
        asked = agent(fake, "asked", CALL, DONE, tools=[probe], tool_executor=executor())
        async for _ in asked.stream_async("Go."):
            assert agentbus.current() is consumer.invocation
            assert get_current_span().get_span_context() == before
        assert agentbus.current() is consumer.invocation
    called = seen.span("execute_tool probe").context
    assert called is not None
    assert inside == [(called.span_id, True)] * 2
    assert_outline(
        seen.spans,
        """
        invoke_agent consumer
        └─ invoke_agent asked
           ├─ chat fake-asked · 10+2
           ├─ chat fake-asked · 10+2
           └─ execute_tool probe
        """,
    )


async def test_the_model_is_current_while_it_is_asked_so_that_http_calls_nest(
    seen: testing.Captured, fake: ModuleType
) -> None:
    inside: list[int] = []

    class Model(fake.FakeModel):  # type: ignore[misc, name-defined]  # the example's own
        async def stream(self, *args: Any, **named: Any) -> AsyncGenerator[Any, None]:
            async for chunk in super().stream(*args, **named):
                inside.append(get_current_span().get_span_context().span_id)
                yield chunk

    await Agent(name="asked", model=Model("fake", (1, 1), DONE), callback_handler=None).invoke_async("Go.")
    called = seen.span("chat fake").context
    assert called is not None
    assert set(inside) == {called.span_id}


def test_what_runs_in_a_tool_nests_under_its_call_in_its_thread_too(seen: testing.Captured, fake: ModuleType) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    inside: list[Any] = []

    @tool
    def probe() -> str:
        """Look around."""
        with provider.get_tracer("http").start_as_current_span("GET") as span:
            inside.append(span.parent.span_id)  # type: ignore[attr-defined]  # the SDK's span has it
        with agentbus.agent("inner"):
            return "Done."

    with agentbus.agent("outer"):
        agent(fake, "asked", CALL, DONE, tools=[probe])("Go.")
    called = seen.span("execute_tool probe").context
    assert called is not None
    assert inside == [called.span_id]
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent asked
           ├─ chat fake-asked · 10+2
           ├─ chat fake-asked · 10+2
           └─ execute_tool probe
              └─ invoke_agent inner
        """,
    )


def test_spans_of_strands_own_that_are_recorded_leave_our_tree_as_it_is(
    seen: testing.Captured, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from strands.telemetry import tracer as native

    inside: list[int] = []

    @tool
    async def probe() -> str:
        """Look around."""
        inside.append(get_current_span().get_span_context().span_id)
        return str(await agent(fake, "inner", DONE).invoke_async("Go."))

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    own = native.Tracer()
    own.tracer_provider, own.tracer = provider, provider.get_tracer(own.service_name)
    monkeypatch.setattr(native, "_tracer_instance", own)
    agent(fake, "asked", CALL, DONE, tools=[probe])("Go.")
    theirs = exporter.get_finished_spans()
    assert {span.instrumentation_scope.name for span in theirs if span.instrumentation_scope} == {
        "strands.telemetry.tracer"
    }
    assert_outline(
        seen.spans,
        """
        invoke_agent asked
        ├─ chat fake-asked · 10+2
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe
           └─ invoke_agent inner
              └─ chat fake-inner · 10+2
        """,
    )
    called = seen.span("execute_tool probe").context
    assert called is not None
    assert inside == [called.span_id]
    assert len({span.context.trace_id for span in (*seen.spans, *theirs) if span.context}) == 1


# -- runs --------------------------------------------------------------------------------------------------------------


async def test_parallel_runs_keep_to_themselves(seen: testing.Captured, fake: ModuleType) -> None:
    @tool
    async def probe() -> str:
        """Let others run."""
        await asyncio.sleep(0)
        return "Done."

    agents = [agent(fake, f"a{n}", CALL, DONE, tools=[probe]) for n in range(5)]
    await asyncio.gather(*(asked.invoke_async("Go.") for asked in agents))
    one = "invoke_agent a{0}\n├─ chat fake-a{0} · 10+2\n├─ chat fake-a{0} · 10+2\n└─ execute_tool probe\n"
    assert_outline(seen.spans, "".join(one.format(n) for n in range(5)))


def test_runs_in_threads_keep_to_themselves(seen: testing.Captured, fake: ModuleType) -> None:
    threads = [threading.Thread(target=agent(fake, f"a{n}", DONE), args=("Go.",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_outline(seen.spans, "".join(f"invoke_agent a{n}\n└─ chat fake-a{n} · 10+2\n" for n in range(5)))


async def test_an_agent_that_was_made_before_we_listened_is_observed(fake: ModuleType) -> None:
    asked = agent(fake, "asked", DONE)
    with testing.capture() as seen, adapters.instrument("strands"):
        await asked.invoke_async("Go.")
        assert outline(seen.spans) == "invoke_agent asked\n└─ chat fake-asked · 10+2"


async def test_a_run_whose_task_is_cancelled_is_cancelled(seen: testing.Captured, fake: ModuleType) -> None:
    reached = asyncio.Event()

    @tool
    async def probe() -> str:
        """Wait for ever."""
        reached.set()
        await asyncio.Event().wait()
        return "Never."

    task = asyncio.create_task(agent(fake, "asked", CALL, tools=[probe]).invoke_async("Go."))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: len(seen.spans) == 3)
    assert_outline(
        seen.spans,
        """
        invoke_agent asked · ~cancelled
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe · ~cancelled
        """,
    )


async def test_a_run_that_cancels_itself_is_cancelled(seen: testing.Captured, fake: ModuleType) -> None:
    asked = agent(fake, "asked", DONE)
    async for event in asked.stream_async("Go."):
        if "data" in event:
            asked.cancel()
    assert_outline(seen.spans, "invoke_agent asked · ~cancelled\n└─ chat fake-asked · ~cancelled")


def test_a_model_that_fails_fails_the_run_with_its_own_error(seen: testing.Captured, fake: ModuleType) -> None:
    with pytest.raises(IndexError, match="pop from empty list"):
        agent(fake, "asked")("Go.")
    assert_outline(seen.spans, "invoke_agent asked · !IndexError\n└─ chat fake-asked · !IndexError")


def test_a_model_that_fails_later_is_the_same_error_to_us(seen: testing.Captured, fake: ModuleType) -> None:
    @tool
    def probe() -> str:
        """Nothing."""
        return "Done."

    with pytest.raises(EventLoopException):
        agent(fake, "asked", CALL, tools=[probe])("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent asked · !IndexError
        ├─ chat fake-asked · !IndexError
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe
        """,
    )


async def test_a_run_inside_the_handling_of_an_error_is_no_failure(seen: testing.Captured, fake: ModuleType) -> None:
    class Model(fake.FakeModel):  # type: ignore[misc, name-defined]  # the example's own
        async def structured_output(self, *args: Any, **named: Any) -> AsyncGenerator[Any, None]:
            yield {"output": Answer(text="Done.")}

    asked = Agent(name="asked", model=Model("fake-asked", (10, 2), DONE), callback_handler=None)
    try:
        raise ValueError("before")
    except ValueError:
        await asked.invoke_async("Go.")
        await asked.structured_output_async(Answer, "Go.")  # whose hook event tells of no result
    assert_outline(seen.spans, "invoke_agent asked\ninvoke_agent asked\n└─ chat fake-asked · 10+2")


class Answer(BaseModel):
    text: str


class Again(HookProvider):
    """Has the first model call and the first tool call made again."""

    def __init__(self) -> None:
        self.models = self.tools = 0

    def register_hooks(self, registry: HookRegistry, **named: Any) -> None:
        registry.add_callback(AfterModelCallEvent, self.model)
        registry.add_callback(AfterToolCallEvent, self.tool)

    def model(self, event: AfterModelCallEvent) -> None:
        self.models += 1
        event.retry = self.models == 1

    def tool(self, event: AfterToolCallEvent) -> None:
        self.tools += 1
        event.retry = self.tools == 1


def test_each_attempt_is_a_call_of_its_own(seen: testing.Captured, fake: ModuleType) -> None:
    calls: list[str] = []

    @tool
    def probe() -> str:
        """Fail once."""
        calls.append(agentbus.current().agent or "")  # type: ignore[union-attr]  # a run is current
        if len(calls) == 1:
            raise OSError("not yet")
        return "Done."

    agent(fake, "asked", CALL, CALL, DONE, tools=[probe], hooks=[Again()])("Go.")
    assert calls == ["asked", "asked"]
    assert_outline(
        seen.spans,
        """
        invoke_agent asked
        ├─ chat fake-asked · 10+2
        ├─ chat fake-asked · 10+2
        ├─ chat fake-asked · 10+2
        ├─ execute_tool probe
        └─ execute_tool probe · !OSError
        """,
    )
    assert len({span.context.span_id for span in seen.spans if span.context}) == 6


class Asks(HookProvider):
    """Interrupts the first tool call, for somebody to answer."""

    def register_hooks(self, registry: HookRegistry, **named: Any) -> None:
        registry.add_callback(BeforeToolCallEvent, self.ask)

    def ask(self, event: BeforeToolCallEvent) -> None:
        if event.interrupt("sure", reason="really?") != "yes":
            event.cancel_tool = "no"


def test_an_interrupt_is_no_error_and_what_is_resumed_is_another_run(seen: testing.Captured, fake: ModuleType) -> None:
    @tool
    def probe() -> str:
        """Nothing."""
        return "Done."

    asked = agent(fake, "asked", CALL, DONE, tools=[probe], hooks=[Asks()])
    result = asked("Go.")
    assert result.stop_reason == "interrupt"
    answer = {"interruptResponse": {"interruptId": result.interrupts[0].id, "response": "yes"}}
    assert asked([answer]).stop_reason == "end_turn"
    assert_outline(
        seen.spans,
        """
        invoke_agent asked
        └─ chat fake-asked · 10+2
        invoke_agent asked
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe
        """,
    )


def test_a_tool_that_a_hook_refuses_has_not_been_called(seen: testing.Captured, fake: ModuleType) -> None:
    class Refuses(HookProvider):
        def register_hooks(self, registry: HookRegistry, **named: Any) -> None:
            registry.add_callback(BeforeToolCallEvent, lambda event: setattr(event, "cancel_tool", "never"))

    agent(fake, "asked", CALL, DONE, hooks=[Refuses()])("Go.")
    assert_outline(seen.spans, "invoke_agent asked\n├─ chat fake-asked · 10+2\n└─ chat fake-asked · 10+2")


def test_a_tool_that_nobody_has_is_an_error_on_its_span(seen: testing.Captured, fake: ModuleType) -> None:
    agent(fake, "asked", CALL, DONE)("Go.")
    (called,) = [span for span in seen.spans if span.name == "execute_tool probe"]
    assert called.status.description == "Unknown tool: probe"


def test_a_tool_that_says_it_has_failed_is_an_error_on_its_span(seen: testing.Captured, fake: ModuleType) -> None:
    @tool
    def probe() -> dict[str, Any]:
        """Fail, and say so."""
        return {"status": "error", "content": [{"text": "Not today."}]}

    agent(fake, "asked", CALL, DONE, tools=[probe])("Go.")
    called = seen.span("execute_tool probe")
    assert (dict(called.attributes or {})["error.type"], called.status.description) == ("tool_error", "Not today.")


def test_a_tool_that_the_program_calls_itself_stands_for_itself(seen: testing.Captured, fake: ModuleType) -> None:
    @tool
    def probe() -> str:
        """Nothing."""
        return "Done."

    asked = agent(fake, "asked", tools=[probe])
    asked.tool.probe()
    with agentbus.agent("outer"):
        asked.tool.probe()
    assert_outline(seen.spans, "execute_tool probe\ninvoke_agent outer\n└─ execute_tool probe")


def test_an_agent_that_is_a_tool_nests_under_its_call(seen: testing.Captured, fake: ModuleType) -> None:
    helper = agent(fake, "probe", DONE, usage=(3, 1))
    agent(fake, "asked", {"calls": [("probe", '{"input": "Go."}')]}, DONE, tools=[helper])("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent asked
        ├─ chat fake-asked · 10+2
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe
           └─ invoke_agent probe
              └─ chat fake-probe · 3+1
        """,
    )


def test_a_graph_is_a_run_and_its_nodes_are_its_sub_agents(seen: testing.Captured, fake: ModuleType) -> None:
    builder = GraphBuilder()
    for name in ("first", "second", "third"):
        builder.add_node(agent(fake, name, DONE), name)
    builder.add_edge("first", "second")
    builder.add_edge("first", "third")
    builder.build()("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent default_graph
        ├─ invoke_agent first
        │  └─ chat fake-first · 10+2
        ├─ invoke_agent second
        │  └─ chat fake-second · 10+2
        └─ invoke_agent third
           └─ chat fake-third · 10+2
        """,
    )


def test_a_graph_whose_node_fails_has_failed_with_its_error(seen: testing.Captured, fake: ModuleType) -> None:
    builder = GraphBuilder()
    builder.add_node(agent(fake, "first"), "first")
    with pytest.raises(IndexError):
        builder.build()("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent default_graph · !IndexError
        └─ invoke_agent first · !IndexError
           └─ chat fake-first · !IndexError
        """,
    )


def test_a_swarm_tells_its_handoffs(seen: testing.Captured, fake: ModuleType) -> None:
    hand = {"calls": [("handoff_to_agent", '{"agent_name": "second", "message": "Yours."}')]}
    Swarm([agent(fake, "first", hand, DONE), agent(fake, "second", DONE)])("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent default_swarm
        ├─ invoke_agent first
        │  ├─ chat fake-first · 10+2
        │  ├─ chat fake-first · 10+2
        │  └─ execute_tool handoff_to_agent
        └─ invoke_agent second
           └─ chat fake-second · 10+2
        """,
    )
    handoffs = [event for event in seen.events if event.kind == "domain"]
    assert [(e.event, e.data, e.agent) for e in handoffs] == [  # type: ignore[attr-defined]  # they are domain events
        ("agent.handoff", {"from": "first", "to": "second"}, "default_swarm")
    ]


# -- switched off, broken, stopped -------------------------------------------------------------------------------------


def test_off_leaves_strands_as_it_was_found() -> None:
    def now() -> tuple[Any, ...]:
        return vars(HookRegistry)["invoke_callbacks_async"], event_loop.stream_messages, vars(ToolExecutor)["_stream"]

    before = now()
    for _ in range(2):
        with adapters.instrument("strands"):
            assert all(one is not other for one, other in zip(now(), before, strict=True))
        assert all(one is other for one, other in zip(now(), before, strict=True))


async def test_a_run_that_has_begun_is_observed_to_its_end_and_a_new_one_is_not(fake: ModuleType) -> None:
    @tool
    async def probe() -> str:
        """Nothing."""
        return "Done."

    before = vars(HookRegistry)["invoke_callbacks_async"]
    with testing.capture() as seen:
        switched = adapters.instrument("strands")
        running = agent(fake, "running", CALL, DONE, tools=[probe]).stream_async("Go.")
        await anext(running)
        await anext(running)
        switched.off()
        await agent(fake, "new", DONE).invoke_async("Go.")
        async for _ in running:
            pass
        assert vars(HookRegistry)["invoke_callbacks_async"] is before
        await agent(fake, "newer", DONE).invoke_async("Go.")
        assert_outline(
            seen.spans,
            """
            invoke_agent running
            ├─ chat fake-running · 10+2
            ├─ chat fake-running · 10+2
            └─ execute_tool probe
            """,
        )


@pytest.mark.parametrize("name", ["agent_block", "llm_block", "tool_block", "agent_end", "llm_end", "tool_end"])
def test_a_broken_mapping_never_reaches_the_run(
    name: str, seen: testing.Captured, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **named: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(mapping, name, broken)
    before = get_current()
    assert fake.run() == "Tea goes with rain."
    assert (get_current(), agentbus.current()) == (before, None)
    assert losses.counts
    losses.counts.clear()


def test_a_budget_stops_the_first_call_that_exceeds_it(fake: ModuleType) -> None:
    stop = Budget("week", tokens=100, window="7d", on_exceeded="raise")
    with testing.capture(budgets=[stop]) as seen, adapters.instrument("strands"):
        agent(fake, "asked", DONE, usage=(100, 10))("Go.")
        with pytest.raises(BudgetExceeded):
            agent(fake, "asked", DONE, usage=(100, 10))("Go.")
        assert seen.bus.summary().total.calls == 1


def test_a_budget_stops_a_tool_and_strands_wraps_what_is_raised_after_the_first_call(fake: ModuleType) -> None:
    called: list[str] = []

    @tool
    def probe() -> str:
        """Nothing."""
        called.append("probe")
        return "Done."

    stop = Budget("week", tokens=100, window="7d", on_exceeded="raise")
    with testing.capture(budgets=[stop]) as seen, adapters.instrument("strands"):
        with pytest.raises(EventLoopException) as refused:
            agent(fake, "asked", CALL, DONE, usage=(100, 10), tools=[probe])("Go.")
        assert isinstance(refused.value.original_exception, BudgetExceeded)
        assert not called
        assert outline(seen.spans) == (
            "invoke_agent asked · !otel_agentbus.errors.BudgetExceeded\n└─ chat fake-asked · 100+10"
        )


# -- what is told ------------------------------------------------------------------------------------------------------


def test_content_is_told_only_where_it_is_asked_for(fake: ModuleType) -> None:
    for asked in ("NO_CONTENT", "SPAN_ONLY"):
        with testing.capture(capture_content=asked) as seen, adapters.instrument("strands"):
            fake.run()
            said = [str(dict(span.attributes or {})) for span in seen.spans]
            assert any("Tea goes with rain" in text for text in said) is (asked == "SPAN_ONLY")


def test_messages_are_told_in_the_parts_schema_without_binary_content() -> None:
    assert mapping.rendered(
        [
            {"role": "user", "content": [{"text": "Look."}, {"image": {"format": "png", "source": {"bytes": b"x"}}}]},
            {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
                    {"reasoningContent": {"redactedContent": b"x"}},
                    {"toolUse": {"toolUseId": "1", "name": "probe", "input": {"raw": b"xy"}}},
                    {"citationsContent": {"citations": [], "content": [{"text": "So."}]}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "1", "status": "success", "content": [{"json": {"a": 1}}]}},
                    {"toolResult": {"toolUseId": "2", "status": "error", "content": [{"text": "a"}, {"text": "b"}]}},
                ],
            },
        ]
    ) == [
        {"role": "user", "parts": [{"type": "text", "content": "Look."}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "1", "name": "probe", "arguments": {"raw": "<2 bytes>"}},
                {"type": "text", "content": "So."},
            ],
        },
        {
            "role": "tool",
            "parts": [
                {"type": "tool_call_response", "id": "1", "response": {"a": 1}},
                {"type": "tool_call_response", "id": "2", "response": ["a", "b"]},
            ],
        },
    ]


def test_a_message_is_converted_once_and_again_where_it_has_changed() -> None:
    talk = mapping.Conversation()
    one, two = {"role": "user", "content": [{"text": "a"}]}, {"role": "assistant", "content": [{"text": "b"}]}
    first = talk.render([one, two])
    again = talk.render([dict(one), {**two, "content": [{"text": "c"}]}])
    assert first is not None
    assert again is not None
    assert again[0] is first[0]
    assert again[1] == {"role": "assistant", "parts": [{"type": "text", "content": "c"}]}


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ({"inputTokens": 100, "outputTokens": 10, "totalTokens": 110}, (100, 10, None, None)),
        (  # as OpenAI and Gemini count
            {"inputTokens": 100, "outputTokens": 10, "totalTokens": 110, "cacheReadInputTokens": 40},
            (100, 10, 40, None),
        ),
        (  # as Anthropic and Bedrock count
            {
                "inputTokens": 30,
                "outputTokens": 10,
                "totalTokens": 110,
                "cacheReadInputTokens": 40,
                "cacheWriteInputTokens": 30,
            },
            (100, 10, 40, 30),
        ),
        (  # as Strands' Anthropic counted before its sum told of the cache
            {"inputTokens": 30, "outputTokens": 10, "totalTokens": 40, "cacheReadInputTokens": 70},
            (100, 10, 70, None),
        ),
    ],
)
def test_input_tokens_are_told_with_those_that_were_cached(used: dict[str, int], expected: tuple[Any, ...]) -> None:
    said = mapping.usage(used)
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens")
    assert tuple(said.get(name) for name in names) == expected


def test_the_provider_is_told_under_its_opentelemetry_name(fake: ModuleType) -> None:
    def named(module: str, model_id: str = "") -> str | None:
        theirs = type("Model", (fake.FakeModel,), {"__module__": module})
        return mapping.provider_of(object.__new__(type("Own", (theirs,), {})), {"model_id": model_id})

    assert named("strands.models.anthropic") == "anthropic"
    assert named("strands.models.bedrock") == "aws.bedrock"
    assert named("strands.models.litellm", "bedrock/us.amazon.nova-lite") == "aws.bedrock"
    assert named("strands.models.litellm", "groq/llama") == "groq"
    assert named("strands.models.litellm", "gpt-5") == "openai"
    assert named("somebody.elses") is None


def test_a_conversation_is_told_only_where_the_application_names_one(seen: testing.Captured, fake: ModuleType) -> None:
    agent(fake, "one", DONE)("Go.")
    agent(fake, "two", DONE, trace_attributes={"session.id": "talk"})("Go.")
    assert {event.conversation_id for event in seen.events if event.agent == "one"} == {None}
    assert {event.conversation_id for event in seen.events if event.agent == "two"} == {"talk"}


def test_a_span_of_somebody_elses_is_the_parent_of_the_run(seen: testing.Captured, fake: ModuleType) -> None:
    outer = SpanContext(7, 8, is_remote=False, trace_flags=TraceFlags(1))
    with use_span(NonRecordingSpan(outer)):
        agent(fake, "asked", DONE)("Go.")
    run = seen.span("invoke_agent asked")
    assert run.parent is not None
    assert (run.parent.trace_id, run.parent.span_id) == (7, 8)


def test_values_that_json_cannot_say_are_told_as_text(seen: testing.Captured, fake: ModuleType) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

        __eq__ = __hash__ = None  # type: ignore[assignment]

    @tool
    def probe(given: Any = None) -> dict[str, Any]:
        """Gives more than JSON can say."""
        return {"status": "success", "content": [{"json": given}]}

    circle: list[Any] = []
    circle.append(circle)
    values = [{1, 2}, float("nan"), Broken(), {(1, 2): None, 3: b"12"}]
    asked = agent(fake, "asked", CALL, DONE, tools=[probe])
    for value in (values, circle):
        asked.tool.probe(given=value, record_direct_tool_call=False)
    assert len(seen.spans) == 2
    first, second = [event for event in seen.events if isinstance(event, ToolCall)]
    told = [[1, 2], "nan", "Broken", {"(1, 2)": None, "3": "<2 bytes>"}]
    assert (first.arguments, first.result) == ({"given": told}, told)
    assert second.result is not None


def test_what_cannot_be_told_takes_nothing_else_with_it(
    seen: testing.Captured, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(mapping, "_rendered", broken)
    assert fake.run() == "Tea goes with rain."
    assert_outline(seen.spans, TREE)
    monkeypatch.setattr(mapping, "agent_end", broken)
    assert fake.run() == "Tea goes with rain."
    assert seen.bus.flush()
    assert seen.bus.health()["spans"]["open"] == 0
    assert losses.counts
    losses.counts.clear()


async def test_usage_that_was_told_before_a_stream_failed_is_counted(seen: testing.Captured, fake: ModuleType) -> None:
    class Breaking(fake.FakeModel):  # type: ignore[misc, name-defined]
        async def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            async for chunk in super().stream(*args, **kwargs):
                yield chunk
            raise ConnectionError("gone")

    failing = Agent(name="failing", model=Breaking("fake-failing", (10, 2), DONE), callback_handler=None)
    with pytest.raises(ConnectionError):
        await failing.invoke_async("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent failing · !ConnectionError
        └─ chat fake-failing · 10+2 · !ConnectionError
        """,
    )
    assert (seen.bus.summary().total.input, seen.bus.summary().total.output) == (10, 2)


async def test_a_stream_that_somebody_else_has_wrapped_need_not_be_a_generator(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def __init__(self, found: Any) -> None:
            self.found = found

        def __aiter__(self) -> Any:
            return self.found.__aiter__()

    found = event_loop.stream_messages
    monkeypatch.setattr(event_loop, "stream_messages", lambda *args, **named: Stream(found(*args, **named)))
    with adapters.instrument("strands"), testing.capture() as seen:
        assert str(await agent(fake, "asked", DONE).invoke_async("Go.")).strip() == "Done."
        assert [span.name for span in seen.spans] == ["chat fake-asked", "invoke_agent asked"]


def test_runs_that_begin_and_end_in_other_threads_meanwhile_disturb_no_search() -> None:
    listening = Observation()

    class Graph:
        @property
        def nodes(self) -> dict[str, Any]:
            listening._runs[len(listening._runs), 0] = Run(None, None)
            return {}

    state: dict[str, Any] = {}
    listening._runs.update({(number, 1): Run(Graph(), state) for number in range(3)})
    assert listening._orchestrator_of(None, state) is None
