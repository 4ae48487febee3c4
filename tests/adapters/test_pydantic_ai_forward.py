"""trace_agent, TraceMixin, ForwardEvents: a run's own events on any event bus, as they happen, harming nothing."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import BinaryContent, ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturn
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.run import AgentRunResult

from otel_agentbus.adapters.losses import losses
from otel_agentbus.adapters.pydantic_ai import ForwardEvents, TraceMixin, outbox, trace_agent, trace_agent_to_bus

Published = list[tuple[str, dict[str, Any]]]


class Score(BaseModel):
    value: int


class Bus:
    """An application's event bus: what was published, without run ids and durations, which are new in every run."""

    def __init__(self) -> None:
        self.events: Published = []

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        assert isinstance(data["run_id"], str)
        self.events.append((kind, {key: value for key, value in data.items() if key not in ("run_id", "duration_s")}))

    async def publish_soon(self, kind: str, data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.publish(kind, data)


def scripted(*answers: ModelResponse | Exception) -> FunctionModel:
    script = iter(answers)

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        response = next(script)
        if isinstance(response, Exception):
            raise response
        return response

    return FunctionModel(answer, model_name="m")


def call(tool: str, id: str, args: str | dict[str, Any]) -> ToolCallPart:
    return ToolCallPart(tool, args, tool_call_id=id)


def answers(*parts: ToolCallPart | str) -> ModelResponse:
    return ModelResponse(parts=[TextPart(part) if isinstance(part, str) else part for part in parts])


def request(number: int, agent: str = "scorer") -> tuple[str, dict[str, Any]]:
    return "llm_request", {"request": number, "provider": "function", "model": "m", "agent": agent}


def response(number: int, tokens: tuple[int, int], calls: int = 0, agent: str = "scorer") -> tuple[str, dict[str, Any]]:
    return "llm_response", {
        "request": number,
        "provider": "function",
        "model": "m",
        "success": True,
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "finish_reason": None,
        "tool_calls": calls,
        "agent": agent,
    }


def totals(input: int, output: int, requests: int, **more: Any) -> dict[str, Any]:
    tokens = {"tokens": input + output, "input_tokens": input, "output_tokens": output}
    return {**tokens, "requests": requests, "agent": "scorer", **more}


def tool_call(tool: str, id: str, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "llm_tool_call", {"tool": tool, "args": args, "tool_call_id": id, "agent": "scorer"}


def tool_result(tool: str, id: str, **said: Any) -> tuple[str, dict[str, Any]]:
    return "llm_tool_result", {"tool": tool, "tool_call_id": id, "agent": "scorer", **said}


@pytest.fixture(autouse=True)
def _losses() -> None:
    losses.counts.clear()
    losses._logged.clear()


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_run_with_tools_is_told_as_it_happens_and_its_result_comes_back_unchanged(way: str) -> None:
    bus = Bus()
    said: list[str] = []
    agent = Agent(
        scripted(
            answers(call("look_up", "c1", '{"lead": "Ada"}'), call("rate", "c2", {"by": 3})), answers("good lead")
        ),
        name="scorer",
    )

    @agent.tool_plain
    async def look_up(lead: str) -> ToolReturn:
        async with asyncio.timeout(30):
            while bus.events[-1][0] != "llm_tool_result":  # of the other one, while this goes on
                await asyncio.sleep(0.001)
        said.append(bus.events[-1][0])
        return ToolReturn({"city": lead}, metadata="not for the model")

    @agent.tool_plain
    async def rate(by: int) -> Score:
        return Score(value=by)

    result = await trace_agent(agent, bus.publish if way == "sync" else bus.publish_soon, "Qualify Ada")

    assert isinstance(result, AgentRunResult)
    assert result.output == "good lead"
    assert bus.events == [
        request(1),
        response(1, (52, 9), calls=2),
        tool_call("look_up", "c1", {"lead": "Ada"}),
        tool_call("rate", "c2", {"by": 3}),
        tool_result("rate", "c2", success=True, result={"value": 3}),
        tool_result("look_up", "c1", success=True, result={"city": "Ada"}),
        request(2),
        response(2, (59, 11)),
        ("llm_complete", totals(111, 20, 2)),
    ]
    assert said == ["llm_tool_result"]
    assert not losses.counts


async def test_a_structured_output_works_and_its_call_is_told() -> None:
    bus = Bus()
    agent = Agent(scripted(answers(call("final_result", "c1", {"value": 87}))), name="scorer", output_type=Score)

    result = await trace_agent(agent, bus.publish, "Qualify Ada")

    assert result.output == Score(value=87)
    assert bus.events == [
        request(1),
        response(1, (52, 4), calls=1),
        tool_call("final_result", "c1", {"value": 87}),
        tool_result("final_result", "c1", success=True, result="Final result processed."),
        ("llm_complete", totals(52, 4, 1)),
    ]


async def test_every_way_in_which_a_tool_call_fails_is_told_once() -> None:
    bus = Bus()
    parts = [
        call("unknown", "c1", {}),
        call("rate", "c2", {"by": "x"}),
        call("rate", "c3", {"by": 0}),
        call("rate", "c4", "no json"),
    ]
    agent = Agent(scripted(answers(*parts), answers("no")), name="scorer")

    @agent.tool_plain(retries=5)
    def rate(by: int) -> str:
        raise ModelRetry("not zero")

    await trace_agent(agent, bus.publish, "Qualify Ada")

    results = {data["tool_call_id"]: data for kind, data in bus.events if kind == "llm_tool_result"}
    assert [data["args"] for kind, data in bus.events if kind == "llm_tool_call"] == [
        {},
        {"by": "x"},
        {"by": 0},
        {"INVALID_JSON": "no json"},
    ]
    assert sorted(results) == ["c1", "c2", "c3", "c4"]
    assert len([kind for kind, _ in bus.events if kind == "llm_tool_result"]) == 4
    assert {id: (data["success"], data["error_type"]) for id, data in results.items()} == {
        "c1": (False, "retried"),
        "c2": (False, "pydantic_core._pydantic_core.ValidationError"),
        "c3": (False, "pydantic_ai.exceptions.ModelRetry"),
        "c4": (False, "pydantic_core._pydantic_core.ValidationError"),
    }
    assert results["c3"] == {
        "tool": "rate",
        "tool_call_id": "c3",
        "success": False,
        "outcome": "error",
        "error_type": "pydantic_ai.exceptions.ModelRetry",
        "error": "not zero",
        "agent": "scorer",
    }


async def test_a_tool_that_raises_ends_the_run_with_its_usage_and_the_exception_itself() -> None:
    bus = Bus()
    agent = Agent(scripted(answers(call("rate", "c1", {}))), name="scorer")
    failure = LookupError("no such lead")

    @agent.tool_plain
    def rate() -> str:
        raise failure

    with pytest.raises(LookupError) as raised:
        await trace_agent(agent, bus.publish, "Qualify Ada")

    assert raised.value is failure
    told = {"outcome": "error", "error_type": "LookupError", "error": "no such lead"}
    assert bus.events[2:] == [
        tool_call("rate", "c1", {}),
        tool_result("rate", "c1", success=False, **told),
        ("llm_error", totals(52, 2, 1, **told)),
    ]


async def test_a_model_that_fails_is_told_before_the_run_fails() -> None:
    bus = Bus()
    agent = Agent(scripted(ModelHTTPError(503, "m", "overloaded")), name="scorer")

    with pytest.raises(ModelHTTPError):
        await trace_agent(agent, bus.publish_soon, "Qualify Ada")

    told = {
        "outcome": "error",
        "error_type": "pydantic_ai.exceptions.ModelHTTPError",
        "error": "status_code: 503, model_name: m, body: overloaded",
    }
    about = {"request": 1, "provider": "function", "model": "m"}
    assert bus.events == [
        request(1),
        ("llm_response", {**about, "success": False, **told, "agent": "scorer"}),
        ("llm_error", totals(0, 0, 1, **told)),
    ]


async def test_a_cancelled_run_is_told_as_cancelled() -> None:
    bus = Bus()
    asked = asyncio.Event()

    async def never(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    agent = Agent(FunctionModel(never, model_name="m"), name="scorer")
    task = asyncio.create_task(trace_agent(agent, bus.publish, "Qualify Ada"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [(kind, data.get("outcome")) for kind, data in bus.events] == [
        ("llm_request", None),
        ("llm_response", "cancelled"),
        ("llm_error", "cancelled"),
    ]


async def test_a_message_history_is_never_told_again() -> None:
    bus = Bus()
    agent = Agent(scripted(answers(call("rate", "c1", {})), answers("good"), answers("still good")), name="scorer")

    @agent.tool_plain
    def rate() -> str:
        return "3"

    first = await agent.run("Qualify Ada")
    result = await trace_agent(agent, bus.publish, "And now?", message_history=first.all_messages())

    assert result.output == "still good"
    assert [kind for kind, _ in bus.events] == ["llm_request", "llm_response", "llm_complete"]


async def test_two_runs_of_one_agent_at_once_do_not_mix() -> None:
    bus: list[tuple[str, str, int]] = []

    def publish(kind: str, data: dict[str, Any]) -> None:
        if kind == "llm_complete":
            bus.append((kind, data["run_id"], data["requests"]))

    agent = Agent(TestModel(call_tools=["rate"]), name="scorer")

    @agent.tool_plain
    async def rate() -> str:
        await asyncio.sleep(0)
        return "3"

    forward = ForwardEvents(publish)
    one, two = await asyncio.gather(agent.run("Ada", capabilities=[forward]), agent.run("Bob", capabilities=[forward]))

    assert sorted(bus) == sorted([("llm_complete", one.run_id, 2), ("llm_complete", two.run_id, 2)])


# -- the run is left alone --------------------------------------------------------------------------------------------


async def test_a_run_that_does_not_stream_stays_one() -> None:
    async def streamed(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        raise AssertionError("asked to stream")
        yield ""

    agent = Agent(FunctionModel(lambda messages, info: answers("yes"), stream_function=streamed), name="scorer")

    assert (await trace_agent(agent, Bus().publish, "Well?")).output == "yes"


async def test_a_streamed_run_is_forwarded_with_the_capability() -> None:
    bus = Bus()
    agent = Agent(TestModel(custom_output_text="one two three"), name="writer")

    async with agent.run_stream("Write", capabilities=[ForwardEvents(bus.publish)]) as stream:
        assert [text async for text in stream.stream_text(delta=True, debounce_by=None)] == ["one ", "two ", "three"]

    assert [(kind, data.get("output_tokens")) for kind, data in bus.events] == [
        ("llm_request", None),
        ("llm_response", 3),
        ("llm_complete", 3),
    ]


async def test_the_agent_keeps_its_missing_name_and_its_own_capabilities_work() -> None:
    bus = Bus()
    agent = Agent(TestModel(custom_output_text="yes"))
    seen: list[str] = []

    await trace_agent(agent, bus.publish, "Well?", capabilities=[ForwardEvents(lambda kind, data: seen.append(kind))])

    assert agent.name is None
    assert {data["agent"] for _, data in bus.events} == {"agent"}
    assert seen == ["llm_request", "llm_response", "llm_complete"]


async def test_files_and_what_json_cannot_say_are_told_in_short() -> None:
    bus = Bus()
    loop: list[Any] = []
    loop.append(loop)
    parts = [call("picture", "c1", {}), call("cycle", "c2", {}), call("thing", "c3", {})]
    agent = Agent(scripted(answers(*parts), answers("ok")), name="scorer")

    class Thing:
        def __str__(self) -> str:
            raise RuntimeError

    @agent.tool_plain
    def picture() -> BinaryContent:
        return BinaryContent(b"pixels", media_type="image/png")

    @agent.tool_plain
    def cycle() -> ToolReturn:
        return ToolReturn("fine", metadata=loop)

    @agent.tool_plain
    def thing() -> str:
        return str(Score(value=1))

    await trace_agent(agent, bus.publish, "Show")

    results = {data["tool_call_id"]: data["result"] for kind, data in bus.events if kind == "llm_tool_result"}
    assert results == {"c1": {"media_type": "image/png", "bytes": 6}, "c2": "fine", "c3": "value=1"}


async def test_a_model_that_cannot_tell_its_provider_is_told_without() -> None:
    class Nameless(TestModel):
        asked = 0

        @property
        def system(self) -> str:
            self.asked += 1
            if self.asked == 1:
                raise RuntimeError("not configured yet")
            return "test"

    bus = Bus()

    assert (
        await trace_agent(Agent(Nameless(custom_output_text="yes"), name="scorer"), bus.publish, "?")
    ).output == "yes"
    assert bus.events[0] == ("llm_request", {"request": 1, "agent": "scorer"})
    assert losses.counts == {"an event of a run could not be forwarded": 1}


# -- a bus that misbehaves --------------------------------------------------------------------------------------------


def raising(kind: str, data: dict[str, Any]) -> None:
    raise ConnectionError("bus is down")


async def raising_soon(kind: str, data: dict[str, Any]) -> None:
    raise ConnectionError("bus is down")


async def cancelled(kind: str, data: dict[str, Any]) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("publish", [raising, raising_soon])
async def test_a_bus_that_raises_is_counted_and_logged_once_and_the_run_goes_on(
    publish: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    result = await trace_agent(Agent(TestModel(custom_output_text="yes"), name="scorer"), publish, "Well?")

    assert result.output == "yes"
    assert losses.counts == {"publish failed": 3}
    [record] = caplog.records
    assert record.getMessage() == "publish failed (1 so far)"
    assert record.exc_info is not None


async def test_a_bus_that_cancels_itself_does_not_cancel_the_run() -> None:
    assert (await trace_agent(Agent(TestModel(custom_output_text="yes")), cancelled, "Well?")).output == "yes"


async def test_a_bus_that_hangs_does_not_hold_up_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FAREWELL", 0.01)
    monkeypatch.setattr(outbox, "PATIENCE", 0.05)
    stuck: list[str] = []

    async def hang(kind: str, data: dict[str, Any]) -> None:
        stuck.append(kind)
        await asyncio.Event().wait()

    result = await trace_agent(Agent(TestModel(custom_output_text="yes")), hang, "Well?")

    assert result.output == "yes"
    assert stuck == ["llm_request"]
    await asyncio.gather(*outbox._workers)
    assert stuck == ["llm_request", "llm_response", "llm_complete"]
    assert losses.counts == {"publish hung and was cancelled": 3}


async def test_a_plain_function_that_blocks_is_named_as_what_holds_up_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "SLOW", -1.0)

    await trace_agent(Agent(TestModel(custom_output_text="yes")), Bus().publish, "Well?")

    [record] = caplog.records
    assert record.getMessage() == (
        "publish has held up the run: make it async, or hand over to a thread in it (1 so far)"
    )


async def test_a_bus_that_is_too_slow_loses_events_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "ROOM", 1)
    bus = Bus()
    box = outbox.Outbox(bus.publish_soon)

    for number in range(4):
        box.put("tick", {"run_id": "r", "number": number})
    await box.flush()

    assert bus.events == [("tick", {"number": 0})]
    assert losses.counts == {"publish is too slow: an event was dropped": 3}


def test_what_is_left_at_the_end_of_the_loop_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FAREWELL", 0.0)

    async def hang(kind: str, data: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    asyncio.run(trace_agent(Agent(TestModel(custom_output_text="yes")), hang, "Well?"))

    assert losses.counts == {"publish was cut off by the end of the event loop": 2}


async def test_an_async_bus_sees_the_context_in_which_each_event_happened() -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")
    seen: list[tuple[str, str]] = []

    async def publish(kind: str, data: dict[str, Any]) -> None:
        seen.append((kind, where.get()))

    where.set("in the caller")
    await trace_agent(Agent(TestModel(custom_output_text="yes")), publish, "Well?")

    assert seen == [(kind, "in the caller") for kind in ("llm_request", "llm_response", "llm_complete")]


# -- for classes with a bus of their own ------------------------------------------------------------------------------


class LeadQualificationAgent(TraceMixin):
    """The seed's agent: domain events and LLM events on one bus."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.published: Published = []
        self.pydantic_agent = Agent(scripted(answers(call("rate", "c1", {"by": 1})), answers("qualified")))

        @self.pydantic_agent.tool_plain
        def rate(by: int) -> int:
            return by

    async def publish_event(self, event_type: str, data: dict[str, Any]) -> None:
        self.published.append((event_type, data))

    async def execute(self, task: dict[str, str]) -> str:
        await self.publish_event("lead_received", {"email": task["email"]})
        result = await self.trace_agent(self.pydantic_agent, task["description"])
        await self.publish_event("lead_qualified", {"score": 87})
        return result.output


@pytest.mark.parametrize(("name", "label"), [(None, "LeadQualificationAgent"), ("qualifier", "qualifier")])
async def test_domain_events_and_llm_events_share_one_bus(name: str | None, label: str) -> None:
    agent = LeadQualificationAgent(name)

    output = await agent.execute({"email": "ada@example.org", "description": "Wants to buy"})

    assert output == "qualified"
    assert [kind for kind, _ in agent.published] == [
        "lead_received",
        "llm_request",
        "llm_response",
        "llm_tool_call",
        "llm_tool_result",
        "llm_request",
        "llm_response",
        "llm_complete",
        "lead_qualified",
    ]
    [tool_call] = [data for kind, data in agent.published if kind == "llm_tool_call"]
    assert {key: tool_call[key] for key in ("tool", "args", "agent")} == {
        "tool": "rate",
        "args": {"by": 1},
        "agent": label,
    }
    [complete] = [data for kind, data in agent.published if kind == "llm_complete"]
    assert {key: complete[key] for key in ("tokens", "agent")} == {
        "tokens": complete["input_tokens"] + complete["output_tokens"],
        "agent": label,
    }


async def test_the_shape_of_the_seed_gives_back_the_output() -> None:
    bus = Bus()

    output = await trace_agent_to_bus(
        Agent(scripted(answers(call("final_result", "c1", {"value": 87}))), name="scorer", output_type=Score),
        bus.publish_soon,
        "Qualify Ada",
    )

    assert output == Score(value=87)
    assert bus.events[-1] == ("llm_complete", totals(52, 4, 1))
