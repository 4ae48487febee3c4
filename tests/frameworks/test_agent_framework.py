"""Microsoft agent-framework, observed at its innermost layers: the same program, its tree, its tokens, unchanged."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from agent_framework import (
    Agent,
    AgentResponse,
    AgentSession,
    BaseAgent,
    BaseChatClient,
    ChatContext,
    ChatMiddleware,
    ChatResponse,
    Content,
    FunctionInvocationContext,
    FunctionMiddleware,
    FunctionTool,
    Message,
    RawAgent,
    ResponseStream,
    Workflow,
    WorkflowBuilder,
    tool,
)
from agent_framework._middleware import MiddlewareTermination
from agent_framework.exceptions import UserInputRequiredException
from agent_framework.observability import AgentTelemetryLayer, enable_instrumentation
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters.agent_framework import mapping
from otel_agentbus.adapters.losses import losses

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
CALLED = """
    invoke_agent asked
    ├─ chat fake-asked · 10+2
    ├─ chat fake-asked · 10+2
    └─ execute_tool probe
"""

marked: contextvars.ContextVar[str] = contextvars.ContextVar("marked", default="")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> Iterator[None]:
    losses.counts.clear()
    logging.getLogger("agent_framework").setLevel(logging.CRITICAL)
    yield
    assert not losses.counts


@pytest.fixture
def fake() -> ModuleType:
    return program("agent-framework")


def agent(fake: ModuleType, name: str, *turns: Any, usage: tuple[int, int] = (10, 2), **given: Any) -> Agent[Any]:
    return Agent(client=fake.FakeClient(f"fake-{name}", usage, *turns), name=name, **given)


def call(name: str = "probe", **arguments: str) -> list[Content]:
    return [Content.from_function_call(call_id=f"{name}-0", name=name, arguments=arguments)]


def done(*texts: str) -> list[Content]:
    return [Content.from_text(text) for text in texts or ("Do", "ne.")]


def nothing() -> str:
    """Nothing."""
    return "Done."


probe = FunctionTool(name="probe", func=nothing)


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("It did not happen.")


async def test_the_program_is_one_tree_with_every_model_call_counted_once(
    seen: testing.Captured, fake: ModuleType
) -> None:
    assert await fake.run() == "Tea goes with rain."
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
    await until(lambda: gc.collect() >= 0 and len(seen.spans) == 2)
    assert_outline(seen.spans, LEFT)
    assert "gen_ai.response.time_to_first_chunk" in (seen.span("chat fake-teller").attributes or {})


def test_what_the_program_says_is_printed_with_and_without_us(fake: ModuleType, capsys: Any) -> None:
    fake.main()
    without = capsys.readouterr()
    with testing.capture() as seen, adapters.instrument("agent-framework"):
        fake.main()
        gc.collect()
        assert len(seen.spans) == 13
    assert capsys.readouterr().out == without.out == "Tea goes with rain.\nOnce \n"


# -- nothing is changed ------------------------------------------------------------------------------------------------


async def told(fake: ModuleType, *, stream: bool) -> list[Any]:
    """What a program sees of itself: its order, its variables, its tasks, its chunks."""
    seen: list[Any] = []
    here = asyncio.current_task()

    def mark(name: str) -> None:
        seen.append((name, marked.get(), asyncio.current_task() is here))
        marked.set(name)

    async def look() -> str:
        """Look around."""
        mark("tool")
        return "Done."

    class Client(fake.FakeClient):  # type: ignore[misc, name-defined]  # the example's own
        async def _answer(self) -> ChatResponse:
            mark("model")
            return await super()._answer()

        async def _updates(self) -> AsyncIterator[Any]:
            async for update in super()._updates():
                mark("model")
                yield update

    class Functions(FunctionMiddleware):
        async def process(self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
            mark("before")
            await call_next()
            mark("after")

    marked.set("program")
    client = Client("fake", (1, 1), call("look"), done())
    asked = Agent(client=client, tools=[look], middleware=[Functions()])
    if stream:
        answer = asked.run("Go.", stream=True)
        assert type(answer) is ResponseStream
        async for update in answer:
            mark(f"update {update.text}")
        seen.append((await answer.get_final_response()).text)
    else:
        seen.append((await asked.run("Go.")).text)
    mark("end")
    return seen


@pytest.mark.parametrize("stream", [False, True])
async def test_order_variables_tasks_and_chunks_are_the_same_with_and_without_us(
    fake: ModuleType, stream: bool
) -> None:
    without = await asyncio.create_task(told(fake, stream=stream))
    with testing.capture() as seen, adapters.instrument("agent-framework"):
        assert await asyncio.create_task(told(fake, stream=stream)) == without
        assert len(seen.spans) == 4


async def test_nothing_of_ours_is_current_in_the_consumer_between_two_chunks(
    seen: testing.Captured, fake: ModuleType
) -> None:
    inside: list[int] = []

    class Client(fake.FakeClient):  # type: ignore[misc, name-defined]  # the example's own
        async def _updates(self) -> AsyncIterator[Any]:
            async for update in super()._updates():
                inside.append(get_current_span().get_span_context().span_id)
                yield update

    with agentbus.agent("consumer") as consumer:
        before = get_current()
        asked = Agent(client=Client("fake-asked", (10, 2), call(), done()), name="asked", tools=[probe])
        async for _ in asked.run("Go.", stream=True):
            assert agentbus.current() is consumer.invocation
            assert get_current() is before
        assert agentbus.current() is consumer.invocation
    chats = {span.context.span_id for span in seen.spans if span.name == "chat fake-asked" and span.context}
    assert set(inside) == chats
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


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_is_current_while_it_is_asked_so_that_http_calls_nest(
    seen: testing.Captured, fake: ModuleType, stream: bool
) -> None:
    inside: list[int] = []

    class Client(fake.FakeClient):  # type: ignore[misc, name-defined]  # the example's own
        def _inner_get_response(self, **given: Any) -> Any:
            if given["stream"]:  # else it is not under way before it is awaited
                inside.append(get_current_span().get_span_context().span_id)
            return super()._inner_get_response(**given)

        async def _answer(self) -> ChatResponse:
            inside.append(get_current_span().get_span_context().span_id)
            return await super()._answer()

    asked = Agent(client=Client("fake", (1, 1), done()), name="asked")
    await (asked.run("Go.", stream=True).get_final_response() if stream else asked.run("Go."))
    called = seen.span("chat fake").context
    assert called is not None
    assert inside == [called.span_id]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_runs_in_a_tool_nests_under_its_call_in_its_thread_too(
    seen: testing.Captured, fake: ModuleType, stream: bool
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    inside: list[Any] = []

    def look() -> None:
        with provider.get_tracer("http").start_as_current_span("GET") as span:
            inside.append(span.parent.span_id)  # type: ignore[attr-defined]  # the SDK's span has it
        with agentbus.agent("inner"):
            pass

    async def probe() -> str:
        """Look around."""
        await asyncio.to_thread(look)
        return "Done."

    asked = agent(fake, "asked", call(), done(), tools=[probe])
    with agentbus.agent("outer"):
        if stream:
            await asked.run("Go.", stream=True).get_final_response()
        else:
            await asked.run("Go.")
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


@pytest.mark.parametrize("stream", [False, True])
async def test_spans_of_the_frameworks_own_that_are_recorded_leave_our_tree_as_it_is(
    seen: testing.Captured, fake: ModuleType, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    enable_instrumentation()  # on by default since 1.8
    inside: list[int] = []

    async def probe() -> str:
        """Ask another."""
        inside.append(get_current_span().get_span_context().span_id)
        return str(await agent(fake, "inner", done()).run("Go."))

    asked = agent(fake, "asked", call(), done(), tools=[probe])
    if stream:
        await asked.run("Go.", stream=True).get_final_response()
    else:
        await asked.run("Go.")
    theirs = exporter.get_finished_spans()
    assert {span.instrumentation_scope.name for span in theirs if span.instrumentation_scope} == {"agent_framework"}
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
    assert len({span.context.trace_id for span in seen.spans if span.context}) == 1
    called = seen.span("execute_tool probe").context
    assert called is not None
    if hasattr(FunctionTool, "_invoke_function"):
        assert inside == [called.span_id]


# -- runs --------------------------------------------------------------------------------------------------------------


async def test_parallel_runs_keep_to_themselves(seen: testing.Captured, fake: ModuleType) -> None:
    async def probe() -> str:
        """Let others run."""
        await asyncio.sleep(0)
        return "Done."

    async def ask(n: int) -> None:
        asked = agent(fake, f"a{n}", call(), done(), tools=[probe])
        await (asked.run("Go.") if n % 2 else asked.run("Go.", stream=True).get_final_response())

    await asyncio.gather(*(ask(n) for n in range(6)))
    one = "invoke_agent a{0}\n├─ chat fake-a{0} · 10+2\n├─ chat fake-a{0} · 10+2\n└─ execute_tool probe\n"
    assert_outline(seen.spans, "".join(one.format(n) for n in range(6)))


def test_runs_in_threads_and_loops_of_their_own_keep_to_themselves(seen: testing.Captured, fake: ModuleType) -> None:
    async def ask(n: int) -> None:
        await agent(fake, f"a{n}", done()).run("Go.")

    threads = [threading.Thread(target=lambda n=n: asyncio.run(ask(n))) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_outline(seen.spans, "".join(f"invoke_agent a{n}\n└─ chat fake-a{n} · 10+2\n" for n in range(5)))


async def test_a_streamed_run_goes_to_its_end(seen: testing.Captured, fake: ModuleType) -> None:
    stream = agent(fake, "asked", call(), done(), tools=[probe]).run("Go.", stream=True)
    assert "".join([update.text async for update in stream]) == "Done."
    assert_outline(seen.spans, CALLED)


async def test_a_stream_that_nobody_reads_is_cancelled(seen: testing.Captured, fake: ModuleType) -> None:
    stream = agent(fake, "asked", done()).run("Go.", stream=True)
    await asyncio.sleep(0)
    del stream
    gc.collect()
    assert_outline(seen.spans, "invoke_agent asked · ~cancelled")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
async def test_a_stream_that_is_closed_is_cancelled_at_once(seen: testing.Captured, fake: ModuleType) -> None:
    stream = agent(fake, "asked", done()).run("Go.", stream=True)
    await anext(aiter(stream))
    close = getattr(stream, "close", None)
    if close is None:
        pytest.skip("this version's streams cannot be closed")
    await close()
    assert_outline(seen.spans, "invoke_agent asked · ~cancelled\n└─ chat fake-asked · ~cancelled")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_whose_task_is_cancelled_is_cancelled(
    seen: testing.Captured, fake: ModuleType, stream: bool
) -> None:
    reached = asyncio.Event()

    async def probe() -> str:
        """Wait for ever."""
        reached.set()
        await asyncio.Event().wait()
        return "Never."

    async def ask() -> None:
        asked = agent(fake, "asked", call(), tools=[probe])
        await (asked.run("Go.", stream=True).get_final_response() if stream else asked.run("Go."))

    task = asyncio.create_task(ask())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_outline(
        seen.spans,
        """
        invoke_agent asked · ~cancelled
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe · ~cancelled
        """,
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_fails_fails_the_run_with_its_own_error(
    seen: testing.Captured, fake: ModuleType, stream: bool
) -> None:
    asked = agent(fake, "asked")
    with pytest.raises(IndexError, match="pop from empty list"):
        await (asked.run("Go.", stream=True).get_final_response() if stream else asked.run("Go."))
    assert_outline(seen.spans, "invoke_agent asked · !IndexError\n└─ chat fake-asked · !IndexError")


async def test_each_attempt_is_a_call_of_its_own(seen: testing.Captured, fake: ModuleType) -> None:
    calls: list[str] = []

    class Again(ChatMiddleware):
        async def process(self, context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
            await call_next()
            if not calls:
                await call_next()

    class Twice(FunctionMiddleware):
        async def process(self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
            try:
                await call_next()
            except OSError:
                await call_next()

    async def probe() -> str:
        """Fail once."""
        calls.append("probe")
        if len(calls) == 1:
            raise OSError("not yet")
        return "Done."

    turns = (call(), call(), done())
    await agent(fake, "asked", *turns, tools=[probe], middleware=[Again(), Twice()]).run("Go.")
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


async def test_a_middleware_that_ends_the_loop_is_no_error(seen: testing.Captured, fake: ModuleType) -> None:
    class Ends(FunctionMiddleware):
        async def process(self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
            await call_next()
            raise MiddlewareTermination(result=context.result)

    await agent(fake, "asked", call(), tools=[probe], middleware=[Ends()]).run("Go.")
    assert_outline(seen.spans, "invoke_agent asked\n├─ chat fake-asked · 10+2\n└─ execute_tool probe")


async def test_a_middleware_that_answers_instead_of_the_model_is_no_call(
    seen: testing.Captured, fake: ModuleType
) -> None:
    class Cached(ChatMiddleware):
        async def process(self, context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
            context.result = ChatResponse(messages=[Message("assistant", ["Known."])])

    assert (await agent(fake, "asked", middleware=[Cached()]).run("Go.")).text == "Known."
    assert_outline(seen.spans, "invoke_agent asked")


async def test_an_approval_that_is_asked_for_is_no_error(seen: testing.Captured, fake: ModuleType) -> None:
    careful = tool(nothing, name="probe", approval_mode="always_require")
    response = await agent(fake, "asked", call(), tools=[careful]).run("Go.")
    assert response.user_input_requests
    assert_outline(seen.spans, "invoke_agent asked\n└─ chat fake-asked · 10+2")


async def test_a_tool_that_needs_the_user_first_has_not_failed(seen: testing.Captured) -> None:
    def needs() -> str:
        """Ask the user."""
        raise UserInputRequiredException(contents=[Content.from_text("Sure?")])

    with pytest.raises(UserInputRequiredException):
        await FunctionTool(name="probe", func=needs).invoke(arguments={})
    assert_outline(seen.spans, "execute_tool probe")


async def test_an_agent_that_is_a_tool_nests_under_its_call(seen: testing.Captured, fake: ModuleType) -> None:
    helper = agent(fake, "helper", done(), usage=(3, 1)).as_tool(name="probe")
    await agent(fake, "asked", call(task="Go."), done(), tools=[helper]).run("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent asked
        ├─ chat fake-asked · 10+2
        ├─ chat fake-asked · 10+2
        └─ execute_tool probe
           └─ invoke_agent helper
              └─ chat fake-helper · 3+1
        """,
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_workflow_is_a_run_and_its_agents_are_its_sub_agents(
    seen: testing.Captured, fake: ModuleType, stream: bool
) -> None:
    first, second = agent(fake, "first", done()), agent(fake, "second", done())
    workflow = WorkflowBuilder(start_executor=first, name="flow").add_edge(first, second).build()
    if stream:
        async for _ in workflow.run("Go.", stream=True):
            assert agentbus.current() is None
    else:
        await workflow.run("Go.")
    assert_outline(
        seen.spans,
        """
        invoke_agent flow
        ├─ invoke_agent first
        │  └─ chat fake-first · 10+2
        └─ invoke_agent second
           └─ chat fake-second · 10+2
        """,
    )


