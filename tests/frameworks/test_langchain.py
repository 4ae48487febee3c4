"""LangChain and LangGraph, observed by one callback handler: the same runs as without it, told once."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import ToolException, tool
from langchain_core.tracers import context as tracing
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from langsmith import traceable
from langsmith.run_helpers import tracing_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, events, testing
from otel_agentbus.adapters.langchain import handler, mapping
from otel_agentbus.adapters.langchain.messages import Conversation, plain, rendered
from otel_agentbus.adapters.losses import losses
from otel_agentbus.invocation import Invocation
from otel_agentbus.testing import Captured

from .shape import assert_outline, outline, program

ASK = {"messages": [("user", "x")]}
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
    invoke_agent teller · ~cancelled
    └─ chat fake-teller
"""

seen_in = contextvars.ContextVar("seen_in", default="nowhere")


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> Iterator[None]:
    losses.counts.clear()
    yield
    assert not losses.counts
    assert len(handler.the_handler().runs) == 0, "something was left open"
    assert here() == (None, False)


def here() -> tuple[str | None, bool]:
    """The agent that is current here, and whether any span is."""
    run = agentbus.current()
    return None if run is None else run.agent, trace.get_current_span().get_span_context().is_valid


class Scripted(BaseChatModel):
    """A model that says what it is told to, streams in words, and may fail or wait."""

    model: str = "scripted"
    script: Any = ("fine",)
    gate: Any = None
    left: Any = None

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _next(self) -> AIMessage:
        if self.left is None:
            self.left = iter(self.script)
        said = next(self.left)
        if isinstance(said, BaseException):
            raise said
        return said if isinstance(said, AIMessage) else AIMessage(said, usage_metadata=used(2, 1))

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._next())])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if self.gate is not None:
            self.gate.set()
            await asyncio.Event().wait()
        return self._generate(messages)

    def _stream(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        said = self._next()
        words = str(said.content).split()
        for word in words[:-1]:
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        calls = [{"name": c["name"], "args": "{}", "id": c["id"], "index": i} for i, c in enumerate(said.tool_calls)]
        last = AIMessageChunk(words[-1] if words else "", tool_call_chunks=calls, usage_metadata=said.usage_metadata)
        yield ChatGenerationChunk(message=last)


def used(input_tokens: int, output_tokens: int, **details: Any) -> Any:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        **details,
    }


def says(*script: Any, model: str = "scripted", **more: Any) -> Scripted:
    return Scripted(script=script, model=model, **more)


def calls(*names: str, **arguments: Any) -> AIMessage:
    asked = [{"name": name, "args": arguments, "id": f"call-{number}"} for number, name in enumerate(names)]
    return AIMessage("", tool_calls=asked, usage_metadata=used(2, 1))


def graph(node: Callable[..., Any], name: str = "graph") -> Any:
    return StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile(name=name)


# -- the program of the same shape -------------------------------------------------------------------------------------


def test_the_program_is_one_tree_for_each_agent_that_was_asked(seen: Captured) -> None:
    example = program("langchain")
    assert (example.run(), example.tell()) == ("Tea goes with rain.", "Once")
    assert_outline(seen.spans, TREE)


def test_its_tokens_are_counted_once(seen: Captured) -> None:
    program("langchain").main()
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.cached) == (6, 340, 40, 120)
    found = {
        (dict(key)["gen_ai.agent.name"], dict(key)["gen_ai.token.type"]): value
        for key, value in seen.metric("agentbus.tokens.used").items()
    }
    assert found == {
        ("planner", "input"): 300,
        ("planner", "cache_read"): 120,
        ("planner", "output"): 30,
        ("researcher", "input"): 40,
        ("researcher", "output"): 10,
    }


def test_it_has_its_ids_arguments_results_and_errors(seen: Captured) -> None:
    program("langchain").run()
    tools = {
        (span.attributes or {})["gen_ai.tool.call.id"]: dict(span.attributes or {})
        for span in seen.spans
        if span.name.startswith("execute_tool")
    }
    assert set(tools) == {"call-tea", "call-rain", "call-publish"}
    assert tools["call-tea"]["gen_ai.tool.call.arguments"] == '{"topic":"tea"}'
    assert tools["call-tea"]["gen_ai.tool.call.result"] == '"It is wet."'
    assert tools["call-publish"]["error.type"] == "ConnectionError"
    planner = seen.span("invoke_agent planner").attributes or {}
    assert planner["gen_ai.input.messages"] == (
        '[{"role":"user","parts":[{"type":"text","content":"What goes with rain?"}]}]'
    )
    assert '"content":"Tea goes with rain."' in str(planner["gen_ai.output.messages"])


def test_content_is_captured_only_when_asked(instrumented: object) -> None:
    with testing.capture() as seen:
        program("langchain").main()
    said = " ".join(str(value) for span in seen.spans for value in (span.attributes or {}).values())
    for text in ("wet", "goes with", "Find facts", "Once", "no such channel"):
        assert text not in said


