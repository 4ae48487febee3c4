"""instrument("pydantic-ai"): what an agent program does, as events, without changing what it does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ApprovalRequired, ModelHTTPError, ToolFailed, UnexpectedModelBehavior
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    PartStartEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.usage import RequestUsage

from otel_agentbus import adapters
from otel_agentbus.adapters import pydantic_ai
from otel_agentbus.adapters.losses import losses
from otel_agentbus.adapters.pydantic_ai import mapping
from otel_agentbus.testing import Captured

from .recorded import expect, told


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[adapters.Instrumented]:
    losses.counts.clear()
    with adapters.instrument("pydantic-ai") as handle:
        yield handle
    assert not losses.counts


def scripted(*answers: ModelResponse | Exception, name: str = "scripted") -> FunctionModel:
    """A model that gives these answers, one after the other."""
    script = iter(answers)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        response = next(script)
        if isinstance(response, Exception):
            raise response
        return response

    return FunctionModel(answer, model_name=name)


def calls(*parts: ToolCallPart) -> ModelResponse:
    return ModelResponse(parts=list(parts))


def call(tool: str, id: str, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments, tool_call_id=id)


def says(text: str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(text)])


class Score(BaseModel):
    value: int


# -- the events of a run ----------------------------------------------------------------------------------------------


async def test_a_plain_run(seen: Captured) -> None:
    agent = Agent(scripted(says("Paris")), name="guide", instructions="Be brief.")

    result = await agent.run("The capital of France?", model_settings={"temperature": 0.2, "max_tokens": 50})

    assert result.output == "Paris"
    expect("plain", told(seen.events))


async def test_a_structured_output_is_the_answer_of_the_model_and_no_tool_that_ran(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("final_result", "c1", value=87))), name="scorer", output_type=Score)

    result = await agent.run("Score this lead")

    assert result.output == Score(value=87)
    expect("structured", told(seen.events))


async def test_an_output_function_is_a_tool_that_runs(seen: Captured) -> None:
    def keep(value: int) -> str:
        """Keep it."""
        return f"kept {value}"

    agent = Agent(scripted(calls(call("final_result", "c1", value=87))), name="scorer", output_type=keep)

    assert (await agent.run("Score this lead")).output == "kept 87"
    ends = [event for event in told(seen.events) if event["event"] == "tool.end"]
    assert [(end["tool"], end["tool_call_id"], end["arguments"], end["result"]) for end in ends] == [
        ("final_result", "c1", "87", "kept 87")
    ]


async def test_parallel_tools_each_run_a_sub_agent_nested_under_its_own_call(seen: Captured) -> None:
    both = asyncio.Barrier(2)
    agent = Agent(
        scripted(calls(call("look_up", "c1", topic="tides"), call("look_up", "c2", topic="moons")), says("done")),
        name="planner",
    )

    @agent.tool_plain
    async def look_up(topic: str) -> str:
        await both.wait()
        researcher = Agent(scripted(says(f"about {topic}"), name="small"), name=f"researcher of {topic}")
        return (await researcher.run(topic)).output

    await agent.run("Plan it")

    rows = told(seen.events)
    expect("parallel_sub_agents", sorted(rows, key=lambda row: (row["invocation_id"] != "run1", row["invocation_id"])))


async def test_a_tool_that_raises_fails_itself_and_the_run(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("fetch", "c1", url="u"))), name="reader")

    @agent.tool_plain
    def fetch(url: str) -> str:
        raise LookupError("no such page")

    with pytest.raises(LookupError):
        await agent.run("Read it")

    expect("failing_tool", told(seen.events))


async def test_a_tool_that_reports_its_failure_to_the_model_fails_alone(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("fetch", "c1", url="u")), says("sorry")), name="reader")

    @agent.tool_plain
    def fetch(url: str) -> str:
        raise ToolFailed("no such page")

    await agent.run("Read it")

    ends = [(row["event"], row["outcome"], row.get("error_type")) for row in told(seen.events) if "outcome" in row]
    assert ends == [
        ("llm.response", "ok", None),
        ("tool.end", "error", "pydantic_ai.exceptions.ToolFailed"),
        ("llm.response", "ok", None),
        ("agent.end", "ok", None),
    ]


async def test_a_retry_is_a_failed_call_and_another_one(seen: Captured) -> None:
    agent = Agent(
        scripted(
            calls(call("add", "c1", n="x")), calls(call("add", "c2", n=1)), calls(call("add", "c3", n=2)), says("2")
        ),
        name="adder",
    )

    @agent.tool_plain(retries=3)
    def add(n: int) -> int:
        if n == 1:
            raise ModelRetry("take 2")
        return n

    await agent.run("Add")

    expect("retry", told(seen.events))


async def test_a_model_that_fails(seen: Captured) -> None:
    agent = Agent(scripted(ModelHTTPError(503, "scripted", "overloaded")), name="guide")

    with pytest.raises(ModelHTTPError):
        await agent.run("Anyone?")

    expect("model_error", told(seen.events))


async def test_a_message_history_is_the_input_of_the_call_but_no_event_of_this_run(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("look", "c1")), says("It is blue."), says("Still blue.")), name="guide")

    @agent.tool_plain
    def look() -> str:
        return "blue"

    first = await agent.run("What colour is the sky?")
    seen.events.clear()
    await agent.run("And now?", message_history=first.all_messages())

    expect("message_history", told(seen.events))


async def test_a_streamed_run_that_is_read_to_its_end(seen: Captured) -> None:
    agent = Agent(TestModel(custom_output_text="one two three"), name="writer")

    async with agent.run_stream("Write") as stream:
        text = await stream.get_output()

    assert text == "one two three"
    expect("streamed", told(seen.events))
    assert [event.time_to_first_chunk for event in seen.events if event.kind == "llm.response"] != [None]  # type: ignore[attr-defined]


async def test_a_streamed_run_left_early_is_cancelled_and_keeps_what_was_used(seen: Captured) -> None:
    agent = Agent(TestModel(custom_output_text="one two three"), name="writer")

    async with agent.run_stream("Write") as stream:
        async for _ in stream.stream_text(delta=True, debounce_by=None):
            break

    expect("stream_left_early", told(seen.events))


@pytest.mark.parametrize("way", ["run_stream_events", "iter"])
async def test_other_ways_to_stream_left_early_are_cancelled_as_well(seen: Captured, way: str) -> None:
    agent = Agent(TestModel(custom_output_text="one two three"), name="writer")

    if way == "iter":
        async with agent.iter("Write") as run:
            async for node in run:
                if Agent.is_model_request_node(node):
                    async with node.stream(run.ctx) as parts:
                        async for _ in parts:
                            break
                    break
    else:
        async with agent.run_stream_events("Write") as events:
            async for event in events:
                assert isinstance(event, PartStartEvent)
                break

    assert [(row["event"], row["outcome"]) for row in told(seen.events) if "outcome" in row] == [
        ("llm.response", "cancelled"),
        ("agent.end", "cancelled"),
    ]


async def test_a_cancelled_run_is_no_error(seen: Captured) -> None:
    asked = asyncio.Event()

    async def never(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    agent = Agent(scripted(calls(call("think", "c1"))), name="thinker")

    @agent.tool_plain
    async def think() -> str:
        return (await Agent(FunctionModel(never, model_name="slow"), name="inner").run("Hm")).output

    task = asyncio.create_task(agent.run("Think"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    expect("cancelled", told(seen.events))


# -- what single events say -------------------------------------------------------------------------------------------


async def test_usage_is_told_in_full(seen: Captured) -> None:
    usage = RequestUsage(
        input_tokens=900,
        output_tokens=70,
        cache_read_tokens=500,
        cache_write_tokens=300,
        input_audio_tokens=20,
        output_audio_tokens=5,
        details={"reasoning_tokens": 40, "accepted_prediction_tokens": 3},
    )
    response = ModelResponse(
        parts=[ThinkingPart("hm"), TextPart("yes")],
        usage=usage,
        provider_response_id="r-1",
        finish_reason="stop",
        provider_details={"service_tier": "flex"},
    )
    await Agent(scripted(response), name="guide").run("Well?")

    [row] = [row for row in told(seen.events) if row["event"] == "llm.response"]
    told_of = ("response", "finish", "service", "usage")
    assert {key: row[key] for key in sorted(row) if key.endswith("tokens") or key.startswith(told_of)} == {
        "cache_read_input_tokens": 500,
        "cache_write_input_tokens": 300,
        "finish_reasons": ["stop"],
        "input_tokens": 900,
        "output_tokens": 70,
        "reasoning_output_tokens": 40,
        "response_id": "r-1",
        "response_model": "scripted",
        "service_tier": "flex",
        "usage": {"accepted_prediction_tokens": 3, "input_audio_tokens": 20, "output_audio_tokens": 5},
    }


async def test_a_fallback_tells_the_model_that_answered(seen: Captured) -> None:
    answered = ModelResponse(parts=[TextPart("yes")], provider_name="good")
    model = FallbackModel(scripted(ModelHTTPError(500, "first"), name="first"), scripted(answered, name="second"))

    await Agent(model, name="guide").run("Well?")

    [row] = [row for row in told(seen.events) if row["event"] == "llm.response"]
    assert (row["model_provider"], row["model"], row["outcome"]) == ("good", "second", "ok")


async def test_a_deferred_tool_call_is_no_error(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("pay", "c1"))), name="buyer", output_type=[str, DeferredToolRequests])

    @agent.tool
    def pay(ctx: RunContext[object]) -> str:
        raise ApprovalRequired

    await agent.run("Buy it")

    [row] = [row for row in told(seen.events) if row["event"] == "tool.end"]
    assert (row["outcome"], row["attributes"]) == ("ok", {"pydantic_ai.tool.deferral.name": "ApprovalRequired"})


async def test_a_tool_call_id_that_a_model_gives_twice_is_numbered(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("look", "call_0")), calls(call("look", "call_0")), says("done")), name="guide")

    @agent.tool_plain
    def look() -> str:
        return "blue"

    await agent.run("Look twice")

    assert [event.tool_call_id for event in seen.events if event.kind == "tool.start"] == ["call_0", "call_0#2"]  # type: ignore[attr-defined]


async def test_a_model_asked_directly_is_a_call_without_a_run(seen: Captured) -> None:
    await model_request(scripted(says("yes")), [ModelRequest(parts=[UserPromptPart("Well?")])])

    assert [(row["event"], row.get("invocation_id"), row["model"]) for row in told(seen.events)] == [
        ("llm.request", None, "scripted"),
        ("llm.response", None, "scripted"),
    ]


async def test_a_hook_that_fails_before_the_request_leaves_no_model_call(seen: Captured) -> None:
    from pydantic_ai.capabilities import Hooks

    hooks: Hooks[object] = Hooks()

    @hooks.on.before_model_request
    async def refuse(ctx: Any, request_context: Any) -> Any:
        raise PermissionError("not today")

    with pytest.raises(PermissionError):
        await Agent(scripted(), name="guide", capabilities=[hooks]).run("Well?")

    assert [(row["event"], row.get("error_type")) for row in told(seen.events)] == [
        ("agent.start", None),
        ("agent.end", "PermissionError"),
    ]


async def test_the_bytes_of_files_are_left_out_and_what_cannot_be_said_in_json_is_harmless(seen: Captured) -> None:
    agent = Agent(scripted(calls(call("show", "c1")), says("seen")), name="viewer")

    @agent.tool_plain
    def show() -> BinaryContent:
        return BinaryContent(b"pixels" * 10, media_type="image/png")

    await agent.run(["Look at", BinaryContent(b"secret pixels", media_type="image/png"), "\ud800"])

    text = repr(told(seen.events))
    assert "image/png" in text
    assert "secret pixels" not in text
    assert "c2VjcmV0IHBpeGVscw" not in text


# -- observing changes nothing ----------------------------------------------------------------------------------------

note: contextvars.ContextVar[str] = contextvars.ContextVar("note", default="unset")


async def program() -> list[Any]:
    """An agent program that tells all that it can see of its own course."""
    course: list[Any] = []

    def plain(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        course.append(("asked", len(messages), note.get()))
        if len(messages) == 1:
            return calls(call("slow", "c1"), call("fast", "c2"), call("bad", "c3"))
        return says("done")

    async def streamed(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        course.append("asked to stream")
        yield "a"
        yield "b"

    agent = Agent(FunctionModel(plain, stream_function=streamed, model_name="m"), name="course")
    order = asyncio.Event()

    @agent.tool_plain
    async def slow() -> str:
        await order.wait()
        course.append(("slow", note.get()))
        return "slow"

    @agent.tool_plain
    async def fast() -> str:
        note.set("changed in a tool")
        order.set()
        course.append(("fast", note.get()))
        return "fast"

    @agent.tool_plain
    def bad() -> str:
        raise ModelRetry("once more")

    note.set("set by the caller")
    task = asyncio.current_task()
    result = await agent.run("go")
    course += [result.output, result.usage, note.get(), asyncio.current_task() is task, result.new_messages()]
    async with agent.run_stream("go") as stream:
        async for text in stream.stream_text(debounce_by=None):
            course.append(text)
    try:
        await Agent(scripted(ModelHTTPError(500, "m")), name="failing").run("go")
    except ModelHTTPError as error:
        course.append((type(error), error.args, error.__cause__))
    try:
        await Agent(scripted(), name="empty", output_type=Score, retries=0).run("go")
    except (UnexpectedModelBehavior, RuntimeError) as error:
        course.append((type(error), str(error)))
    ours = ("otel_agentbus.invocation", "current_context")  # ours and OpenTelemetry's: as empty as before
    course.append(
        {var.name: value or None for var, value in contextvars.copy_context().items() if var.name not in ours}
    )
    course.append([value for var, value in contextvars.copy_context().items() if var.name in ours and value])
    return course


def timeless(value: Any) -> str:
    """The course without what is new in every run: times and ids."""
    import re

    text = re.sub(r"datetime\.datetime\([^)]*\)", "then", repr(value))
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|0x[0-9a-f]+", "id", text)


async def test_the_same_program_takes_the_same_course_observed_or_not(
    seen: Captured, instrumented: adapters.Instrumented, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    observed = await asyncio.create_task(program())
    assert seen.events
    instrumented.off()
    seen.events.clear()

    alone = await asyncio.create_task(program())

    assert not seen.events
    assert timeless(observed) == timeless(alone)
    assert not caplog.records


async def test_without_a_bus_agents_run_as_ever() -> None:
    assert (await Agent(scripted(says("yes")), name="guide").run("Well?")).output == "yes"


async def test_baggage_keeps_what_the_program_put_there_and_calls_carry_nothing_more(seen: Captured) -> None:
    from opentelemetry import baggage
    from opentelemetry.context import attach, get_current

    inside: list[dict[str, object]] = []

    def look(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        inside.append(dict(baggage.get_all()))
        return calls(call("peek", "c1")) if len(messages) == 1 else says("done")

    agent = Agent(FunctionModel(look, model_name="m"), name="guide")

    @agent.tool_plain
    async def peek() -> str:
        inside.append(dict(baggage.get_all()))
        return "seen"

    attach(baggage.set_baggage("tenant", "t1"))
    before = get_current()
    await agent.run("go")

    assert inside == [{"tenant": "t1"}] * 3
    assert get_current() is before


# -- when something of ours, or of the framework's inner parts, is not as expected -----------------------------------


async def test_a_failure_of_ours_is_counted_and_never_reaches_the_agent(
    seen: Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("ours")

    for name in ("llm_block", "tool_block", "agent_end"):
        monkeypatch.setattr(mapping, name, broken)
    agent = Agent(scripted(calls(call("look", "c1")), says("blue")), name="guide")

    @agent.tool_plain
    def look() -> str:
        return "blue"

    assert (await agent.run("Look")).output == "blue"

    assert losses.counts["a span of pydantic-ai could not be observed"] == 4
    assert len([record for record in caplog.records if record.name.startswith("otel_agentbus.adapters")]) == 1
    assert [(row["event"], row["outcome"]) for row in told(seen.events) if "outcome" in row] == [("agent.end", "ok")]
    losses.counts.clear()


async def test_a_version_without_the_inner_variable_tells_all_but_the_input(
    seen: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_IN_FLIGHT", ("pydantic_ai._instrumentation", "_moved_elsewhere"))

    await Agent(scripted(says("Paris")), name="guide").run("The capital of France?")

    [request, response] = [row for row in told(seen.events) if row["event"].startswith("llm.")]
    assert (request["messages_count"], "messages" in request, "messages" in response) == (0, False, True)


async def test_content_can_be_kept_out_of_the_events_themselves(
    seen: Captured, instrumented: adapters.Instrumented
) -> None:
    instrumented.off()
    switch = pydantic_ai.instrument(content=False)
    agent = Agent(scripted(calls(call("look", "c1", where="up")), says("It is blue.")), name="guide")

    @agent.tool_plain
    def look(where: str) -> str:
        return "blue"

    await agent.run("What colour is the sky?", model_settings={"temperature": 0.0})
    switch.off()

    rows = told(seen.events)
    assert [row["event"] for row in rows] == [
        "agent.start",
        "llm.request",
        "llm.response",
        "tool.start",
        "tool.end",
        "llm.request",
        "llm.response",
        "agent.end",
    ]
    assert not [key for row in rows for key in row if key in ("messages", "arguments", "result", "output", "input")]
    assert [row["messages_count"] for row in rows if row["event"] == "llm.request"] == [1, 3]