async def test_a_request_that_the_program_makes_itself_stands_for_itself(
    seen: testing.Captured, fake: ModuleType
) -> None:
    client = fake.FakeClient("fake", (1, 1), done(), done())
    await client.get_response([Message("user", ["Go."])])
    await client.get_response([Message("user", ["Go."])], stream=True).get_final_response()
    await probe.invoke(arguments={})
    assert_outline(seen.spans, "chat fake · 1+1\nchat fake · 1+1\nexecute_tool probe")


async def test_an_agent_without_layers_is_observed_once(seen: testing.Captured, fake: ModuleType) -> None:
    await RawAgent(client=fake.FakeClient("fake-asked", (10, 2), done()), name="asked").run("Go.")
    assert_outline(seen.spans, "invoke_agent asked\n└─ chat fake-asked · 10+2")


class Elsewhere(BaseAgent):  # type: ignore[misc]  # the framework is not typed here
    """An agent that runs somewhere else."""

    def run(self, messages: Any = None, *, stream: bool = False, **given: Any) -> Any:
        async def answer() -> AgentResponse[Any]:
            return AgentResponse(messages=[Message("assistant", ["Done."])])

        return answer()


class RemoteAgent(AgentTelemetryLayer, Elsewhere):  # type: ignore[misc]  # the framework's own
    """An agent of a kind of its own, with the framework's telemetry."""