def effects_of(example: Any) -> list[Any]:
    """What the program does, in its order, with what its tools see around them."""
    done: list[Any] = []

    class Listening(BaseCallbackHandler):
        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            done.append(("asks", len(messages[0])))

        def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
            done.append(("tool", serialized["name"], seen_in.get()))

    token = seen_in.set("the program")
    try:
        answer = example.planner().invoke(ASK, {"callbacks": [Listening()], "max_concurrency": 1})
    finally:
        seen_in.reset(token)
    done.append([(message.type, message.content) for message in answer["messages"]])
    done.append(example.tell())
    return done


def test_it_does_the_same_with_and_without_us() -> None:
    without = effects_of(program("langchain"))
    with adapters.instrument("langchain"), testing.capture():
        assert effects_of(program("langchain")) == without


# -- what a run sees ---------------------------------------------------------------------------------------------------


async def around() -> list[Any]:
    """What an async tool sees of its place, and what its failure is for the caller."""
    found: list[Any] = []
    kept = ValueError("kept")

    @tool
    async def look() -> str:
        """Look."""
        task = asyncio.current_task()
        runs = None if task is None else getattr(task.get_coro(), "__qualname__", None)
        found.append((seen_in.get(), runs, threading.current_thread().name))
        seen_in.set("the tool")
        raise kept

    seen_in.set("the caller")
    agent = create_agent(says(calls("look")), [look])
    try:
        await agent.ainvoke(ASK)
    except ValueError as error:
        found.append(error is kept)
    found.append(seen_in.get())
    return found


def test_a_tool_runs_in_the_same_task_and_context_and_its_exception_is_the_same_with_and_without_us() -> None:
    without = asyncio.run(around())
    with adapters.instrument("langchain"), testing.capture():
        assert asyncio.run(around()) == without
    assert without[1:] == [True, "the caller"]


def nested(agent: Any) -> Any:
    @tool
    def work(topic: str = "") -> str:
        """Work."""
        with agentbus.agent("inner"), trace.get_tracer("users").start_as_current_span("http"):
            agent.invoke(ASK)
        return "done"

    return create_agent(says(calls("work"), "done"), [work], name="asker")


def test_blocks_and_runs_nest_right_in_a_tool_and_under_an_outer_agent(seen: Captured) -> None:
    with agentbus.agent("outer"):
        nested(create_agent(says("x"), name="helper")).invoke(ASK)
        assert agentbus.current().agent == "outer"  # type: ignore[union-attr]
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent asker
           ├─ chat scripted · 2+1
           ├─ chat scripted · 2+1
           └─ execute_tool work
              └─ invoke_agent inner
                 └─ invoke_agent helper
                    └─ chat scripted · 2+1
        """,
    )


async def test_what_the_users_functions_do_nests_under_them_sync_and_async(seen: Captured) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("users")
    above: dict[str, Any] = {}

    def http(name: str) -> None:
        with tracer.start_as_current_span(name) as span:
            above[name] = None if span.parent is None else span.parent.span_id  # type: ignore[attr-defined]

    class Calling(Scripted):
        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
            http(f"provider of {self.model}")
            return self._generate(messages)

    @tool
    async def fetch() -> str:
        """Fetch."""
        http("in the tool")
        await inner.ainvoke(ASK)
        http("in the tool, after an agent")
        return "x"

    async def node(state: MessagesState) -> Any:
        http("in the node")
        await Calling(model="second", script=["x"]).ainvoke("x")
        http("in the node, after a model")
        return {"messages": []}

    inner = create_agent(Calling(model="first", script=["x"]), name="inner")
    await create_agent(Calling(model="asking", script=[calls("fetch"), "x"]), [fetch], name="asker").ainvoke(ASK)
    http("after the agent")
    await graph(node).ainvoke(ASK)
    http("after the graph")
    ids = {span.name: span.context.span_id for span in seen.spans if span.name != "chat asking"}
    names = {id: name for name, id in ids.items()}
    assert {name: names.get(id, id and "chat asking") for name, id in above.items()} == {
        "provider of asking": "chat asking",
        "provider of first": "chat first",
        "provider of second": "chat second",
        "in the tool": "execute_tool fetch",
        "in the tool, after an agent": "execute_tool fetch",
        "in the node": "invoke_agent graph",
        "in the node, after a model": "invoke_agent graph",
        "after the agent": None,
        "after the graph": None,
    }


async def test_nothing_stays_current_after_anything_that_was_awaited(seen: Captured) -> None:
    chain = ChatPromptTemplate.from_template("{x}") | says(*"abc") | StrOutputParser()
    await chain.ainvoke({"x": "1"})
    assert here() == (None, False)
    await says("x").ainvoke("x")
    assert here() == (None, False)
    with pytest.raises(ValueError, match="broken"):
        await says(ValueError("broken")).ainvoke("x")
    assert here() == (None, False)
    await asyncio.gather(*(create_agent(says("x"), name=name).ainvoke(ASK) for name in "ab"))
    assert here() == (None, False)


# -- streams -----------------------------------------------------------------------------------------------------------


async def node_that_looks(state: MessagesState) -> Any:
    assert here() == ("graph", True)
    answer = await says("one two three").ainvoke(state["messages"])
    assert here() == ("graph", True)
    with agentbus.agent("inside"):
        await asyncio.sleep(0)
    return {"messages": [answer]}


def sync_node_that_looks(state: MessagesState) -> Any:
    assert here() == ("graph", True)
    answer = says("one two three").invoke(state["messages"])
    assert here() == ("graph", True)
    with agentbus.agent("inside"):
        return {"messages": [answer]}


LOOKED = """
    invoke_agent graph
    ├─ chat scripted · 2+1
    └─ invoke_agent inside
