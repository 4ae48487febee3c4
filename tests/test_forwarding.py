"""To an application's own bus: in order, beside the agent, without content that stays home, and never back again."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Bus, Settings
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import DomainEvent, Error, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.forwarding import Forwarding, LlmEvents, Said, forward_to, forward_to_redis
from otel_agentbus.router import Router
from otel_agentbus.testing import capture, wait_until

SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"


class AppBus:
    """An application's own bus, as the CRM has one."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.ids: list[dict[str, Any]] = []

    def publish_event(self, kind: str, data: dict[str, Any]) -> None:
        self.ids.append(data.pop("agentbus"))
        self.heard.append((kind, data))

    async def publish_event_async(self, kind: str, data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self.publish_event(kind, data)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.heard]


@pytest.fixture
def app() -> AppBus:
    return AppBus()


@pytest.fixture
def bus() -> Iterator[Bus]:
    with capture(strict=False) as seen:
        yield seen.bus


def converse() -> None:
    """One run, with a model call and a tool call in it, and what the application says meanwhile."""
    with agentbus.agent("planner", provider="openai", model="gpt", lead="l1", input="about Ada") as run:
        with run.llm(messages_count=1, messages=[{"role": "user", "content": "about Ada"}]) as call:
            call.record(input_tokens=120, output_tokens=40, finish_reasons=["stop"])
        with run.tool("search", tool_call_id="c1", arguments={"q": "Ada"}) as tool:
            tool.record(result="3 hits")


def said(app: AppBus) -> list[tuple[str, dict[str, Any]]]:
    """What was heard, without durations and the ids that are made up."""
    made = ("duration", "duration_s", "call_id", "run_id")
    return [(kind, {key: value for key, value in data.items() if key not in made}) for kind, data in app.heard]


# -- what is said -----------------------------------------------------------------------------------------------------
def test_every_event_is_said_in_order_under_its_own_name(bus: Bus, app: AppBus) -> None:
    with forward_to(app.publish_event):
        converse()
        bus.publish("lead_qualified", {"score": 87})
    begun = {"agent": "planner", "attributes": {"lead": "l1", "agentbus.invocation.path": "planner"}}
    place = {"agent": "planner"}
    model = {"model_provider": "openai", "model": "gpt"}
    tool = {"tool": "search", "tool_call_id": "c1"}
    assert said(app) == [
        ("agent.start", model | begun),
        ("llm.request", {**model, "messages_count": 1, **place}),
        (
            "llm.response",
            {**model, "success": True, "outcome": "ok", "input_tokens": 120, "output_tokens": 40}
            | {"finish_reasons": ["stop"], **place},
        ),
        ("tool.start", tool | place),
        ("tool.end", {**tool, "success": True, "outcome": "ok", **place}),
        ("agent.end", {**model, "outcome": "ok", **place}),
        ("lead_qualified", {"score": 87}),
    ]


def test_runs_are_told_by_the_names_of_the_llm_bridge_with_the_tokens_of_each_call_once(bus: Bus, app: AppBus) -> None:
    with forward_to(app.publish_event, names="llm"):
        converse()
        bus.publish("lead_qualified", {"score": 87})
    place = {"agent": "planner"}
    request = {"request": 1, "provider": "openai", "model": "gpt"}
    tool = {"tool": "search", "tool_call_id": "c1"}
    tokens = {"input_tokens": 120, "output_tokens": 40}
    assert said(app) == [
        ("llm_request", request | place),
        ("llm_response", {**request, "success": True, **tokens, "finish_reason": "stop", **place}),
        ("llm_tool_call", {**tool, "args": None, **place}),
        ("llm_tool_result", {**tool, "success": True, "result": None, **place}),
        ("llm_complete", {"tokens": 160, **tokens, "requests": 1, **place}),
        ("lead_qualified", {"score": 87}),
    ]


