"""LlamaIndex as it is told: agents, teams, workflows, engines, and models that are wrapped in models counted once."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, VectorStoreIndex
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.mock import MockFunctionCallingLLM, MockLLM
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.tools import FunctionTool, ToolOutput, function_tool
from llama_index.core.workflow import Context, StartEvent, StopEvent, Workflow, step
from llama_index_instrumentation import get_dispatcher, root_dispatcher
from llama_index_instrumentation.dispatcher import Dispatcher, instrument_tags
from llama_index_instrumentation.span import active_span_id
from llama_index_instrumentation.span_handlers import SimpleSpanHandler
from opentelemetry import trace
from pydantic import BaseModel
from workflows.errors import WorkflowCancelledByUser
from workflows.events import HumanResponseEvent, InputRequiredEvent

import otel_agentbus as agentbus
from otel_agentbus import adapters, testing
from otel_agentbus.adapters.llama_index import models, runs
from otel_agentbus.adapters.llama_index.answers import Answer
from otel_agentbus.adapters.llama_index.kinds import provider_of
from otel_agentbus.adapters.llama_index.mapping import asked
from otel_agentbus.adapters.losses import losses
from otel_agentbus.events import AgentStart, CacheHit, CacheMiss, DomainEvent, LlmRequest, LlmResponse

from .shape import assert_outline, outline, program

USAGE = {"prompt_tokens": 7, "completion_tokens": 2}


@pytest.fixture(autouse=True)
def nothing_is_left(instrumented: adapters.Instrumented) -> Iterator[None]:
    """Whatever a test does, everything that has begun has ended, and nothing of ours has failed."""
    lost = losses.counts.copy()
    yield
    switch: Any = adapters.active().get("llama-index")
    if switch is not None:
        assert testing.wait_until(lambda: not (switch._spans.open_spans or switch._observer.is_busy))
        assert len(switch._observer.places.blocks) == 0
    assert agentbus.current() is None
    assert losses.counts == lost


class Scripted(MockFunctionCallingLLM):
    """Gives its turns one after the other: texts, tool calls (id, name, arguments), or exceptions to raise."""

    model: str = "fake"
    turns: list[Any] = ["Yes."]  # noqa: RUF012 - pydantic copies it
    pause: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True, is_function_calling_model=True)

    def _answer(self, messages: Sequence[ChatMessage]) -> ChatResponse:
        turn = self.turns[sum(message.role == "assistant" for message in messages) % len(self.turns)]
        if isinstance(turn, BaseException):
            raise turn
        blocks: list[Any] = (
            [TextBlock(text=turn)]
            if isinstance(turn, str)
            else [ToolCallBlock(tool_call_id=id, tool_name=name, tool_kwargs=given) for id, name, given in turn]
        )
        raw = {"id": "r-1", "model": "fake-2026", "usage": USAGE, "choices": [{"finish_reason": "stop"}]}
        return ChatResponse(message=ChatMessage(role="assistant", blocks=blocks), raw=raw)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._answer(messages)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        if self.pause is not None:
            await self.pause()
        return self.chat(messages, **kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return self._chunks(messages)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        async def later() -> AsyncGenerator[ChatResponse, None]:
            for chunk in self._chunks(messages):
                yield chunk
                if self.pause is not None:
                    await self.pause()

        return later()

    def _chunks(self, messages: Sequence[ChatMessage]) -> Generator[ChatResponse, None, None]:
        answer = self._answer(messages)
        words = str(answer.message.content or "").split(" ")
        for number in range(len(words) - 1):
            text = " ".join(words[: number + 1])
            yield ChatResponse(message=ChatMessage(text, role="assistant"), delta=words[number], raw={"usage": None})
        answer.delta = words[-1]
        yield answer


class Completing(CustomLLM):
    """As users write one: it completes, all else is the base class's."""

    model: str = "custom"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="Yes.", raw={"usage": USAGE})

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def chunks() -> Generator[CompletionResponse, None, None]:
            yield CompletionResponse(text="Y", delta="Y")
            yield CompletionResponse(text="Yes.", delta="es.", raw={"usage": USAGE})

        return chunks()


def agent(*turns: Any, name: str = "planner", **options: Any) -> FunctionAgent:
    pause = options.pop("pause", None)
    return FunctionAgent(name=name, llm=Scripted(turns=list(turns), pause=pause), **{"streaming": False, **options})


HELLO = [ChatMessage("Hello?", role="user")]


# -- the program ------------------------------------------------------------------------------------------------------


async def test_the_program_is_told_as_it_is(seen: testing.Captured) -> None:
    module = program("llama-index")
    assert (await module.run(), await module.tell()) == ("Tea goes with rain.", "Once\n")
    assert_outline(
        seen.spans,
        """
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
        └─ chat fake-teller · 15+3 · ~cancelled
        """,
    )
    used: dict[tuple[str, str], int] = {}
    for key, value in seen.metric("agentbus.tokens.used").items():
        said = dict(key)
        used[said["gen_ai.agent.name"], said["gen_ai.token.type"]] = value
    assert used == {
        ("planner", "input"): 300,
        ("planner", "cache_read"): 120,
        ("planner", "output"): 30,
        ("researcher", "input"): 40,
        ("researcher", "output"): 10,
        ("teller", "input"): 15,
        ("teller", "output"): 3,
    }
    ids = {span.attributes["gen_ai.tool.call.id"] for span in seen.spans if span.name.startswith("execute_tool")}  # type: ignore[index]
    assert ids == {"call-tea", "call-rain", "call-publish"}