"""


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "custom"])
async def test_a_streamed_graph_is_current_in_its_nodes_and_not_in_the_consumer(seen: Captured, mode: str) -> None:
    async for _ in graph(node_that_looks).astream(ASK, stream_mode=mode):
        assert here() == (None, False)
    assert here() == (None, False)
    assert_outline(seen.spans, LOOKED)


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "custom"])
def test_so_it_is_where_it_is_streamed_without_a_loop(seen: Captured, mode: str) -> None:
    for _ in graph(sync_node_that_looks).stream(ASK, stream_mode=mode):
        assert here() == (None, False)
    assert_outline(seen.spans, LOOKED)


async def test_so_it_is_where_its_events_are_streamed(seen: Captured) -> None:
    async for _ in graph(node_that_looks).astream_events(ASK, version="v2"):
        assert here() == (None, False)
    assert_outline(seen.spans, LOOKED)


def looking_chain(model: Scripted) -> Any:
    def look(text: str) -> str:
        assert here() == ("RunnableSequence", True)
        return text

    return ChatPromptTemplate.from_template("{x}") | model | StrOutputParser() | RunnableLambda(look)


async def test_a_chain_is_one_tree_and_current_in_its_functions_however_it_runs(seen: Captured) -> None:
    chain = looking_chain(says(*["a b"] * 8))
    chain.invoke({"x": "1"})
    await chain.ainvoke({"x": "1"})
    for _ in chain.stream({"x": "1"}):
        assert here() == (None, False)
    async for _ in chain.astream({"x": "1"}):
        assert here() == (None, False)
    chain.batch([{"x": "1"}, {"x": "2"}])
    await chain.abatch([{"x": "1"}, {"x": "2"}])
    assert here() == (None, False)
    assert outline(seen.spans) == "\n".join(["invoke_agent RunnableSequence", "└─ chat scripted · 2+1"] * 8)


def test_a_chain_in_an_agent_block_adds_no_agent_of_its_own(seen: Captured) -> None:
    with agentbus.agent("mine"):
        (ChatPromptTemplate.from_template("{x}") | says("a") | StrOutputParser()).invoke({"x": "1"})
    assert_outline(seen.spans, "invoke_agent mine\n└─ chat scripted · 2+1")


def test_a_prompt_or_a_parser_alone_is_no_agent(seen: Captured) -> None:
    ChatPromptTemplate.from_template("{x}").invoke({"x": "1"})
    StrOutputParser().invoke("x")
    assert seen.spans == ()


def test_a_streamed_call_has_its_first_chunk(seen: Captured) -> None:
    assert [chunk.content for chunk in says("a b c").stream("x")] == ["a", "b", "c", ""]
    chat = seen.span("chat scripted").attributes or {}
    assert chat["gen_ai.request.stream"] is True
    assert 0 <= float(chat["gen_ai.response.time_to_first_chunk"]) < 60  # type: ignore[arg-type]
    assert (chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == (2, 1)


def test_a_call_that_streams_because_somebody_listens_to_its_graph_says_so(seen: Captured) -> None:
    list(create_agent(says("a b c")).stream(ASK, stream_mode="messages"))
    chat = seen.span("chat scripted").attributes or {}
    assert chat["gen_ai.request.stream"] is True
    assert "gen_ai.response.time_to_first_chunk" in chat


async def test_a_stream_that_is_left_early_is_cancelled(seen: Captured) -> None:
    async def words(stream: AsyncIterator[Any]) -> None:
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]

    await words(says("a b c").astream("x"))
    await words(create_agent(says("a b c"), name="teller").astream(ASK, stream_mode="messages"))
    for stream in (says("a b c").stream("x"), (says("a b c") | StrOutputParser()).stream("x")):
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert {span.name: (span.attributes or {})["agentbus.outcome"] for span in seen.spans[:1]} == {
        "chat scripted": "cancelled"
    }
    outcomes = [
        (span.name, (span.attributes or {})["agentbus.outcome"])
        for span in seen.spans
        if span.name.startswith("invoke_agent")
    ]
    assert outcomes == [("invoke_agent teller", "cancelled"), ("invoke_agent RunnableSequence", "cancelled")]
    assert not [span for span in seen.spans if not span.status.is_ok and span.status.is_unset is False]


async def test_a_stream_that_is_dropped_is_cancelled_when_it_is_collected(seen: Captured) -> None:
    async def first() -> None:
        async for _ in create_agent(says("a b c"), name="teller").astream(ASK, stream_mode="messages"):
            break

    await first()
    gc.collect()
    while len(handler.the_handler().runs):
        await asyncio.sleep(0)
    assert (seen.span("invoke_agent teller").attributes or {})["agentbus.outcome"] == "cancelled"


async def test_a_cancelled_task_leaves_everything_ended_and_cancelled(seen: Captured) -> None:
    gate = asyncio.Event()
    task = asyncio.ensure_future(create_agent(says("x", gate=gate), name="waiting").ainvoke(ASK))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_outline(seen.spans, "invoke_agent waiting · ~cancelled\n└─ chat scripted · ~cancelled")


async def test_a_cancelled_tool_ends_though_nobody_tells(seen: Captured) -> None:
    gate = asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        gate.set()
        await asyncio.Event().wait()
        return ""

    task = asyncio.ensure_future(create_agent(says(calls("wait")), [wait], name="waiting").ainvoke(ASK))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_outline(
        seen.spans,
        """
        invoke_agent waiting · ~cancelled
        ├─ chat scripted · 2+1
        └─ execute_tool wait · ~cancelled
        """,
    )


async def test_a_call_that_a_timeout_ends_is_no_parent_of_what_its_task_does_next(seen: Captured) -> None:
    @tool
    async def wait() -> str:
        """Wait."""
        await asyncio.Event().wait()
        return ""

    waiting, two = says(gate=asyncio.Event(), model="waiting"), [[HumanMessage("a")], [HumanMessage("b")]]
    slow_ones: list[Any] = [lambda: wait.ainvoke({}), lambda: waiting.ainvoke("x"), lambda: waiting.agenerate(two)]
    for slow in slow_ones:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await slow()
        await create_agent(says("x"), name="next").ainvoke(ASK)
    while len(handler.the_handler().runs):
        gc.collect()
        await asyncio.sleep(0)
    assert here() == (None, False)
    assert_outline(
        seen.spans,
        """
        chat waiting · ~cancelled
        chat waiting · ~cancelled
        chat waiting · ~cancelled
        execute_tool wait · ~cancelled
        invoke_agent next
        └─ chat scripted · 2+1
        invoke_agent next
        └─ chat scripted · 2+1
        invoke_agent next
        └─ chat scripted · 2+1
        """,
    )


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_model_that_fails_fails_its_agent_with_the_same_exception(seen: Captured, streamed: bool) -> None:
    broken = ValueError("broken")
    agent = create_agent(says(broken), name="unlucky")
    with pytest.raises(ValueError, match="broken") as caught:
        list(agent.stream(ASK, stream_mode="messages")) if streamed else agent.invoke(ASK)
    assert caught.value is broken
    assert_outline(seen.spans, "invoke_agent unlucky · !ValueError\n└─ chat scripted · !ValueError")


async def test_each_attempt_of_a_retry_and_each_fallback_is_a_call(seen: Captured) -> None:
    retried = says(ValueError("no"), "yes").with_retry(wait_exponential_jitter=False)
    assert (await retried.ainvoke("x")).content == "yes"
    assert says(ValueError("no")).with_fallbacks([says("yes", model="other")]).invoke("x").content == "yes"
    assert_outline(
        seen.spans,
        """
        invoke_agent RunnableWithFallbacks
        ├─ chat other · 2+1
        └─ chat scripted · !ValueError
        invoke_agent Scripted
        ├─ chat scripted · !ValueError
        └─ chat scripted · 2+1
        """,
    )


def test_a_tools_error_that_the_model_is_given_is_an_error_of_the_tool_only(seen: Captured) -> None:
    @tool
    def fail() -> str:
        """Fail."""
        raise ToolException("no such thing")

    fail.handle_tool_error = True
    agent = create_agent(says(calls("fail"), "then not"), [fail], name="asker")
    assert agent.invoke(ASK)["messages"][-1].content == "then not"
    assert_outline(
        seen.spans,
        """
        invoke_agent asker
        ├─ chat scripted · 2+1
        ├─ chat scripted · 2+1
        └─ execute_tool fail · !tool_error
        """,
    )


def test_what_breaks_in_observing_never_reaches_the_run(seen: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("ours")

    for name in ("answered", "model", "returned", "conversation_id"):
        monkeypatch.setattr(mapping, name, broken)
    example = program("langchain")
    assert (example.run(), example.tell()) == ("Tea goes with rain.", "Once")
    assert losses.counts.total() > 0
    losses.counts.clear()


class Stop(BaseException):
    """What stops a run, and is no `Exception`."""


class Hostile:
    """What can be neither compared, nor tried, nor written, nor looked into."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("eq")

    def __bool__(self) -> bool:
        raise ValueError("bool")

    def __str__(self) -> str:
        raise ValueError("str")

    def __getattr__(self, name: str) -> Any:
        raise ValueError("attribute")

    __hash__ = None  # type: ignore[assignment]
    __repr__ = __str__