def test_a_run_that_fails_ends_with_its_error(bus: Bus, app: AppBus) -> None:
    with (
        forward_to(app.publish_event, names="llm"),
        pytest.raises(ValueError),
        agentbus.agent("planner") as run,
        run.tool("search", tool_call_id="c1"),
    ):
        raise ValueError("no such lead")
    failure = {"outcome": "error", "error_type": "ValueError", "error": "no such lead", "agent": "planner"}
    nothing = {"tokens": 0, "input_tokens": 0, "output_tokens": 0, "requests": 0}
    assert said(app)[-2:] == [
        ("llm_tool_result", {"tool": "search", "tool_call_id": "c1", "success": False, **failure}),
        ("llm_error", {**nothing, **failure}),
    ]


def test_a_call_that_is_told_twice_is_added_once_and_the_event_stays_as_it_is() -> None:
    telling = LlmEvents()
    place: dict[str, Any] = {"invocation_id": "r", "source": "s"}
    call: dict[str, Any] = {"model_provider": "o", "model": "m", "call_id": "c", "success": True, "duration": 1.0}
    for seq in range(2):
        response = LlmResponse(**place, **call, seq=seq, input_tokens=20, output_tokens=10)
        telling(response)
        assert not hasattr(response, "account")
    ended = telling(agentbus.events.AgentEnd(**place, seq=3))
    assert ended is not None
    assert (ended.type, ended.data["tokens"]) == ("llm_complete", 30)


def test_only_what_was_asked_for_is_said(bus: Bus, app: AppBus) -> None:
    with forward_to(app.publish_event, ToolCall, "lead_*"):
        converse()
        bus.publish("lead_qualified")
        bus.publish("other")
    assert app.kinds == ["tool.end", "lead_qualified"]


def test_names_may_be_the_applications_own(bus: Bus, app: AppBus) -> None:
    def telling(event: Any) -> Said | None:
        return Said("used", {"tool": event.tool}) if isinstance(event, ToolCall) else None

    with forward_to(app.publish_event, names=telling):
        converse()
    assert app.heard == [("used", {"tool": "search"})]


def test_what_is_said_can_be_found_again_by_its_ids(bus: Bus, app: AppBus) -> None:
    with (
        forward_to(app.publish_event, ToolCallStart, name="crm") as forwarding,
        agentbus.agent("planner") as outer,
        agentbus.agent("worker") as run,
        run.tool("t", tool_call_id="c1"),
    ):
        pass
    (found,) = app.ids
    assert found.pop("time_ns") > 0
    assert len(found.pop("trace_id", "0" * 32)) == 32
    assert found == {
        "source": bus.source,
        "seq": found["seq"],
        "invocation_id": run.id,
        "parent_invocation_id": outer.id,
        "root_invocation_id": outer.id,
        "by": forwarding.id,
        "via": ["crm"],
    }


# -- beside the agent -------------------------------------------------------------------------------------------------
def test_a_function_that_raises_costs_its_event_and_nothing_else(bus: Bus, app: AppBus) -> None:
    def publish(kind: str, data: dict[str, Any]) -> None:
        if kind == "two":
            raise OSError("away")
        app.publish_event(kind, data)

    with forward_to(publish) as forwarding:
        for kind in ("one", "two", "three"):
            bus.publish(kind)
    assert app.kinds == ["one", "three"]
    assert (forwarding.sent, forwarding.failed, forwarding.dropped) == (2, 1, 0)


def test_a_function_that_hangs_holds_up_nobody_and_what_finds_no_room_is_counted(bus: Bus, app: AppBus) -> None:
    released = threading.Event()

    def publish(kind: str, data: dict[str, Any]) -> None:
        released.wait(30)
        app.publish_event(kind, data)

    with forward_to(publish, queue_size=3) as forwarding:
        bus.publish("first")
        assert wait_until(lambda: forwarding._mouth.delivery._taken == 1)  # type: ignore[union-attr]
        for number in range(5):
            bus.publish(f"e{number}")
        assert (app.kinds, forwarding.dropped) == ([], 2)
        released.set()
    assert app.kinds == ["first", "e2", "e3", "e4"]
    assert forwarding.sent == 4


