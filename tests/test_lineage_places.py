"""Places in the tree of runs that are entered by hand: a run's own, and a tool call that is no block here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current
from otel_agentbus.events import AgentStart, ToolCall, ToolCallStart
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, parents


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


def sub_agent(name: str) -> None:
    with agentbus.agent(name):
        pass


def told_call(bus: Any, tool: str, id: str, body: Callable[[], Any]) -> None:
    """How a framework's adapter tells of a tool call: by events of its own."""
    run = current()
    assert run is not None
    bus.emit(ToolCallStart(tool=tool, tool_call_id=id, invocation_id=run.id))
    with run.within(id) as inside:
        assert inside is run
        body()
    bus.emit(ToolCall(tool=tool, tool_call_id=id, invocation_id=run.id, duration=0.0, success=True))


@pytest.mark.parametrize("id", ["c1", "llm:c1", "tool:c1", "ä b/;"])
def test_agents_hang_under_a_call_that_a_framework_tells_of_and_the_outer_call_counts_again(
    seen: Captured, id: str
) -> None:
    def outer() -> None:
        sub_agent("first")
        with agentbus.agent("child"):
            told_call(seen.bus, "inner", f"{id} inner", lambda: sub_agent("grandchild"))
            sub_agent("beside the inner call")
        sub_agent("last")

    with agentbus.agent("parent"):
        told_call(seen.bus, "outer", id, outer)
        sub_agent("after")
    found = parents(seen)
    assert (found["child"], found["grandchild"]) == ("outer", "inner")
    assert (found["first"], found["last"]) == ("outer", "outer")
    assert (found["beside the inner call"], found["after"]) == ("child", "parent")
    tree = {span.name: span.parent.span_id for span in seen.spans if span.parent}
    ids = {span.name: span.context.span_id for span in seen.spans if span.context}
    assert tree["invoke_agent grandchild"] == ids["execute_tool inner"]
    assert tree["invoke_agent last"] == ids["execute_tool outer"]


def test_calls_of_the_run_that_are_made_within_such_a_call_are_below_it(seen: Captured) -> None:
    with agentbus.agent("parent") as run:

        def body() -> None:
            with run.llm("the run's own"), agentbus.tool("below that"):
                pass

        told_call(seen.bus, "outer", "c", body)
    assert parents(seen) == {"parent": None, "outer": "parent", "the run's own": "outer", "below that": "the run's own"}


async def test_a_place_is_entered_by_with_and_async_with_as_often_as_one_likes(seen: Captured) -> None:
    run = Invocation.root("r", agent="planner")
    here = run.use()
    with here as outer:
        async with here as inner, run.within("c"):
            assert (outer, inner, current()) == (run, run, run)
            sub_agent("within")
        assert current() is run
        with pytest.raises(ValueError, match="no"), here:
            raise ValueError("no")
        assert current() is run
        sub_agent("inside")
    assert current() is None
    calls = {event.agent: event.parent_call_id for event in seen.events if isinstance(event, AgentStart)}
    assert calls == {"within": "c", "inside": None}


def test_a_scope_that_is_left_out_of_order_leaves_exactly_itself() -> None:
    one, two = Invocation.root("1").use(), Invocation.root("2").use()
    one.__enter__()
    two.__enter__()
    one.__exit__()
    assert getattr(current(), "id", None) == "2"
    two.__exit__()
    assert current() is None