async def test_an_agent_of_another_kind_is_observed_too(seen: testing.Captured) -> None:
    assert (await RemoteAgent(name="remote").run("Go.")).text == "Done."
    assert_outline(seen.spans, "invoke_agent remote")


# -- switched off, broken, stopped -------------------------------------------------------------------------------------


def test_off_leaves_the_framework_as_it_was_found() -> None:
    def now() -> list[Any]:
        wrapped = ((RawAgent, "run"), (AgentTelemetryLayer, "run"), (BaseChatClient, "get_response"))
        return [vars(owner)[name] for owner, name in (*wrapped, (FunctionTool, "invoke"), (Workflow, "run"))]

    before = now()
    for _ in range(2):
        with adapters.instrument("agent-framework"):
            assert all(one is not other for one, other in zip(now(), before, strict=True))
        assert all(one is other for one, other in zip(now(), before, strict=True))


async def test_a_run_that_has_begun_is_observed_to_its_end_and_a_new_one_is_not(fake: ModuleType) -> None:
    before = vars(RawAgent)["run"]
    with testing.capture() as seen:
        switched = adapters.instrument("agent-framework")
        running = agent(fake, "asked", call(), done(), tools=[probe]).run("Go.", stream=True)
        updates = aiter(running)
        await anext(updates)
        switched.off()
        await agent(fake, "new", done()).run("Go.")
        async for _ in updates:
            pass
        assert vars(RawAgent)["run"] is before
        await agent(fake, "newer", done()).run("Go.")
        assert_outline(seen.spans, CALLED)