async def test_an_async_function_is_awaited_one_event_after_the_other(app: AppBus) -> None:
    with capture(strict=False) as seen:
        async with forward_to(app.publish_event_async) as forwarding:
            for number in range(20):
                seen.bus.publish(f"e{number}")
        assert app.kinds == [f"e{number}" for number in range(20)]
        assert forwarding.sent == 20


async def test_an_async_function_that_hangs_is_cancelled_and_the_next_event_said(app: AppBus) -> None:
    async def publish(kind: str, data: dict[str, Any]) -> None:
        if kind == "hangs":
            await asyncio.Event().wait()
        app.publish_event(kind, data)

    with capture(strict=False) as seen:
        async with forward_to(publish, timeout=0.05) as forwarding:
            for kind in ("one", "hangs", "two"):
                seen.bus.publish(kind)
    assert (app.kinds, forwarding.failed) == (["one", "two"], 1)


def test_a_plain_function_that_gives_back_a_coroutine_is_told_how_to_be_forwarded_to(
    bus: Bus, app: AppBus, caplog: pytest.LogCaptureFixture
) -> None:
    with forward_to(lambda kind, data: app.publish_event_async(kind, data)) as forwarding:
        bus.publish("one")
    assert (app.kinds, forwarding.failed) == ([], 1)
    assert "deliver='task'" in caplog.text


async def test_such_a_function_is_awaited_where_that_was_said(app: AppBus) -> None:
    with capture(strict=False) as seen:
        async with forward_to(lambda kind, data: app.publish_event_async(kind, data), deliver="task"):
            seen.bus.publish("one")
    assert app.kinds == ["one"]


def test_nothing_is_said_after_the_end_and_ending_twice_is_nothing(bus: Bus, app: AppBus) -> None:
    forwarding = forward_to(app.publish_event)
    bus.publish("one")
    forwarding.off()
    bus.publish("two")
    forwarding.off()
    assert app.kinds == ["one"]


def test_a_flush_of_the_bus_waits_for_what_is_forwarded(bus: Bus, app: AppBus) -> None:
    forward_to(app.publish_event)
    for number in range(200):
        bus.publish(f"e{number}")
    assert bus.flush()
    assert len(app.kinds) == 200


def test_a_fork_forwards_in_the_child_what_the_child_says(bus: Bus) -> None:
    read, write = os.pipe()

    def publish(kind: str, data: dict[str, Any]) -> None:
        os.write(write, f"{kind} ".encode())

    forwarding = forward_to(publish)
    child = os.fork()
    if child == 0:
        try:
            bus.publish("child")
            forwarding.off(5.0)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    forwarding.off()
    os.close(write)
    assert os.read(read, 100) == b"child "


# -- what stays home --------------------------------------------------------------------------------------------------
def test_content_that_is_not_captured_is_not_forwarded_nor_quoted_by_errors(bus: Bus, app: AppBus) -> None:
    with (
        forward_to(app.publish_event),
        pytest.raises(ValueError),
        agentbus.agent("planner", input="the merger with Initech") as run,
        run.tool("search", tool_call_id="c1", arguments={"q": "the merger with Initech"}),
    ):
        raise ValueError("cannot search for the merger with Initech")
    assert "Initech" not in repr(app.heard)
    assert app.kinds[-1] == "agent.end"


def test_even_the_last_error_of_a_run_quotes_nothing_where_only_ends_are_asked_for(bus: Bus, app: AppBus) -> None:
    with (
        forward_to(app.publish_event, "agent.end"),
        pytest.raises(ValueError),
        agentbus.agent("planner", input="the merger with Initech"),
    ):
        raise ValueError("cannot work on the merger with Initech")
    ((_, data),) = app.heard
    assert data["error_type"] == "ValueError"
    assert "Initech" not in data["error_message"]