async def test_the_same_program_runs_the_same_with_and_without_us() -> None:
    said: contextvars.ContextVar[str] = contextvars.ContextVar("said")

    async def told() -> tuple[list[Any], Any, Any]:
        effects: list[Any] = []

        async def first(word: str) -> str:
            task = asyncio.current_task()
            effects.append((word, said.get(), task is not None and task is not outer, sorted(_others())))
            return word.upper()

        def second() -> str:
            effects.append(("second", said.get(), threading.current_thread() is threading.main_thread()))
            raise KeyError("lost")

        outer = asyncio.current_task()
        said.set("mine")
        planner = agent([("1", "first", {"word": "a"})], [("2", "second", {})], "Done.", tools=[first, second])
        handler = planner.run("Go on.")
        events = [type(event).__name__ async for event in handler.stream_events()]
        output = await handler
        failing = agent(ValueError("no answer"))
        with pytest.raises(ValueError, match="no answer") as caught:
            await failing.run("Go on.")
        calls = [(call.tool_name, str(call.tool_output)) for call in output.tool_calls]
        return effects, (events, str(output), calls), (type(caught.value), str(caught.value))

    with_us = await told()
    adapters.active()["llama-index"].off()
    without = await told()
    assert with_us == without
    assert with_us[1][1] == "Done."


def _others() -> set[str]:
    ours = ("otel_agentbus", "current_context")
    return {variable.name for variable in contextvars.copy_context() if not variable.name.startswith(ours)}


# -- model calls, each once -------------------------------------------------------------------------------------------


class Fact(BaseModel):
    text: str


def streamed(stream: Any) -> str:
    return "".join(str(getattr(chunk, "delta", chunk)) for chunk in stream)


async def astreamed(stream: Any) -> str:
    return "".join([str(getattr(chunk, "delta", chunk)) async for chunk in await stream])


PROMPT = PromptTemplate("Is {what} so?")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Completing().complete("So?"), "text_completion custom"),
        (lambda: Completing().chat(HELLO), "chat custom"),
        (lambda: Completing().predict(PROMPT, what="it"), "text_completion custom"),
        (lambda: streamed(Completing().stream_complete("So?")), "text_completion custom"),
        (lambda: streamed(Completing().stream_chat(HELLO)), "chat custom"),
        (lambda: streamed(Completing().stream(PROMPT, what="it")), "text_completion custom"),
        (lambda: asyncio.run(Completing().achat(HELLO)), "chat custom"),
        (lambda: asyncio.run(Completing().acomplete("So?")), "text_completion custom"),
        (lambda: asyncio.run(Completing().apredict(PROMPT, what="it")), "text_completion custom"),
        (lambda: asyncio.run(astreamed(Completing().astream_chat(HELLO))), "chat custom"),
        (lambda: asyncio.run(astreamed(Completing().astream_complete("So?"))), "text_completion custom"),
        (lambda: asyncio.run(Scripted().achat(HELLO)), "chat fake"),
        (lambda: Scripted().predict(PROMPT, what="it"), "chat fake"),
        (lambda: Scripted().chat_with_tools([], "So?"), "chat fake"),
        (lambda: asyncio.run(astreamed(Scripted().astream_chat_with_tools([], "So?"))), "chat fake"),
    ],
)
def test_a_call_is_one_call_however_many_functions_it_goes_through(
    seen: testing.Captured, call: Callable[[], Any], name: str
) -> None:
    call()
    assert_outline(seen.spans, f"{name} · 7+2")
    assert [type(event) for event in seen.events] == [LlmRequest, LlmResponse]


def test_a_structured_answer_is_one_call(seen: testing.Captured) -> None:
    llm = Scripted(turns=[[("1", "Fact", {"text": "So."})]])
    assert llm.structured_predict(Fact, PROMPT, what="it") == Fact(text="So.")
    said = [event for event in seen.events if isinstance(event, LlmResponse)]
    assert [(event.input_tokens, event.output_tokens) for event in said] == [(7, 2)]


def test_a_subclass_that_asks_its_base_class_is_one_call(seen: testing.Captured) -> None:
    class Polite(Scripted):
        @llm_chat_callback()
        def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
            return super().chat([*messages, ChatMessage("please")], **kwargs)

    Polite().chat(HELLO)
    assert_outline(seen.spans, "chat fake · 7+2")


class Twice(Scripted):
    """Asks until somebody answers."""

    inner: list[Any] = []  # noqa: RUF012 - pydantic copies it

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        try:
            return self.inner[0].chat(messages)
        except ValueError:
            return self.inner[1].chat(messages)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        answers = await asyncio.gather(*(llm.achat(messages) for llm in self.inner))
        return answers[-1]


def test_a_wrapper_that_makes_two_calls_makes_two(seen: testing.Captured) -> None:
    Twice(model="either", inner=[Scripted(turns=[ValueError("busy")]), Scripted()]).chat(HELLO)
    assert_outline(seen.spans, "chat either · !ValueError\nchat fake · 7+2")
    assert [event.model for event in seen.events if isinstance(event, LlmResponse)] == ["fake", "fake"]