class Holder(BaseModel):
    """A user's model with anything in it."""

    value: Any
    secret: str = Field(default="hidden", exclude=True)


def test_what_can_be_read_only_once_is_left_to_the_run(seen: Captured) -> None:
    def three() -> Iterator[int]:
        return (number for number in range(3))

    class State(TypedDict):
        numbers: Any
        read: Any

    @tool
    def count() -> Any:
        """Count."""
        return three()

    def read(state: State) -> dict[str, Any]:
        return {"read": list(state["numbers"])}

    chain: Any = RunnableLambda(list)
    state = StateGraph(State).add_node("read", read).add_edge(START, "read").compile()
    assert chain.invoke(three()) == [0, 1, 2]
    assert chain.invoke(map(str, three())) == ["0", "1", "2"]
    assert list(RunnableLambda(lambda _: three()).invoke("x")) == [0, 1, 2]
    assert list(RunnableLambda(lambda _: Holder(value=three())).invoke("x").value) == [0, 1, 2]
    assert list(count.invoke({})) == [0, 1, 2]
    assert state.invoke({"numbers": three()})["read"] == [0, 1, 2]


def test_what_cannot_be_told_is_seen_all_the_same(seen: Captured) -> None:
    @tool
    def odd() -> Any:
        """Give something odd."""
        return {Hostile: 1, 2: Hostile()}

    class State(TypedDict):
        messages: Any

    def answered(state: State) -> dict[str, Any]:
        return {"messages": [Hostile()]}

    own = StateGraph(State).add_node("node", answered).add_edge(START, "node").compile(name="own messages")
    RunnableLambda(lambda _: Hostile(), name="hostile").invoke(Hostile())
    own.invoke({"messages": [3, Hostile()]})
    odd.invoke({})
    assert_outline(seen.spans, "execute_tool odd\ninvoke_agent hostile\ninvoke_agent own messages")


