"""What is recorded on a block, and that nothing a program passes comes back to it as an exception."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.events import AgentEnd, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.testing import Captured, FakeClock, capture, wait_until

from .hostile import Broken
from .observing import ends, restored

ENDS: dict[str, type[Event]] = {"agent": AgentEnd, "llm": LlmResponse, "tool": ToolCall}


def make(kind: str, name: Any = "b", **options: Any) -> Any:
    return getattr(agentbus, kind)(name, **options)


def end_of(kind: str, error: BaseException | None = None, /, **recorded: Any) -> Any:
    """The end event of a block of which this was recorded."""
    with capture(fake_clock=FakeClock(), validate_events=False) as seen:
        block = make(kind).start()
        block.record(**recorded)
        block.end(error)
    (end,) = ends(seen.events)
    return end


@pytest.fixture
def seen() -> Iterator[Captured]:
    """A production's: nothing is validated."""
    with capture(validate_events=False) as captured:
        yield captured
    assert current() is None


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENDS)
def test_every_field_of_the_end_event_can_be_recorded(kind: str) -> None:
    own = {"event", "duration", "outcome", "success", "tool", "tool_call_id", "call_id"}
    names = {f.name for f in fields(ENDS[kind])} - {f.name for f in fields(Event)} - own
    end = end_of(kind, **{name: f"said {name}" for name in names}, channel="mail")
    assert {name: getattr(end, name) for name in names} == {name: f"said {name}" for name in names}
    assert (end.channel, end.attributes) == ("mail", {})


@pytest.mark.parametrize("kind", ENDS)
def test_what_is_no_field_of_the_end_event_becomes_an_attribute(kind: str) -> None:
    end = end_of(kind, customer=7, attributes={"a": 1}, duration=99, invocation_id="x", seq=4, self=5, event="e")
    assert end.attributes == {
        "customer": 7,
        "a": 1,
        "duration": 99,
        "invocation_id": "x",
        "seq": 4,
        "self": 5,
        "event": "e",
    }
    assert (end.duration, end.invocation_id == "x", end.kind) == (0.0, False, ENDS[kind].kind)


@pytest.mark.parametrize("kind", ENDS)
def test_what_is_recorded_later_wins_and_attributes_add_up(kind: str) -> None:
    with capture() as seen, make(kind) as block:
        assert block.record(error_message="first", a=1, b=1) is block
        block.record(error_message="second").record(b=2, c=3)
        block.record(attributes="not a mapping")
    (end,) = ends(seen.events)
    assert end.error_message == "second"
    assert end.attributes == {"a": 1, "b": 2, "c": 3, "attributes": "not a mapping"}


@pytest.mark.parametrize("kind", ENDS)
def test_what_is_recorded_after_the_end_or_before_the_start_does_no_harm(kind: str) -> None:
    with capture() as seen:
        block = make(kind)
        block.record(early=1)
        with block:
            pass
        block.record(late=1)
        block.end()
    (end,) = ends(seen.events)
    assert end.attributes == {"early": 1}


@pytest.mark.parametrize("kind", ENDS)
def test_recording_nothing_is_recording_nothing(kind: str) -> None:
    names = {f.name for f in fields(ENDS[kind])} - {f.name for f in fields(Event)}
    names -= {"event", "duration", "tool", "tool_call_id", "call_id"}
    assert end_of(kind, **dict.fromkeys(names)).__class__ is ENDS[kind]
    with capture(fake_clock=FakeClock()) as plain, make(kind):
        pass
    with capture(fake_clock=FakeClock()) as with_nothing, make(kind) as block:
        block.record(**dict.fromkeys(names))
    (expected,), (got,) = ends(plain.events), ends(with_nothing.events)
    for name in names:
        assert getattr(got, name) == getattr(expected, name), name


@pytest.mark.parametrize("kind", ["llm", "tool"])
def test_no_field_of_a_calls_events_is_forgotten(kind: str) -> None:
    """They are built field by field; every field must stand there, with its default where nothing was said."""
    with capture() as seen, make(kind):
        pass
    for event in seen.events:
        for f in fields(event):
            value = getattr(event, f.name)
            if f.default_factory is not MISSING:
                assert value == f.default_factory()
            elif f.default is None and f.name not in _SAID:
                assert value is None, f.name
    assert isinstance(seen.events[0], (LlmRequest, ToolCallStart))