async def test_a_wrapper_that_makes_two_calls_at_a_time_makes_two(seen: testing.Captured) -> None:
    both = asyncio.Barrier(2)
    with agentbus.agent("outer"):
        await Twice(model="both", inner=[Scripted(pause=both.wait), Scripted(pause=both.wait)]).achat(HELLO)
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        ├─ chat both · 7+2
        └─ chat fake · 7+2
        """,
    )
    assert sorted(seen.metric("agentbus.tokens.used").values()) == [4, 14]


def test_a_model_without_the_decorator_is_told_by_its_function(seen: testing.Captured) -> None:
    class Bare(Completing):
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text="Yes.", raw={"usage": USAGE})

        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            yield CompletionResponse(text="Yes.", delta="Yes.", raw={"usage": USAGE})

    Bare().complete("So?")
    assert streamed(Bare().stream_complete("So?")) == "Yes."
    assert_outline(seen.spans, "text_completion custom\ntext_completion custom · 7+2")


def test_a_request_tells_how_it_is_asked(seen: testing.Captured) -> None:
    class Warm(Completing):
        temperature: float = 0.5

    Warm().chat(HELLO, max_tokens=9, stop=["!"])
    request = next(event for event in seen.events if isinstance(event, LlmRequest))
    assert (request.model, request.model_provider, request.messages_count, request.parameters) == (
        "custom",
        "",
        1,
        {"temperature": 0.5, "max_tokens": 9, "stop_sequences": ["!"]},
    )
    assert request.messages == [{"role": "user", "parts": [{"type": "text", "content": "Hello?"}]}]


def test_the_model_is_named_without_asking_for_its_metadata_once_more(seen: testing.Captured) -> None:
    asked_for: list[str] = []

    class Remote(Completing):
        @property
        def metadata(self) -> LLMMetadata:
            asked_for.append("metadata")  # some integrations ask their server
            return LLMMetadata(model_name="other")

    Remote().complete("So?")
    with_us = len(asked_for)
    MockLLM().complete("So?")
    assert_outline(seen.spans, "text_completion MockLLM\ntext_completion custom · 7+2")
    adapters.active()["llama-index"].off()
    Remote().complete("So?")
    assert len(asked_for) == 2 * with_us


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_tells_its_first_chunk_and_its_whole_usage(seen: testing.Captured) -> None:
    with agentbus.agent("outer") as run:
        for _ in Scripted(turns=["It is so."]).stream_chat(HELLO):
            current = trace.get_current_span().get_span_context().span_id
            assert agentbus.current() is run.invocation
            assert current == run.span.get_span_context().span_id
    response = next(event for event in seen.events if isinstance(event, LlmResponse))
    assert response.time_to_first_chunk is not None
    assert (response.input_tokens, response.output_tokens, response.finish_reasons) == (7, 2, ["stop"])
    assert (response.response_id, response.response_model) == ("r-1", "fake-2026")
    assert response.messages == [{"role": "assistant", "parts": [{"type": "text", "content": "It is so."}]}]
    assert_outline(seen.spans, "invoke_agent outer\n└─ chat fake · 7+2")


@pytest.mark.parametrize("llm", [Scripted(turns=["It is so."]), Completing()])
def test_a_stream_left_early_is_cancelled(seen: testing.Captured, llm: Any) -> None:
    for _ in llm.stream_chat(HELLO):
        break
    gc.collect()
    assert outline(seen.spans).endswith("~cancelled")
    assert len(seen.spans) == 1


@pytest.mark.parametrize("llm", [Scripted(turns=["It is so."]), Completing()])
async def test_an_async_stream_left_early_is_cancelled(seen: testing.Captured, llm: Any) -> None:
    stream = await llm.astream_chat(HELLO)
    async for _ in stream:
        break
    await stream.aclose()
    gc.collect()
    assert outline(seen.spans).endswith("~cancelled")
    assert len(seen.spans) == 1


def test_a_stream_that_nobody_reads_is_cancelled(seen: testing.Captured) -> None:
    Scripted().stream_chat(HELLO)
    gc.collect()
    assert_outline(seen.spans, "chat fake · ~cancelled")


async def test_an_async_stream_that_is_forgotten_is_cancelled(seen: testing.Captured) -> None:
    stream = await Scripted(turns=["It is so."]).astream_chat(HELLO)
    await anext(stream)
    del stream
    gc.collect()
    assert_outline(seen.spans, "chat fake · ~cancelled")


def test_a_stream_that_fails_is_an_error(seen: testing.Captured) -> None:
    with pytest.raises(ConnectionError):
        list(Scripted(turns=[ConnectionError("gone")]).stream_chat(HELLO))
    assert_outline(seen.spans, "chat fake · !ConnectionError")


async def test_two_streams_at_a_time_are_two_calls(seen: testing.Captured) -> None:
    llm = Scripted(turns=["It is so."])
    one, other = llm.stream_chat(HELLO), llm.stream_chat(HELLO)
    next(one)
    assert streamed(other) == "Itisso."
    assert streamed(one) == "isso."
    assert_outline(seen.spans, "chat fake · 7+2\nchat fake · 7+2")


async def test_calls_between_the_chunks_of_a_stream_are_calls_of_their_own(seen: testing.Captured) -> None:
    stream = await Completing().astream_chat(HELLO)
    async for _ in stream:
        await Completing().acomplete("So?")
    assert_outline(seen.spans, "chat custom · 7+2\ntext_completion custom · 7+2\ntext_completion custom · 7+2")


async def test_an_agent_streams_its_answer_to_the_end(seen: testing.Captured) -> None:
    handler = agent("It is so.", streaming=True).run("So?")
    chunks = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
    assert chunks == ["It", "is", "so."]
    assert str(await handler) == "It is so."
    assert_outline(seen.spans, "invoke_agent planner\n└─ chat fake · 7+2")


# -- agents -----------------------------------------------------------------------------------------------------------


async def test_a_run_hangs_under_what_is_current_and_over_what_its_tools_start(seen: testing.Captured) -> None:
    tracer = trace.get_tracer("user")
    found: list[tuple[Any, int]] = []

    async def look() -> str:
        found.append((agentbus.current(), trace.get_current_span().get_span_context().span_id))
        with agentbus.agent("inner"), tracer.start_as_current_span("query"):
            await Scripted(model="deep").achat(HELLO)
        return "here"

    async def stare() -> str:
        with agentbus.agent("staring"):
            return "there"

    with agentbus.agent("outer"):
        await agent([("1", "look", {}), ("2", "stare", {})], "Done.", tools=[look, stare]).run("Look!")
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        └─ invoke_agent planner
           ├─ chat fake · 7+2
           ├─ chat fake · 7+2
           ├─ execute_tool look
           │  └─ invoke_agent inner
           │     └─ chat deep · 7+2
           └─ execute_tool stare
              └─ invoke_agent staring
        """,
    )
    tool = seen.span("execute_tool look")
    assert tool.context is not None
    assert [(run.agent, span) for run, span in found] == [("planner", tool.context.span_id)]