@pytest.mark.parametrize("broken", ["returned", "answered"])
def test_what_cannot_be_read_of_an_answer_ends_all_the_same(
    seen: Captured, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    @tool
    def act() -> str:
        """Act."""
        return "done"

    monkeypatch.setattr(mapping, broken, lambda *_: 1 / 0)
    create_agent(says(calls("act"), "fine"), [act], name="agent").invoke(ASK)
    assert losses.counts.total() > 0
    losses.counts.clear()
    assert {(event.kind, getattr(event, "outcome", None)) for event in seen.events if "end" in event.kind} == {
        ("agent.end", "ok"),
        ("tool.end", "ok"),
    }
    seen.bus.flush()
    assert seen.bus.health()["spans"]["open"] == 0


def test_what_refers_to_itself_or_is_huge_is_told_in_part() -> None:
    itself: list[Any] = []
    itself.extend([itself] * 12)
    told = [plain(itself), plain([[0.0] * 1000] * 1000)]
    assert max(len(str(one)) for one in told) < 1_000_000


def test_values_are_told_as_json_would_write_them() -> None:
    given = {"day": date(2026, 1, 2), "path": Path("a/b"), "price": Decimal("1.50"), "kind": Kind.TEA, "it": iter([1])}
    assert plain(given) == {"day": "2026-01-02", "path": "a/b", "price": "1.50", "kind": "tea", "it": "list_iterator"}
    assert plain([Holder(value={"x": {b"y"}})]) == [{"value": {"x": ["bytes"]}}]


class Kind(Enum):
    TEA = "tea"


class Sources(BaseRetriever):
    """A retriever that is stopped, or waits."""

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        raise Stop

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        await asyncio.Event().wait()
        return []


def test_a_call_that_is_left_by_no_exception_is_over(seen: Captured) -> None:
    @tool
    def stop() -> str:
        """Stop."""
        raise Stop

    kept = []

    def step(_: Any) -> None:
        for stopped in (stop, Sources()):
            try:
                stopped.invoke({} if stopped is stop else "x")
            except Stop as error:
                kept.append(error)  # with its traceback, in which the call lives on

    with pytest.raises(Stop):
        stop.invoke({})
    assert here() == (None, False)
    with pytest.raises(Stop):
        create_agent(says(calls("stop")), [stop], name="agent").invoke(ASK)
    RunnableLambda(step, name="chain").invoke("x")
    assert here() == (None, False)
    kept.clear()
    assert_outline(
        seen.spans,
        """
        execute_tool stop · ~cancelled
        invoke_agent agent · ~cancelled
        ├─ chat scripted · 2+1
        └─ execute_tool stop · ~cancelled
        invoke_agent chain
        └─ execute_tool stop · ~cancelled
        """,
    )


async def test_a_retrieval_that_is_cancelled_is_over(seen: Captured) -> None:
    async def node(_: Any) -> dict[str, Any]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await Sources().ainvoke("x")
        await says("x").ainvoke("x")
        return {}

    await graph(node, "graph").ainvoke(ASK)
    assert_outline(seen.spans, "invoke_agent graph\n└─ chat scripted · 2+1")


def test_a_budget_stops_the_next_call_and_its_exception_reaches_the_caller(instrumented: object) -> None:
    def outcomes(run: Callable[[], Any]) -> list[str]:
        found = []
        for _ in range(4):
            try:
                run()
                found.append("ran")
            except BudgetExceeded as refused:
                found.append(refused.budget)
        return found

    stop = Budget("week", tokens=5, window="7d", on_exceeded="raise")
    with testing.capture(budgets=[stop]) as seen:
        assert outcomes(lambda: create_agent(says("a"), name="a").invoke(ASK)) == ["ran", "ran", "week", "week"]
        assert here() == (None, False)
        ends = [event.outcome for event in seen.events if isinstance(event, events.AgentEnd)]
        assert ends == ["ok", "ok", "error", "error"]
        assert seen.bus.summary().total.calls == 2
    with testing.capture(budgets=[stop]) as seen:
        run = lambda: asyncio.run(create_agent(says("a"), name="a").ainvoke(ASK))  # noqa: E731
        assert outcomes(run) == ["ran", "ran", "week", "week"]
        assert seen.bus.summary().total.calls == 2


# -- what the calls say ------------------------------------------------------------------------------------------------


def test_usage_is_told_as_providers_classes_tell_it() -> None:
    details = {
        "input_token_details": {"cache_read": 5, "cache_creation": 0, "ephemeral_1h_input_tokens": 7, "audio": 3},
        "output_token_details": {"flex_reasoning": 4},
    }
    message = AIMessage(
        "x",
        usage_metadata=used(100, 10, **details),
        response_metadata={"model_name": "m-1", "finish_reason": "stop", "id": "r-1", "service_tier": "flex"},
    )
    assert mapping.answered(LLMResult(generations=[[ChatGeneration(message=message)]])) == {
        "response_model": "m-1",
        "response_id": "r-1",
        "finish_reasons": ["stop"],
        "service_tier": "flex",
        "messages": [{"role": "assistant", "parts": [{"type": "text", "content": "x"}]}],
        "input_tokens": 100,
        "output_tokens": 10,
        "cache_read_input_tokens": 5,
        "cache_write_input_tokens": 7,
        "reasoning_output_tokens": 4,
        "usage": {"cache_write_1h_tokens": 7, "input_audio_tokens": 3},
        "cost_usd": None,
    }


def test_counts_that_are_none_are_left_out() -> None:
    message = AIMessage("x")
    said: Any = {"input_tokens": "5", "output_tokens": -1, "input_token_details": {"cache_read": True, 3: 4}}
    message.usage_metadata = said
    counted = mapping.usage([message], {})
    assert {name: count for name, count in counted.items() if count is not None} == {}


def test_usage_of_classes_that_tell_it_beside_the_answer(seen: Captured) -> None:
    result = LLMResult(
        generations=[[ChatGeneration(message=AIMessage("x"))]],
        llm_output={"token_usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.25}, "model_name": "old"},
    )
    fields = mapping.answered(result)
    assert {key: fields[key] for key in ("input_tokens", "output_tokens", "cost_usd", "response_model")} == {
        "input_tokens": 3,
        "output_tokens": 2,
        "cost_usd": 0.25,
        "response_model": "old",
    }
    assert FakeListLLM(responses=["a"]).invoke("x") == "a"
    assert [span.name for span in seen.spans] == ["text_completion FakeListLLM"]


def test_providers_have_their_opentelemetry_names() -> None:
    names = ("openai", "azure", "amazon_bedrock", "google_genai", "mistralai", "groq")
    assert [mapping.provider({"ls_provider": name}) for name in names] == [
        "openai",
        "azure.ai.openai",
        "aws.bedrock",
        "gcp.gemini",
        "mistral_ai",
        "groq",
    ]


def test_messages_are_told_in_the_parts_schema_and_converted_once() -> None:
    thoughts = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "so"}]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    linked = {"type": "image", "url": "https://example.org/a.png"}
    call = {"name": "t", "args": {"a": 1}, "id": "c"}
    messages = [
        SystemMessage("be good"),
        HumanMessage([{"type": "text", "text": "look"}, image, linked]),
        AIMessage(thoughts, tool_calls=[call]),
        ToolMessage("42", tool_call_id="c", artifact=object()),
    ]
    conversation = Conversation()
    first = conversation.render(messages)
    assert first == [
        {"role": "system", "parts": [{"type": "text", "content": "be good"}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "look"},
                {"type": "uri", "modality": "image", "uri": "https://example.org/a.png"},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "text", "content": "so"},
                {"type": "tool_call", "id": "c", "name": "t", "arguments": {"a": 1}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "42"}]},
    ]
    again = conversation.render([*messages, AIMessage("done")])
    assert all(one is other for one, other in zip(first, again[:-1], strict=True))
    assert again[-1] == rendered(AIMessage("done"))