@pytest.mark.parametrize(
    "name", ["agent_block", "llm_block", "tool_block", "agent_end", "llm_end", "tool_end", "agent_end_of", "llm_end_of"]
)
async def test_a_broken_mapping_never_reaches_the_run(
    name: str, seen: testing.Captured, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **named: Any) -> Any:
        raise RuntimeError("ours")

    monkeypatch.setattr(mapping, name, broken)
    before = get_current()
    assert await fake.run() == "Tea goes with rain."
    assert (await agent(fake, "asked", done()).run("Go.", stream=True).get_final_response()).text == "Done."
    assert (get_current(), agentbus.current()) == (before, None)
    assert losses.counts
    losses.counts.clear()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_budget_stops_the_call_that_exceeds_it(fake: ModuleType, stream: bool) -> None:
    called: list[str] = []

    async def probe() -> str:
        """Nothing."""
        called.append("probe")
        return "Done."

    stop = Budget("week", tokens=100, window="7d", on_exceeded="raise")
    with testing.capture(budgets=[stop]) as seen, adapters.instrument("agent-framework"):
        before = get_current()
        asked = agent(fake, "asked", call(), done(), usage=(100, 10), tools=[probe])
        with warnings.catch_warnings(record=True) as warned, pytest.raises(BudgetExceeded):
            await (asked.run("Go.", stream=True).get_final_response() if stream else asked.run("Go."))
        assert not called
        assert [str(warning.message) for warning in warned] == []  # nothing is left that nobody awaits
        assert (get_current(), agentbus.current()) == (before, None)
        assert outline(seen.spans) == (
            "invoke_agent asked · !otel_agentbus.errors.BudgetExceeded\n└─ chat fake-asked · 100+10"
        )


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["NO_CONTENT", "SPAN_ONLY"])
async def test_content_is_told_only_where_it_is_asked_for(fake: ModuleType, asked: str) -> None:
    with testing.capture(capture_content=asked) as seen, adapters.instrument("agent-framework"):
        await fake.run()
        said = [str(dict(span.attributes or {})) for span in seen.spans]
        assert any("Tea goes with rain" in text for text in said) is (asked == "SPAN_ONLY")