_SAID = {
    "time_ns",
    "source",
    "seq",
    "root_invocation_id",
    "trace",
    "call_id",
    "tool_call_id",
    "outcome",
}


# -- outcomes ----------------------------------------------------------------------------------------------------------

FAILED, CANCELLED = ValueError("bad"), KeyboardInterrupt()


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize(
    ("error", "recorded", "expected"),
    [
        (None, {}, ("ok", None, None)),
        (None, {"outcome": "cancelled"}, ("cancelled", None, None)),
        (None, {"outcome": "interrupted"}, ("interrupted", None, None)),
        (None, {"outcome": "error"}, ("error", None, None)),
        (None, {"error_type": "RateLimit"}, ("error", "RateLimit", None)),
        (None, {"error_message": "too many"}, ("error", None, "too many")),
        (None, {"error_type": "RateLimit", "outcome": "ok"}, ("ok", "RateLimit", None)),
        (FAILED, {}, ("error", "ValueError", "bad")),
        (FAILED, {"error_type": "RateLimit"}, ("error", "RateLimit", "bad")),
        (FAILED, {"error_type": None, "error_message": None, "outcome": None}, ("error", "ValueError", "bad")),
        (FAILED, {"outcome": "ok"}, ("ok", None, None)),
        (FAILED, {"outcome": "cancelled"}, ("cancelled", None, None)),
        (CANCELLED, {}, ("cancelled", None, None)),
        (CANCELLED, {"outcome": "ok"}, ("ok", None, None)),
        (CANCELLED, {"outcome": "error"}, ("error", None, None)),
    ],
)
def test_a_recorded_outcome_beats_the_exceptions(
    kind: str, error: BaseException | None, recorded: dict[str, Any], expected: tuple[str, str | None, str | None]
) -> None:
    end = end_of(kind, error, **recorded)
    assert (end.outcome, end.error_type, end.error_message) == expected
    assert getattr(end, "success", end.outcome == "ok") is (end.outcome == "ok")


@pytest.mark.parametrize("kind", ["llm", "tool"])
@pytest.mark.parametrize(
    ("error", "recorded", "expected"),
    [
        (None, {"success": False}, (False, "error")),
        (None, {"success": True}, (True, "ok")),
        (None, {"success": 0}, (False, "error")),
        (None, {"success": True, "error_type": "Warned"}, (True, "ok")),
        (None, {"success": True, "outcome": "error"}, (False, "error")),
        (None, {"success": False, "outcome": "cancelled"}, (False, "cancelled")),
        (FAILED, {"success": True}, (False, "error")),
        (FAILED, {"success": False}, (False, "error")),
        (CANCELLED, {"success": True}, (False, "cancelled")),
    ],
)
def test_success_and_outcome_never_contradict_each_other(
    kind: str, error: BaseException | None, recorded: dict[str, Any], expected: tuple[bool, str]
) -> None:
    end = end_of(kind, error, **recorded)
    assert (end.success, end.outcome) == expected


# -- nothing raises ----------------------------------------------------------------------------------------------------

NONSENSE: list[Any] = [
    None,
    0,
    -1,
    10**400,
    float("nan"),
    b"\xff",
    "",
    "\ud800",
    "x" * 100_000,
    [],
    {"a": {1, 2}},
    object(),
    Broken(),
    Broken,
    lambda: 3,
    SimpleNamespace(__str__=3),
    (n for n in "x"),
]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_nothing_raises_whatever_is_passed(seen: Captured, value: Any) -> None:
    with (
        agentbus.agent(
            value,
            provider=value,
            model=value,
            invocation_id=value,
            conversation_id=value,
            channel=value,
            instructions=value,
            input=value,
            more=value,
        ) as run,
        run.llm(
            value,
            provider=value,
            call_id=value,
            operation=value,
            stream=value,
            messages=value,
            messages_count=value,
            parameters=value,
            run=value,
            self=value,
        ) as call,
        run.tool(value, tool_call_id=value, arguments=value, run=value, self=value) as tool,
        agentbus.agent(value),
        agentbus.llm(value),
        agentbus.tool(value, name_=value),
    ):
        agentbus.inject({})
        for block in (run, call, tool):
            names = block.recordable
            block.record(**dict.fromkeys(names, value))
            block.record(anything=value, attributes=value)
    assert seen.bus.flush()


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("kind", ENDS)
def test_nonsense_that_is_recorded_never_costs_the_end(kind: str, value: Any) -> None:
    for error in (None, ValueError("bad")):
        end = end_of(kind, error, **dict.fromkeys(make(kind).recordable, value), anything=value)
        assert isinstance(end, ENDS[kind])