def test_the_same_tool_call_id_given_twice_names_two_calls(seen: Captured) -> None:
    @tool
    def work() -> str:
        """Work."""
        return "done"

    create_agent(says(calls("work"), calls("work"), "done"), [work]).invoke(ASK)
    ids = [event.tool_call_id for event in seen.events if isinstance(event, events.ToolCall)]
    assert ids == ["call-0", "call-0#2"]


def test_an_artifact_is_no_result_and_a_commands_update_is(seen: Captured) -> None:
    @tool(response_format="content_and_artifact")
    def draw() -> tuple[str, bytes]:
        """Draw."""
        return "drawn", b"binary"

    draw.invoke({"type": "tool_call", "name": "draw", "args": {}, "id": "c"})
    assert [event.result for event in seen.events if isinstance(event, events.ToolCall)] == ["drawn"]
    told = mapping.returned(Command(update={"messages": [ToolMessage("moved", tool_call_id="c")]}))
    answer = {"type": "tool_call_response", "id": "c", "response": "moved"}
    assert told == {"result": {"messages": [{"role": "tool", "parts": [answer]}]}}


@pytest.fixture
def cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("cache")
async def test_an_answer_from_langchains_own_cache_is_no_usage(seen: Captured) -> None:
    model = says("a", "b")
    for _ in range(2):
        assert model.invoke("x").content == "a"
    assert (await model.ainvoke("x")).content == "a"
    moments = [event for event in seen.events if isinstance(event, (events.CacheHit, events.CacheMiss))]
    assert [(type(event).__name__, getattr(event, "tokens_saved", None)) for event in moments] == [
        ("CacheMiss", None),
        ("CacheHit", 3),
        ("CacheHit", 3),
    ]
    total = seen.bus.summary().total
    assert (total.input, total.output) == (2, 1)
    with adapters.instrument("langchain"):
        says("c", cache=False).invoke("x")
    assert len([event for event in seen.events if isinstance(event, events.CacheMiss)]) == 1