@pytest.mark.skipif(not hasattr(function_tool, "contextvars"), reason="its threads know no context")
async def test_a_synchronous_tool_runs_within_its_call_too(seen: testing.Captured) -> None:
    def stare() -> str:
        with agentbus.agent("staring"):
            return "there"

    await agent([("1", "stare", {})], "Done.", tools=[stare]).run("Look!")
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat fake · 7+2
        ├─ chat fake · 7+2
        └─ execute_tool stare
           └─ invoke_agent staring
        """,
    )


async def test_a_failing_model_fails_the_run(seen: testing.Captured) -> None:
    with pytest.raises(ConnectionError, match="gone"):
        await agent(ConnectionError("gone")).run("So?")
    assert_outline(seen.spans, "invoke_agent planner · !ConnectionError\n└─ chat fake · !ConnectionError")


async def test_a_cancelled_run_is_no_error(seen: testing.Captured) -> None:
    asking = asyncio.Event()

    async def forever() -> None:
        asking.set()
        await asyncio.Event().wait()

    handler = agent("Never.", pause=forever).run("So?")
    await asking.wait()
    await handler.cancel_run()
    with pytest.raises(WorkflowCancelledByUser):
        await handler
    assert testing.wait_until(lambda: len(seen.spans) == 2)
    assert_outline(seen.spans, "invoke_agent planner · ~cancelled\n└─ chat fake · ~cancelled")


async def test_a_tool_that_the_model_has_made_up_fails_alone(seen: testing.Captured) -> None:
    await agent([("1", "fly", {})], "Well.").run("Fly!")
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat fake · 7+2
        ├─ chat fake · 7+2
        └─ execute_tool fly · !tool_error
        """,
    )


async def test_a_tools_own_error_is_told_where_its_output_does_not_keep_it(
    seen: testing.Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToolOutput, "exception", None)

    def fail() -> str:
        raise LookupError("nothing")

    await agent([("1", "fail", {})], "Well.", tools=[fail]).run("Go!")
    assert seen.span("execute_tool fail").attributes["error.type"] == "LookupError"  # type: ignore[index]


async def test_a_model_that_gives_the_same_id_again_makes_two_calls(seen: testing.Captured) -> None:
    def look() -> str:
        return "here"

    await agent([("look", "look", {})], [("look", "look", {})], "Done.", tools=[look]).run("Look!")
    tools = [span for span in seen.spans if span.name == "execute_tool look"]
    assert [span.attributes["gen_ai.tool.call.id"] for span in tools] == ["look", "look#2"]  # type: ignore[index]