def test_an_end_with_something_that_is_no_exception_is_an_end(seen: Captured) -> None:
    for nonsense in ("text", 5, ValueError, object()):
        agentbus.tool("t").start().end(nonsense)  # type: ignore[arg-type]
    assert len(ends(seen.events)) == 4


@pytest.mark.parametrize("kind", ENDS)
def test_ids_and_names_of_other_types_become_text(seen: Captured, kind: str) -> None:
    with agentbus.agent(5, invocation_id=6, conversation_id=7, channel=8) as run:  # type: ignore[arg-type]
        pass
    assert (run.id, run.invocation.root_id, run.name) == ("6", "6", "5")
    assert (run.invocation.conversation_id, run.invocation.channel) == ("7", "8")
    with agentbus.tool(None, tool_call_id=0) as tool, agentbus.llm(call_id=0) as call:  # type: ignore[arg-type]
        assert (tool.name, tool.id, call.id) == ("None", "0", "0")
    assert seen.spans[-1].name == "invoke_agent 5" or len(seen.spans) == 3


def test_a_name_without_a_text_is_named_by_its_type(seen: Captured) -> None:
    with agentbus.agent(Broken()) as run, run.tool(Broken(), tool_call_id=Broken()) as tool:  # type: ignore[arg-type]
        assert (run.name, tool.name, tool.id) == ("Broken", "Broken", "Broken")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(ENDS)), st.dictionaries(st.text(min_size=1), json_like, max_size=5), json_like)
def test_whatever_is_recorded_there_is_one_start_and_one_end(kind: str, recorded: dict[str, Any], name: Any) -> None:
    with capture(validate_events=False) as seen:
        with make(kind, name) as block:
            block.record(**recorded)
        assert seen.bus.flush()
    assert [type(event).kind.rpartition(".")[2] in ("start", "request") for event in seen.events] == [True, False]


def test_a_broken_emission_is_told_to_the_log_and_nobody_else(
    seen: Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("telemetry is broken")

    for method in ("open", "close", "decide"):
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING), restored():
            patch.setattr(type(seen.bus.tracing), method, fail)
            with agentbus.agent("a") as run, run.llm("m"), run.tool("t"):
                assert current() is run.invocation
        assert current() is None
        assert "could not be told" in caplog.text
        caplog.clear()


# -- names that clash --------------------------------------------------------------------------------------------------


def test_attributes_may_have_any_name(seen: Captured) -> None:
    with (
        agentbus.agent("a", self=1, run=2, given=3, content=4, attributes=5),
        agentbus.llm("m", self=1, run=2, block=3, attributes=4, messages_total=5),
        agentbus.tool("t", self=1, run=2, block=3, attributes=4),
    ):
        pass
    assert seen.events[1].attributes == {"self": 1, "run": 2, "block": 3, "attributes": 4, "messages_total": 5}
    assert seen.events[2].attributes == {"self": 1, "run": 2, "block": 3, "attributes": 4}


def test_a_decorator_keeps_its_attributes_apart_from_call_to_call(seen: Captured) -> None:
    @agentbus.tool("t", kept="always")
    def work() -> None:
        pass

    work()
    work()
    assert [event.attributes for event in seen.events] == [{"kept": "always"}, {}, {"kept": "always"}, {}]


def test_a_block_lets_go_of_its_content_when_it_ends() -> None:
    """Contexts that were copied inside a block may live as long as the process."""
    messages, answer = ["a" * 1000], ["b" * 1000]
    before = sys.getrefcount(messages), sys.getrefcount(answer)
    blocks: list[Any] = []
    record: Callable[..., Any]
    for make_one, record in (
        (lambda: agentbus.llm(messages=messages), lambda block: block.record(messages=answer)),
        (lambda: agentbus.tool("t", arguments=messages), lambda block: block.record(result=answer)),
        (lambda: agentbus.agent("a", input=messages, instructions=messages), lambda block: block.record(output=answer)),
    ):
        with capture(), make_one() as block:
            record(block)
            blocks.append(block)
    del block

    def is_let_go() -> bool:
        gc.collect()  # the bus that has closed goes in a circle, when its background has ended
        return (sys.getrefcount(messages), sys.getrefcount(answer)) == before

    assert wait_until(is_let_go, 10)
    assert len(blocks) == 3