class Finding(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if query == "nothing":
            raise LookupError(query)
        return [Document("a"), Document("b")]


def test_a_retrieval_is_an_event_of_its_run_without_its_query(seen: Captured) -> None:
    chain = Finding() | RunnableLambda(len)
    assert chain.invoke("a secret") == 2
    with pytest.raises(LookupError):
        chain.invoke("nothing")
    with agentbus.agent("mine"):
        Finding().invoke("another secret")
    told = [(event.agent, event.data) for event in seen.events if isinstance(event, events.DomainEvent)]
    assert told == [
        ("RunnableSequence", {"documents": 2}),
        ("RunnableSequence", {"error_type": "LookupError"}),
        ("mine", {"documents": 2}),
    ]


# -- graphs ------------------------------------------------------------------------------------------------------------


def test_a_thread_is_the_conversation_and_an_interrupt_no_error(seen: Captured) -> None:
    @tool
    def approve() -> str:
        """Ask a human."""
        return str(interrupt("may I?"))

    agent = create_agent(says(calls("approve"), "done"), [approve], name="asker", checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "thread-7"}}
    agent.invoke(ASK, config)
    assert agent.invoke(Command(resume="yes"), config)["messages"][-1].content == "done"
    assert_outline(
        seen.spans,
        """
        invoke_agent asker
        ├─ chat scripted · 2+1
        └─ execute_tool approve
        invoke_agent asker
        ├─ chat scripted · 2+1
        └─ execute_tool approve
        """,
    )
    assert {(span.attributes or {}).get("gen_ai.conversation.id") for span in seen.spans} == {"thread-7"}
    assert [(span.attributes or {}).get("langgraph.interrupted") for span in seen.spans if "tool" in span.name] == [
        True,
        None,
    ]


def test_graphs_in_graphs_are_sub_agents_and_a_handoff_is_told(seen: Captured) -> None:
    def leave(state: MessagesState) -> Any:
        return Command(goto="second", graph=Command.PARENT)

    first = StateGraph(MessagesState).add_node("leave", leave).add_edge(START, "leave").compile()
    second = create_agent(says("done"), name="second")
    whole = (
        StateGraph(MessagesState)
        .add_node("first", first, destinations=("second",))
        .add_node("second", second)
        .add_edge(START, "first")
        .add_edge("second", END)
        .compile(name="swarm")
    )
    whole.invoke(ASK)
    assert_outline(
        seen.spans,
        """
        invoke_agent swarm
        ├─ invoke_agent first
        └─ invoke_agent second
           └─ chat scripted · 2+1
        """,
    )
    told = [(event.agent, event.name, event.data) for event in seen.events if isinstance(event, events.DomainEvent)]
    assert told == [("first", "agent.handoff", {"from": "first", "to": "second"})]