def test_messages_are_told_in_the_parts_schema_without_binary_content() -> None:
    assert mapping.rendered(
        [
            Message("user", [Content.from_text("Look."), Content.from_data(b"x", media_type="image/png")]),
            Message(
                "assistant",
                [
                    Content.from_text_reasoning(text="Hm."),
                    Content.from_function_call(call_id="1", name="probe", arguments='{"a": 1}'),
                ],
            ),
            Message("tool", [Content.from_function_result(call_id="1", result="Done.")]),
        ]
    ) == [
        {"role": "user", "parts": [{"type": "text", "content": "Look."}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "1", "name": "probe", "arguments": {"a": 1}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "Done."}]},
    ]


async def test_a_streamed_answer_is_told_as_the_message_that_it_makes(seen: testing.Captured, fake: ModuleType) -> None:
    await agent(fake, "asked", done()).run("Go.", stream=True).get_final_response()
    (answered,) = [event for event in seen.events if event.kind == "llm.response"]
    assert answered.messages == [  # type: ignore[attr-defined]  # it is a response
        {"role": "assistant", "parts": [{"type": "text", "content": "Done."}]}
    ]
    assert answered.finish_reasons == ["stop"]  # type: ignore[attr-defined]  # it is a response


def test_a_message_is_converted_once_and_again_where_it_has_more() -> None:
    talk = mapping.Conversation()
    one, two = Message("user", ["a"]), Message("assistant", ["b"])
    first = talk.render([one, two])
    two.contents.append(Content.from_text("c"))
    again = talk.render([one, two])
    assert again[0] is first[0]
    assert again[1] == {"role": "assistant", "parts": [{"type": "text", "content": t} for t in "bc"]}