def test_content_that_was_asked_for_is_forwarded_as_it_was_without_its_secrets(bus: Bus, app: AppBus) -> None:
    with (
        forward_to(app.publish_event, ToolCallStart, names="llm", content=True),
        agentbus.agent("planner") as run,
        run.tool("search", tool_call_id="c", arguments={"q": "Ada", "key": SECRET}),
    ):
        pass
    ((_, data),) = app.heard
    assert data["args"]["q"] == "Ada"
    assert SECRET not in repr(data)


def test_what_the_bus_captures_is_forwarded_and_its_own_redaction_holds(app: AppBus) -> None:
    def redact(field: str, value: Any) -> Any:
        return {"q": "(redacted)"} if field == "arguments" else value

    with (
        agentbus.connect(settings=Settings(capture_content="SPAN_ONLY"), redact=redact),
        forward_to(app.publish_event, ToolCallStart),
        agentbus.agent("planner") as run,
        run.tool("search", tool_call_id="c", arguments={"q": "Ada"}),
    ):
        pass
    ((_, data),) = app.heard
    assert data["arguments"] == {"q": "(redacted)"}


def test_what_an_application_says_loses_its_secrets(bus: Bus, app: AppBus) -> None:
    with forward_to(app.publish_event):
        bus.publish("lead_received", {"email": "ada@example.org", "api_key": SECRET})
    ((_, data),) = app.heard
    assert data["email"] == "ada@example.org"
    assert SECRET not in repr(data)


def test_what_changes_after_it_was_told_is_forwarded_as_it_was(bus: Bus, app: AppBus) -> None:
    held = threading.Event()

    def publish(kind: str, data: dict[str, Any]) -> None:
        held.wait(30)
        app.publish_event(kind, data)

    arguments = {"q": "Ada"}
    with forward_to(publish, ToolCallStart, content=True):
        with agentbus.agent("planner") as run, run.tool("search", tool_call_id="c", arguments=arguments):
            arguments["q"] = "Bob"
        held.set()
    assert app.heard[0][1]["arguments"] == {"q": "Ada"}


def test_a_router_alone_forwards_without_content(app: AppBus) -> None:
    router = Router()
    with forward_to(app.publish_event, bus=router):
        router.emit(ToolCallStart(tool="search", arguments={"q": "Ada"}))
        router.publish("lead_qualified", {"score": 1})
    assert app.heard == [("tool.start", {"tool": "search"}), ("lead_qualified", {"score": 1})]


# -- never back again -------------------------------------------------------------------------------------------------
def test_what_came_from_there_is_heard_here_and_not_sent_back(bus: Bus, app: AppBus) -> None:
    heard: list[str] = []
    bus.subscribe(lambda event: heard.append(event.name), DomainEvent)
    with forward_to(app.publish_event, name="crm") as forwarding:
        assert forwarding.receive("lead_received", {"email": "e"})
        bus.publish("ours")
    assert heard == ["lead_received", "ours"]
    assert (app.kinds, forwarding.returned) == (["ours"], 1)


def test_a_message_of_our_own_is_no_news_and_one_of_another_process_is(bus: Bus, app: AppBus) -> None:
    with forward_to(app.publish_event, name="crm") as forwarding:
        bus.publish("ours")
        assert bus.flush()
        assert not forwarding.receive("ours", {}, app.ids[0])
        assert forwarding.receive("ours", {}, app.ids[0] | {"by": "another"})
    assert (app.kinds, forwarding.returned) == (["ours"], 1)


def test_a_bus_that_tells_us_what_we_tell_it_hears_it_once(bus: Bus, app: AppBus) -> None:
    def publish(kind: str, data: dict[str, Any]) -> None:
        app.publish_event(kind, data)
        bus.publish(kind, dict(data))

    with forward_to(publish, name="crm") as forwarding:
        bus.publish("one")
        assert bus.flush()
    assert (app.kinds, forwarding.returned) == (["one"], 1)