async def test_parallel_branches_nodes_and_runs_keep_their_own(seen: Captured) -> None:
    both = RunnableParallel(a=says("1", model="a"), b=says("2", model="b"))
    assert {key: value.content for key, value in both.invoke("x").items()} == {"a": "1", "b": "2"}
    sends = StateGraph(MessagesState)
    for name in "cd":
        sends.add_node(name, lambda state, name=name: {"messages": [says(name, model=name).invoke("x")]})
        sends.add_edge(START, name)
    await sends.compile(name="wide").ainvoke(ASK)
    assert_outline(
        seen.spans,
        """
        invoke_agent RunnableParallel<a,b>
        ├─ chat a · 2+1
        └─ chat b · 2+1
        invoke_agent wide
        ├─ chat c · 2+1
        └─ chat d · 2+1
        """,
    )


async def test_several_prompts_in_one_call_are_calls_side_by_side(seen: Captured) -> None:
    two = [[HumanMessage("a")], [HumanMessage("b")]]
    says("x", "y").generate(two)
    await says("x", "y").agenerate(two)
    assert FakeListLLM(responses=["a", "b"]).batch(["x", "y"]) == ["a", "b"]
    lines = ["chat scripted · 2+1"] * 4 + ["text_completion FakeListLLM"] * 2
    assert outline(seen.spans) == "\n".join(lines)


def test_a_chain_in_a_job_of_a_worker_is_an_agent(seen: Captured) -> None:
    def job() -> None:
        Invocation.flush()
        RunnableLambda(lambda text: text).invoke("x")

    contextvars.copy_context().run(job)
    assert_outline(seen.spans, "invoke_agent RunnableLambda")


def test_threads_with_loops_of_their_own_do_not_mix(seen: Captured) -> None:
    def work(name: str) -> None:
        asyncio.run(nested_async(name))

    async def nested_async(name: str) -> None:
        @tool
        async def ask() -> str:
            """Ask."""
            await create_agent(says("x"), name=f"{name}-inner").ainvoke(ASK)
            return "x"

        await create_agent(says(calls("ask", "ask"), "x"), [ask], name=name).ainvoke(ASK)

    threads = [threading.Thread(target=work, args=(f"agent-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one = """
        invoke_agent agent-{0}
        ├─ chat scripted · 2+1
        ├─ chat scripted · 2+1
        ├─ execute_tool ask
        │  └─ invoke_agent agent-{0}-inner
        │     └─ chat scripted · 2+1
        └─ execute_tool ask
           └─ invoke_agent agent-{0}-inner
              └─ chat scripted · 2+1"""
    assert_outline(seen.spans, "".join(one.format(number) for number in range(4)))


def test_tools_without_an_agent_in_a_node_of_tools(seen: Captured) -> None:
    @tool
    def work() -> str:
        """Work."""
        return "done"

    from langgraph.prebuilt import ToolNode  # warns where it is old, which is no matter inside a test

    tools = StateGraph(MessagesState).add_node("tools", ToolNode([work])).add_edge(START, "tools").compile(name="t")
    tools.invoke({"messages": [calls("work", "work")]})
    assert work.invoke({}) == "done"
    assert_outline(seen.spans, "execute_tool work\ninvoke_agent t\n├─ execute_tool work\n└─ execute_tool work")


# -- the switch --------------------------------------------------------------------------------------------------------


def test_off_observes_nothing_new_and_what_has_begun_to_its_end() -> None:
    with testing.capture() as seen:
        switch = adapters.instrument("langchain")
        stream = graph(sync_node_that_looks).stream(ASK, stream_mode="values")
        next(stream)
        switch.off()
        create_agent(says("x"), name="unseen").invoke(ASK)
        list(stream)
        assert_outline(seen.spans, LOOKED)
        with adapters.instrument("langchain"):
            create_agent(says("x"), name="again").invoke(ASK)
        assert seen.span("invoke_agent again").name == "invoke_agent again"


def test_langsmiths_own_tracing_goes_on_beside(seen: Captured) -> None:
    client = mock.MagicMock()
    with tracing_context(enabled=True, client=client):
        traceable(lambda: create_agent(says("x"), name="a").invoke(ASK), name="outer")()
    assert {call.kwargs["name"] for call in client.create_run.call_args_list} >= {"outer", "a", "model", "Scripted"}
    assert_outline(seen.spans, "invoke_agent a\n└─ chat scripted · 2+1")


def test_switching_on_again_and_again_attaches_one_handler(seen: Captured) -> None:
    for _ in range(3):
        with adapters.instrument("langchain"):
            says("x").invoke("x")
    assert outline(seen.spans) == "\n".join(["chat scripted · 2+1"] * 3)
    assert len([hook for hook in tracing._configure_hooks if hook[0] is handler._hook]) == 1


def test_a_configuration_with_the_handler_in_it_can_be_copied_and_pickled(instrumented: object) -> None:
    ours = handler.the_handler()
    assert copy.copy(ours) is ours
    assert copy.deepcopy({"callbacks": [ours]})["callbacks"][0] is ours
    assert pickle.loads(pickle.dumps(ours)) is ours