async def test_a_tool_that_waits_for_a_human_is_no_failure(seen: testing.Captured) -> None:
    async def confirm(ctx: Context) -> str:
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="Sure?"))
        return str(answer.response)

    confirm.__annotations__["ctx"] = Context  # LlamaIndex wants the class, not its name
    handler = agent([("1", "confirm", {})], "Done.", tools=[confirm]).run("Do it!")
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(response="yes"))
    assert str(await handler) == "Done."
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat fake · 7+2
        ├─ chat fake · 7+2
        ├─ execute_tool confirm
        └─ execute_tool confirm · ~cancelled
        """,
    )


async def test_a_react_agent_is_told_like_any_other(seen: testing.Captured) -> None:
    def look() -> str:
        return "here"

    turns = ["Thought: I look.\nAction: look\nAction Input: {}", "Thought: I can answer.\nAnswer: Here."]
    react = ReActAgent(name="reacting", llm=Scripted(turns=turns), tools=[look], streaming=False)
    assert str(await react.run("Where?")) == "Here."
    assert_outline(
        seen.spans,
        """
        invoke_agent reacting
        ├─ chat fake · 7+2
        ├─ chat fake · 7+2
        └─ execute_tool look
        """,
    )


async def test_a_team_is_one_run_with_a_run_for_each_who_is_at_work(seen: testing.Captured) -> None:
    def look() -> str:
        return "here"

    first = agent(
        [("1", "handoff", {"to_agent": "writer", "reason": "it writes"})], name="planner", description="plans"
    )
    second = agent([("2", "look", {})], "Done.", name="writer", description="writes", tools=[look])
    # a team has one memory: the writer's turns begin after the planner's
    second.llm.turns.insert(0, "unused")
    team = AgentWorkflow(agents=[first, second], root_agent="planner")
    assert str(await team.run("Write!")) == "Done."
    assert_outline(
        seen.spans,
        """
        invoke_agent AgentWorkflow
        ├─ invoke_agent planner
        │  ├─ chat fake · 7+2
        │  └─ execute_tool handoff
        └─ invoke_agent writer
           ├─ chat fake · 7+2
           ├─ chat fake · 7+2
           └─ execute_tool look
        """,
    )
    handoffs = [event for event in seen.events if isinstance(event, DomainEvent)]
    assert [(event.name, event.data, event.agent) for event in handoffs] == [
        ("agent.handoff", {"from": "planner", "to": "writer"}, "AgentWorkflow")
    ]


async def test_a_team_of_one_is_that_agent(seen: testing.Captured) -> None:
    team = AgentWorkflow.from_tools_or_functions([_nothing], llm=Scripted(), system_prompt="Be brief.")
    await team.run("So?")
    assert outline(seen.spans).splitlines()[0] == "invoke_agent Agent"


def _nothing() -> str:
    """Nothing."""
    return ""


async def test_parallel_runs_stay_apart(seen: testing.Captured) -> None:
    def look() -> str:
        return "here"

    planners = [agent([("1", "look", {})], "Done.", name=f"p{n}", tools=[look]) for n in range(4)]
    await asyncio.gather(*(planner.run("Look!") for planner in planners))
    expected = "\n".join(
        f"invoke_agent p{n}\n├─ chat fake · 7+2\n├─ chat fake · 7+2\n└─ execute_tool look" for n in range(4)
    )
    assert_outline(seen.spans, expected)


def test_loops_in_threads_stay_apart(seen: testing.Captured) -> None:
    async def go(name: str) -> None:
        await agent("Done.", name=name).run("Go!")

    with agentbus.agent("outer"):
        threads = [threading.Thread(target=agentbus.carry(asyncio.run), args=(go(f"t{n}"),)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    asyncio.run(go("alone"))
    assert_outline(
        seen.spans,
        """
        invoke_agent alone
        └─ chat fake · 7+2
        invoke_agent outer
        ├─ invoke_agent t0
        │  └─ chat fake · 7+2
        ├─ invoke_agent t1
        │  └─ chat fake · 7+2
        └─ invoke_agent t2
           └─ chat fake · 7+2
        """,
    )


async def test_a_conversation_is_the_one_that_the_application_names(seen: testing.Captured) -> None:
    with instrument_tags({"session_id": "s-1"}):
        await agent("Yes.").run("So?")
    await agent("Yes.", name="other").run("So?")
    starts = [event for event in seen.events if isinstance(event, AgentStart)]
    assert [(event.agent, event.conversation_id) for event in starts] == [("planner", "s-1"), ("other", None)]


async def test_two_runs_after_each_other_are_no_parent_and_child(seen: testing.Captured) -> None:
    await agent("Yes.", name="one").run("So?")
    await agent("Yes.", name="two").run("So?")
    await Scripted().achat(HELLO)
    assert_outline(
        seen.spans,
        """
        chat fake · 7+2
        invoke_agent one
        └─ chat fake · 7+2
        invoke_agent two
        └─ chat fake · 7+2
        """,
    )


# -- workflows, tools and engines -------------------------------------------------------------------------------------


class Asking(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> StopEvent:
        await Scripted().achat(HELLO)
        return StopEvent(result=str(await Scripted(model="again").achat(HELLO)))


async def test_a_workflow_is_a_run_where_nothing_is_around_it(seen: testing.Captured) -> None:
    await Asking().run()
    with agentbus.agent("outer"):
        await Asking().run()
    assert_outline(
        seen.spans,
        """
        invoke_agent Asking
        ├─ chat again · 7+2
        └─ chat fake · 7+2
        invoke_agent outer
        ├─ chat again · 7+2
        └─ chat fake · 7+2
        """,
    )


async def test_a_step_that_fails_and_is_tried_again_is_told_call_by_call(seen: testing.Captured) -> None:
    from workflows.retry_policy import ConstantDelayRetryPolicy

    class Stubborn(Workflow):
        tries = 0

        @step(retry_policy=ConstantDelayRetryPolicy(delay=0, maximum_attempts=3))
        async def ask(self, ev: StartEvent) -> StopEvent:
            self.tries += 1
            turn: Any = ConnectionError("busy") if self.tries == 1 else "Yes."
            return StopEvent(result=str(await Scripted(turns=[turn]).achat(HELLO)))

    await Stubborn().run()
    assert_outline(
        seen.spans,
        """
        invoke_agent Stubborn
        ├─ chat fake · !ConnectionError
        └─ chat fake · 7+2
        """,
    )


async def test_a_tool_that_no_agent_calls_is_a_tool_call(seen: testing.Captured) -> None:
    def double(number: int) -> int:
        return 2 * number

    async def fail() -> None:
        raise LookupError("nothing")

    tool = FunctionTool.from_defaults(double)
    with agentbus.agent("outer"):
        assert str(tool(number=2)) == "4"
        await tool.acall(number=3)
        with pytest.raises(LookupError):
            await FunctionTool.from_defaults(async_fn=fail).acall()
    assert_outline(
        seen.spans,
        """
        invoke_agent outer
        ├─ execute_tool double
        ├─ execute_tool double
        └─ execute_tool fail · !LookupError
        """,
    )
    said = [span.attributes for span in seen.spans if span.name == "execute_tool double"]
    assert [(a["gen_ai.tool.call.arguments"], a["gen_ai.tool.call.result"]) for a in said if a] == [
        ('{"number":2}', "4"),
        ('{"number":3}', "6"),
    ]


def test_a_tool_that_calls_itself_is_a_call_within_a_call(seen: testing.Captured) -> None:
    def count(down: int) -> int:
        return int(str(tool(down=down - 1))) + 1 if down else 0

    tool = FunctionTool.from_defaults(count)
    assert str(tool(down=1)) == "1"
    assert_outline(seen.spans, "execute_tool count\n└─ execute_tool count")


def test_a_tool_may_be_given_and_give_anything(seen: testing.Captured) -> None:
    class Odd:
        def __str__(self) -> str:
            raise ZeroDivisionError

    def take(thing: Any, facts: Any) -> Any:
        return {"facts": facts, 3: {1, 2}}

    FunctionTool.from_defaults(take)(Odd(), facts=[Fact(text="So.")])
    tool = seen.span("execute_tool take")
    assert tool.attributes is not None
    assert tool.attributes["gen_ai.tool.call.arguments"] == '{"facts":[{"text":"So."}],"args":["Odd"]}'
    assert tool.attributes["gen_ai.tool.call.result"] == '{"facts":[{"text":"So."}],"3":[1,2]}'


def test_values_that_json_cannot_say_are_told_as_text(seen: testing.Captured) -> None:
    class Closed(Fact):
        def model_dump(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

        def __str__(self) -> str:
            return "closed"

    def take(fact: Any, number: float) -> Any:
        return number

    FunctionTool.from_defaults(take)(fact=Closed(text="So."), number=float("nan"))
    tool = seen.span("execute_tool take")
    assert tool.attributes is not None
    assert tool.attributes["gen_ai.tool.call.arguments"] == '{"fact":"closed","number":"nan"}'


def test_a_model_that_refuses_to_tell_of_itself_is_told_all_the_same(seen: testing.Captured) -> None:
    class Refusing(Completing):
        @property
        def metadata(self) -> Any:
            raise ValueError("an unknown model")

        @property
        def temperature(self) -> float:
            raise ValueError("not known")

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
            return CompletionResponse(text="Yes.", raw={"usage": USAGE})

    before = losses.counts.copy()
    Refusing(model="unknown").complete("Go!")
    assert_outline(seen.spans, "text_completion Refusing · 7+2")
    assert sum((losses.counts - before).values()) == 1  # its parameters are not told
    losses.counts.clear()
    losses.counts.update(before)


def test_a_tool_that_says_that_it_failed_has_failed(seen: testing.Captured) -> None:
    def fail() -> str:
        return "oh"

    def callback(result: Any) -> ToolOutput:
        return ToolOutput(tool_name="fail", content="out of order", raw_input={}, raw_output=result, is_error=True)

    FunctionTool.from_defaults(fail, callback=callback)()
    assert_outline(seen.spans, "execute_tool fail · !tool_error")


def index() -> VectorStoreIndex:
    return VectorStoreIndex.from_documents([Document(text="Tea is wet.")], embed_model=MockEmbedding(embed_dim=3))


def test_a_question_to_an_engine_is_a_run(seen: testing.Captured) -> None:
    engine = index().as_query_engine(llm=Completing())
    before = len(seen.spans)
    assert str(engine.query("What is tea?")) == "Yes."
    assert_outline(
        seen.spans[before:],
        """
        invoke_agent RetrieverQueryEngine
        ├─ embeddings MockEmbedding
        └─ text_completion custom · 7+2
        """,
    )
    found = [event for event in seen.events if isinstance(event, DomainEvent)]
    assert [(event.name, event.data, event.agent) for event in found] == [
        ("retrieval", {"documents": 1}, "RetrieverQueryEngine")
    ]


async def test_a_question_to_an_engine_within_a_run_is_no_run(seen: testing.Captured) -> None:
    engine = index().as_query_engine(llm=Completing())
    before = len(seen.spans)
    with agentbus.agent("outer"):
        await engine.aquery("What is tea?")
    assert_outline(
        seen.spans[before:],
        """
        invoke_agent outer
        ├─ embeddings MockEmbedding
        └─ text_completion custom · 7+2
        """,
    )


def test_an_engine_that_streams_is_over_when_its_stream_is(seen: testing.Captured) -> None:
    engine = index().as_query_engine(llm=Completing(), streaming=True)
    before = len(seen.spans)
    response: Any = engine.query("What is tea?")
    assert "invoke_agent RetrieverQueryEngine" not in [span.name for span in seen.spans]
    assert [chunk for chunk in response.response_gen if agentbus.current() is None] == ["Y", "es."]
    assert_outline(
        seen.spans[before:],
        """
        invoke_agent RetrieverQueryEngine
        ├─ embeddings MockEmbedding
        └─ text_completion custom · 7+2
        """,
    )


async def test_chat_engines_are_runs_streamed_or_not(seen: testing.Captured) -> None:
    engine = SimpleChatEngine.from_defaults(llm=Scripted(turns=["It is so."]))
    assert str(engine.chat("So?")) == "It is so."
    assert list(engine.stream_chat("So?").response_gen) == ["It", "is", "so."]
    stream = await engine.astream_chat("So?")
    assert [chunk async for chunk in stream.async_response_gen()] == ["It", "is", "so."]
    assert testing.wait_until(lambda: len(seen.spans) == 6)
    assert_outline(seen.spans, "\n".join(["invoke_agent SimpleChatEngine\n└─ chat fake · 7+2"] * 3))


async def test_embeddings_are_calls_and_what_is_cached_is_none(seen: testing.Captured) -> None:
    model = MockEmbedding(embed_dim=3, embeddings_cache=SimpleKVStore())
    with agentbus.agent("outer"):
        model.get_text_embedding("tea")
        model.get_text_embedding("tea")
        await model.aget_query_embedding("rain")
        MockEmbedding(embed_dim=3, embed_batch_size=2).get_text_embedding_batch(["a", "b", "c"])
        await MockEmbedding(embed_dim=3).aget_text_embedding_batch(["a", "b"])
    assert [type(event) for event in seen.events if isinstance(event, (CacheHit, CacheMiss))] == [
        CacheMiss,
        CacheHit,
        CacheMiss,
    ]
    requests = [event for event in seen.events if isinstance(event, LlmRequest)]
    assert [(event.operation, event.messages_count) for event in requests] == [
        ("embeddings", 1),
        ("embeddings", 1),
        ("embeddings", 3),
        ("embeddings", 2),
    ]


# -- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (
            SimpleNamespace(  # OpenAI
                id="c-1",
                model="gpt-5-mini-2025",
                service_tier="default",
                choices=[SimpleNamespace(finish_reason="stop")],
                usage=SimpleNamespace(
                    prompt_tokens=100,
                    completion_tokens=10,
                    total_tokens=110,
                    prompt_tokens_details=SimpleNamespace(cached_tokens=40, audio_tokens=3),
                    completion_tokens_details=SimpleNamespace(reasoning_tokens=4),
                ),
            ),
            {
                "response_model": "gpt-5-mini-2025",
                "response_id": "c-1",
                "service_tier": "default",
                "finish_reasons": ["stop"],
                "input_tokens": 100,
                "output_tokens": 10,
                "cache_read_input_tokens": 40,
                "reasoning_output_tokens": 4,
                "usage": {"prompt_tokens_details.audio_tokens": 3},
            },
        ),
        (
            {  # Anthropic, whose input leaves out what was cached
                "id": "m-1",
                "model": "claude",
                "stop_reason": "end_turn",
                "usage": SimpleNamespace(
                    input_tokens=5,
                    output_tokens=7,
                    cache_read_input_tokens=30,
                    cache_creation_input_tokens=10,
                    cache_creation=SimpleNamespace(ephemeral_5m_input_tokens=10, ephemeral_1h_input_tokens=0),
                ),
            },
            {
                "response_model": "claude",
                "response_id": "m-1",
                "finish_reasons": ["end_turn"],
                "input_tokens": 45,
                "output_tokens": 7,
                "cache_read_input_tokens": 30,
                "cache_write_input_tokens": 10,
                "usage": {
                    "cache_creation.ephemeral_5m_input_tokens": 10,
                    "cache_creation.ephemeral_1h_input_tokens": 0,
                },
            },
        ),
        (
            {  # Gemini, whose thoughts are beside its answer
                "model_version": "gemini-3",
                "usage_metadata": {
                    "prompt_token_count": 50,
                    "candidates_token_count": 8,
                    "thoughts_token_count": 4,
                    "cached_content_token_count": 20,
                    "total_token_count": 62,
                },
                "candidates": [{"finish_reason": SimpleNamespace(name="STOP")}],
            },
            {
                "response_model": "gemini-3",
                "finish_reasons": ["STOP"],
                "input_tokens": 50,
                "output_tokens": 12,
                "cache_read_input_tokens": 20,
                "reasoning_output_tokens": 4,
            },
        ),
        (
            {"usage": {"inputTokens": 5, "outputTokens": 7, "cacheReadInputTokens": 30}, "stopReason": "end_turn"},
            {"input_tokens": 35, "output_tokens": 7, "cache_read_input_tokens": 30, "finish_reasons": ["end_turn"]},
        ),
        (
            {"model": "qwen3:8b", "prompt_eval_count": 9, "eval_count": 3, "done_reason": "stop", "eval_duration": 9},
            {"response_model": "qwen3:8b", "finish_reasons": ["stop"], "input_tokens": 9, "output_tokens": 3},
        ),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.25}},
            {"input_tokens": 3, "output_tokens": 1, "cost_usd": 0.25},
        ),
        (None, {}),
        ("text", {}),
        (SimpleNamespace(usage=None, model=3, choices="no"), {}),
    ],
)
def test_an_answer_is_read_as_its_provider_means_it(raw: Any, fields: dict[str, Any]) -> None:
    answer = Answer()
    answer.hear(ChatResponse(message=ChatMessage("Yes.", role="assistant"), raw=raw))
    assert answer.told() == fields


def test_counts_that_the_integration_has_taken_out_are_found() -> None:
    answer = Answer()
    extra = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    answer.hear(CompletionResponse(text="Yes.", additional_kwargs=extra))
    assert answer.told() == {"input_tokens": 3, "output_tokens": 1}
    answer = Answer()
    message = ChatMessage(
        "Yes.", role="assistant", additional_kwargs={"usage": {"input_tokens": 5, "output_tokens": 2}}
    )
    answer.hear(ChatResponse(message=message, raw={"type": "message_stop"}))
    assert answer.told() == {"input_tokens": 5, "output_tokens": 2}


def test_a_streamed_usage_is_put_together_from_its_chunks() -> None:
    answer = Answer()
    start = SimpleNamespace(message=SimpleNamespace(usage=SimpleNamespace(input_tokens=12, output_tokens=1)))
    delta = SimpleNamespace(delta=SimpleNamespace(stop_reason="end_turn"), usage=SimpleNamespace(output_tokens=9))
    for raw in (start, delta, SimpleNamespace(type="message_stop")):
        answer.hear(ChatResponse(message=ChatMessage("Yes.", role="assistant"), raw=raw))
    assert answer.told() == {"input_tokens": 12, "output_tokens": 9, "finish_reasons": ["end_turn"]}


def test_messages_are_told_in_parts() -> None:
    messages = [
        ChatMessage("Be brief.", role="system"),
        ChatMessage(
            role="user", blocks=[TextBlock(text="What is this?"), ImageBlock(image=b"x"), ImageBlock(url="https://a/b")]
        ),
        ChatMessage(
            role="assistant",
            blocks=[
                ThinkingBlock(content="Hm."),
                ToolCallBlock(tool_call_id="1", tool_name="look", tool_kwargs={"a": 1}),
            ],
        ),
        ChatMessage("A cat.", role="tool", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(
            "",
            role="assistant",
            additional_kwargs={
                "tool_calls": [SimpleNamespace(id="2", function=SimpleNamespace(name="pet", arguments="{}"))]
            },
        ),
    ]
    assert asked({"messages": messages}) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "What is this?"},
                {"type": "file", "modality": "image"},
                {"type": "uri", "uri": "https://a/b", "modality": "image"},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "Hm."},
                {"type": "tool_call", "id": "1", "name": "look", "arguments": {"a": 1}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "A cat."}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "2", "name": "pet", "arguments": "{}"}]},
    ]


@pytest.mark.parametrize(
    ("module", "name", "provider"),
    [
        ("llama_index.llms.openai.base", "OpenAI", "openai"),
        ("llama_index.llms.azure_openai.base", "AzureOpenAI", "azure.ai.openai"),
        ("llama_index.embeddings.azure_openai.base", "AzureOpenAIEmbedding", "azure.ai.openai"),
        ("llama_index.llms.anthropic.base", "Anthropic", "anthropic"),
        ("llama_index.llms.google_genai.base", "GoogleGenAI", "gcp.gemini"),
        ("llama_index.llms.bedrock_converse.base", "BedrockConverse", "aws.bedrock"),
        ("llama_index.llms.mistralai.base", "MistralAI", "mistral_ai"),
        ("llama_index.llms.ollama.base", "Ollama", "ollama"),
        ("llama_index.llms.openai_like.base", "OpenAILike", None),
        ("app.models", "Mine", None),
    ],
)
def test_a_provider_has_its_opentelemetry_name(module: str, name: str, provider: str | None) -> None:
    made = type(name, (), {"__module__": module})
    assert provider_of(type("Mine", (made,), {"__module__": "app"})()) == provider


async def test_content_is_told_to_nobody_who_has_not_asked(instrumented: adapters.Instrumented) -> None:
    with testing.capture() as captured:
        await agent([("1", "look", {"at": "secret-1"})], "secret-2", system_prompt="secret-3", tools=[_look]).run(
            "secret-4"
        )
    assert len(captured.spans) == 4
    assert "secret" not in str([(span.attributes, span.events) for span in captured.spans])


def _look(at: str) -> str:
    return "secret-5"


# -- ours never reaches the run ---------------------------------------------------------------------------------------


async def test_our_failures_never_reach_the_run(
    seen: testing.Captured, monkeypatch: pytest.MonkeyPatch, instrumented: adapters.Instrumented
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("ours")

    before = losses.counts.copy()
    for module, name in (
        (models, "model_of"),
        (models.Calls, "end"),
        (Answer, "hear"),
        (runs.Run, "begin"),
        (runs.Run, "exit"),
        (runs.Step, "begin"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, broken)
            assert str(await agent([("1", "_nothing", {})], "Done.", tools=[_nothing]).run("Go!")) == "Done."
            assert streamed(Scripted(turns=["It is so."]).stream_chat(HELLO)) == "Itisso."
    assert sum((losses.counts - before).values()) > 0
    losses.counts.clear()
    losses.counts.update(before)
    switch: Any = adapters.active()["llama-index"]
    switch._observer.calls._by_block.clear()  # what could not be ended, as `Calls.end` was broken
    switch._observer.places.blocks._open.clear()


async def test_an_agent_can_be_copied_and_its_copy_is_seen(seen: testing.Captured) -> None:
    original = agent("Done.")
    await original.run("Go!")
    assert str(await copy.deepcopy(original).run("Go!")) == "Done."
    tree = "invoke_agent planner\n└─ chat fake · 7+2"
    assert_outline(seen.spans, f"{tree}\n{tree}")


# -- on and off -------------------------------------------------------------------------------------------------------


async def test_off_leaves_llama_index_as_it_was_found() -> None:
    adapters.active()["llama-index"].off()
    theirs = SimpleSpanHandler()
    root_dispatcher.add_span_handler(theirs)
    before = (list(root_dispatcher.span_handlers), list(root_dispatcher.event_handlers), vars(Dispatcher)["span_enter"])
    try:
        from otel_agentbus.adapters.llama_index import instrument

        switch = instrument()
        assert switch.chained
        assert len(root_dispatcher.span_handlers) == len(before[0]) + 1
        switch.off()
        after = (list(root_dispatcher.span_handlers), list(root_dispatcher.event_handlers))
        assert [id(handler) for handler in after[0]] == [id(handler) for handler in before[0]]
        assert [id(handler) for handler in after[1]] == [id(handler) for handler in before[1]]
        assert vars(Dispatcher)["span_enter"] is before[2]
        with testing.capture() as captured:
            await agent("Yes.").run("So?")
        assert captured.spans == ()
        again = instrument()
        with testing.capture() as captured:
            await agent("Yes.").run("So?")
        assert_outline(captured.spans, "invoke_agent planner\n└─ chat fake · 7+2")
        again.off()
    finally:
        root_dispatcher.span_handlers = [handler for handler in root_dispatcher.span_handlers if handler is not theirs]
    assert theirs.completed_spans


async def test_a_run_that_has_begun_is_observed_to_its_end(seen: testing.Captured) -> None:
    switch: Any = adapters.active()["llama-index"]
    asking, on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        asking.set()
        await on.wait()

    def look() -> str:
        return "here"

    handler = agent([("1", "look", {})], "Done.", tools=[look], pause=wait).run("Look!")
    await asking.wait()
    switch.off()
    contextvars.Context().run(Scripted(model="unseen").chat, HELLO)
    on.set()
    await handler
    assert_outline(
        seen.spans,
        """
        invoke_agent planner
        ├─ chat fake · 7+2
        ├─ chat fake · 7+2
        └─ execute_tool look
        """,
    )
    assert switch._spans not in root_dispatcher.span_handlers


async def test_a_dispatcher_that_keeps_to_itself_is_not_heard(seen: testing.Captured) -> None:
    private = get_dispatcher("tests.private")
    private.propagate = False

    @private.span
    async def ask() -> None:
        await Scripted().achat(HELLO)

    try:
        with agentbus.agent("outer"):
            await ask()
    finally:
        private.propagate = True
    assert_outline(seen.spans, "invoke_agent outer\n└─ chat fake · 7+2")


# -- budgets ----------------------------------------------------------------------------------------------------------


def budget(tokens: int) -> agentbus.Budget:
    return agentbus.Budget("all", tokens=tokens, window="7d", on_exceeded="raise")


async def test_a_budget_stops_an_agents_next_model_call(instrumented: adapters.Instrumented) -> None:
    theirs = SimpleSpanHandler()
    root_dispatcher.add_span_handler(theirs)
    try:
        with testing.capture(budgets=[budget(5)]) as captured, pytest.raises(agentbus.BudgetExceeded):
            await agent([("1", "_nothing", {})], "Done.", tools=[_nothing]).run("Go!")
        outlined = outline(captured.spans)
    finally:
        root_dispatcher.span_handlers = [handler for handler in root_dispatcher.span_handlers if handler is not theirs]
    assert outlined == "invoke_agent planner · !otel_agentbus.errors.BudgetExceeded\n└─ chat fake · 7+2"
    assert not theirs.open_spans


@pytest.mark.parametrize("call", ["chat", "stream_chat"])
def test_a_budget_stops_a_model_call_before_it_is_made(instrumented: adapters.Instrumented, call: str) -> None:
    with testing.capture(budgets=[budget(5)]) as captured, agentbus.agent("outer"):
        Scripted().chat(HELLO)
        with pytest.raises(agentbus.BudgetExceeded):
            getattr(Scripted(), call)(HELLO)
        assert active_span_id.get() is None
        told = [type(event) for event in captured.events if not isinstance(event, DomainEvent)]
        assert told == [AgentStart, LlmRequest, LlmResponse]