def test_two_buses_that_both_lead_back_hear_everything_once_each(bus: Bus) -> None:
    one, two = AppBus(), AppBus()

    def to(there: AppBus) -> Any:
        def publish(kind: str, data: dict[str, Any]) -> None:
            there.publish_event(kind, data)
            bus.publish(f"{kind}'", {})

        return publish

    with forward_to(to(one), name="one") as first, forward_to(to(two), name="two") as second:
        bus.publish("e")
        assert wait_until(lambda: first.returned + second.returned == 6)
        assert bus.flush()
    assert sorted(one.kinds) == ["e", "e'"]
    assert sorted(two.kinds) == ["e", "e'"]
    assert sorted(ids["via"] for ids in one.ids) == [["one"], ["two", "one"]]


def test_what_one_bus_hands_to_another_goes_back_to_neither(bus: Bus, app: AppBus) -> None:
    with forward_to(app.publish_event, name="two") as second:

        def publish(kind: str, data: dict[str, Any]) -> None:
            second.receive(f"{kind}'", {})

        with forward_to(publish, name="one") as first:
            bus.publish("e")
            assert wait_until(lambda: first.returned + second.returned == 2)
            assert bus.flush()
    assert app.kinds == ["e"]


async def test_what_a_task_tells_that_a_publish_has_begun_is_forwarded(app: AppBus) -> None:
    """An application's bus may start its worker with the first event: what its agents do later is no echo."""
    go = asyncio.Event()
    workers: list[asyncio.Task[None]] = []

    with capture(strict=False) as seen:

        async def work() -> None:
            await go.wait()
            seen.bus.publish("of the worker")

        async def publish(kind: str, data: dict[str, Any]) -> None:
            if not workers:
                workers.append(asyncio.create_task(work()))
            app.publish_event(kind, data)

        async with forward_to(publish, name="crm") as forwarding:
            seen.bus.publish("first")
            while not app.kinds:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.001)
            go.set()
            await workers[0]
        assert (app.kinds, forwarding.returned) == (["first", "of the worker"], 0)


# -- wiring -----------------------------------------------------------------------------------------------------------
def test_without_a_bus_there_is_nothing_to_forward(app: AppBus) -> None:
    with pytest.raises(ConfigurationError, match="connect"):
        forward_to(app.publish_event)


def test_names_that_there_are_none_of_are_refused(bus: Bus, app: AppBus) -> None:
    with pytest.raises(ConfigurationError, match="'llms'"):
        forward_to(app.publish_event, names="llms")  # type: ignore[arg-type]


@pytest.mark.parametrize("where", [{}, {"channel": "a", "stream": "b"}])
def test_redis_is_told_on_a_channel_or_in_a_stream(bus: Bus, where: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="one of channel and stream"):
        forward_to_redis("redis://localhost:1/0", **where)  # type: ignore[arg-type]


def test_a_url_that_is_none_is_refused_without_its_password(bus: Bus) -> None:
    with pytest.raises(ConfigurationError) as refused:
        forward_to_redis("http://user:hunter2@localhost", channel="c")
    assert "hunter2" not in str(refused.value)


def test_a_forwarding_that_fails_to_begin_leaves_nothing_behind(bus: Bus, app: AppBus) -> None:
    before = len(bus.router.subscriptions)
    with pytest.raises((TypeError, ValueError)):
        forward_to(app.publish_event, queue_size=0)
    with pytest.raises((TypeError, ValueError)):
        forward_to(app.publish_event, 5)  # type: ignore[arg-type]
    assert len(bus.router.subscriptions) == before


def test_events_that_cannot_be_written_are_said_as_far_as_they_can(app: AppBus) -> None:
    router = Router()
    with forward_to(app.publish_event, bus=router) as forwarding:
        router.emit(Error(component="c\ud800", message=object()))  # type: ignore[arg-type]
        router.emit(LlmRequest(model_provider="o", model=object(), messages_count=1))  # type: ignore[arg-type]
    assert (app.kinds, forwarding.failed) == (["error", "llm.request"], 0)
    assert isinstance(forwarding, Forwarding)