@pytest.mark.parametrize(
    ("provider", "used", "expected"),
    [
        ("openai", {"input_token_count": 100, "output_token_count": 10}, (100, 10, None, None, None)),
        (
            "openai",
            {
                "input_token_count": 100,
                "output_token_count": 10,
                "total_token_count": 110,
                "openai.cached_input_tokens": 40,
                "openai.reasoning_tokens": 7,
            },
            (100, 10, 40, None, 7),
        ),
        (
            "anthropic",
            {
                "input_token_count": 30,
                "output_token_count": 10,
                "cache_creation_input_token_count": 30,
                "anthropic.cache_creation_input_tokens": 30,
                "anthropic.cache_read_input_tokens": 40,
            },
            (100, 10, 40, 30, None),
        ),
        (
            "aws.bedrock",
            {
                "input_token_count": 60,
                "output_token_count": 10,
                "total_token_count": 110,
                "cache_read_input_token_count": 40,
            },
            (100, 10, 40, None, None),
        ),
    ],
)
def test_input_tokens_are_told_with_those_that_were_cached(
    provider: str, used: dict[str, int], expected: tuple[Any, ...]
) -> None:
    said = mapping.usage(used, provider)
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens")
    assert tuple(said.get(name) for name in (*names, "reasoning_output_tokens")) == expected


async def test_a_conversation_is_told_only_where_the_service_or_the_application_names_one(
    seen: testing.Captured, fake: ModuleType
) -> None:
    for name, session in (
        ("none", None),
        ("made-up", AgentSession()),
        ("ours", AgentSession(session_id="talk")),
        ("service", AgentSession(service_session_id="theirs")),
    ):
        await agent(fake, name, done()).run("Go.", session=session)
    told = {(event.agent, event.conversation_id) for event in seen.events}
    assert told == {("none", None), ("made-up", None), ("ours", "talk"), ("service", "theirs")}


async def test_settings_of_a_request_are_told(seen: testing.Captured, fake: ModuleType) -> None:
    asked = agent(fake, "asked", done(), default_options={"temperature": 0.5, "stop": "."})
    await asked.run("Go.", options={"max_tokens": 7, "model": "other"})
    (request,) = [event for event in seen.events if event.kind == "llm.request"]
    assert (request.model, request.model_provider, request.parameters) == (  # type: ignore[attr-defined]  # a request
        "other",
        "fake",
        {"temperature": 0.5, "max_tokens": 7, "stop_sequences": ["."]},
    )
