"""A run carried to another process: what arrives, whose child it is, and under which policy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import TraceState

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current, extract, inject, resume
from otel_agentbus.events import AgentStart, LlmRequest
from otel_agentbus.telemetry.ids import Ids
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, parents
from .receivers import in_a_process_of_its_own

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FOREIGN = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    before = context.get_current()
    yield
    assert current() is None
    assert context.get_current() is before


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


# -- another process ---------------------------------------------------------------------------------------------------

CHILD = """
import json, os
import otel_agentbus as agentbus
from otel_agentbus.testing import capture

carrier, options = json.loads(os.environ["CARRIER"]), json.loads(os.environ["OPTIONS"])
with capture() as seen:
    with agentbus.resume(carrier, **options):
        with agentbus.agent("worker") as run:
            with run.llm("m"):
                pass
        with agentbus.llm("beside"):
            pass
        onward = agentbus.inject({})
    with agentbus.agent("afterwards"):
        pass
    spans = {
        span.name: {
            "trace": f"{span.context.trace_id:032x}",
            "id": f"{span.context.span_id:016x}",
            "parent": None if span.parent is None else f"{span.parent.span_id:016x}",
            "remote": span.parent is not None and span.parent.is_remote,
            "links": [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links],
            "flags": int(span.context.trace_flags),
            "state": span.context.trace_state.to_header(),
        }
        for span in seen.spans
    }
starts = {event.agent: event for event in seen.events if event.kind == "agent.start"}
worker = starts["worker"]
print(json.dumps({
    "spans": spans,
    "onward": onward,
    "lineage": [worker.invocation_id, worker.parent_invocation_id, worker.root_invocation_id, worker.parent_call_id],
    "path": worker.attributes["agentbus.invocation.path"],
    "conversation": worker.conversation_id,
    "outside": starts["afterwards"].parent_invocation_id,
}))
"""


def in_another_process(carrier: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """What an agent in another process told after resuming this carrier."""
    found: dict[str, Any] = in_a_process_of_its_own(
        CHILD, CARRIER=json.dumps(dict(carrier)), OPTIONS=json.dumps(options)
    )
    return found


def test_a_run_continues_in_another_process_under_the_call_that_sent_it(seen: Captured) -> None:
    with (
        agentbus.agent("planner", invocation_id="r", conversation_id="talk"),
        agentbus.tool("delegate", tool_call_id="c1"),
    ):
        carrier = inject()
    found = in_another_process(carrier)
    worker_id, *lineage = found["lineage"]
    assert lineage == ["r", "r", "c1"]
    assert (found["path"], found["conversation"], found["outside"]) == ("planner/worker", "talk", None)
    tool, worker = seen.span("execute_tool delegate"), found["spans"]["invoke_agent worker"]
    assert (worker["trace"], worker["parent"], worker["remote"]) == (trace_of(tool), id_of(tool), True)
    assert found["spans"]["chat m"]["parent"] == worker["id"]
    assert found["spans"]["chat beside"]["parent"] == id_of(tool)
    ids = Ids()
    assert int(worker["trace"], 16) == ids.trace_id("r")
    assert int(worker["parent"], 16) == ids.span_id("r", "tool", "r", "c1")
    assert int(worker["id"], 16) == ids.span_id("r", "agent", worker_id)
    assert found["spans"]["invoke_agent afterwards"]["trace"] != worker["trace"]


def test_what_another_process_sends_on_comes_back_to_the_same_tree(seen: Captured) -> None:
    with agentbus.agent("planner", invocation_id="r"):
        found = in_another_process(inject())
        with resume(found["onward"]) as resumed, agentbus.agent("third"):
            assert resumed is not None
            assert (resumed.id, resumed.root_id, resumed.remote) == ("r", "r", True)
    third = seen.span("invoke_agent third")
    assert (trace_of(third), parent_of(third)) == (trace_of(seen.spans[-1]), id_of(seen.span("invoke_agent planner")))


def test_by_link_it_is_a_tree_of_its_own_that_points_back(seen: Captured) -> None:
    with agentbus.agent("planner", invocation_id="r") as run, run.tool("delegate"):
        carrier = inject()
    sent_by = seen.span("execute_tool delegate")
    for options in ({"policy": "link"}, {"trusted": False}, {"policy": "link", "trusted": False}):
        found = in_another_process(carrier, **options)
        worker_id, *lineage = found["lineage"]
        worker = found["spans"]["invoke_agent worker"]
        assert lineage == [None, worker_id, None]
        assert (found["path"], found["conversation"]) == ("worker", None)
        assert worker["trace"] != trace_of(sent_by)
        assert (worker["parent"], worker["links"]) == (None, [f"{trace_of(sent_by)}-{id_of(sent_by)}"])
        assert found["spans"]["chat m"]["links"] == []


@pytest.mark.parametrize(("sampler", "flags"), [(ALWAYS_ON, 1), (ALWAYS_OFF, 0)])
def test_the_decision_of_the_sender_is_obeyed(sampler: Sampler, flags: int) -> None:
    with capture(sampler=sampler) as seen:
        with agentbus.agent("planner"):
            carrier = inject()
        assert int(carrier["traceparent"][-2:], 16) & 1 == flags
    found = in_another_process(carrier)
    ours = {name: span for name, span in found["spans"].items() if name != "invoke_agent afterwards"}
    assert sorted(ours) == (["chat beside", "chat m", "invoke_agent worker"] if flags else [])
    assert len(seen.spans) == flags


# -- what is in a carrier ----------------------------------------------------------------------------------------------


def test_a_carrier_holds_the_trace_context_and_one_entry(seen: Captured) -> None:
    given: dict[str, str] = {"other": "kept"}
    with (
        agentbus.agent("a/b;c", invocation_id="r 1", conversation_id="ü"),
        agentbus.agent("inner", invocation_id="i"),
        agentbus.tool("t", tool_call_id="llm:1") as tool,
    ):
        assert inject(given) is given
        span = tool.span.get_span_context()
    assert given == {
        "other": "kept",
        "traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}",
        "agentbus": "1;i;r%201;tool%3Allm%3A1;1;%C3%BC;inner;a%2Fb%3Bc/inner",
    }
    carried = extract(given)
    assert carried.call == "tool:llm:1"
    assert carried.invocation == Invocation(
        "i", None, "r 1", "inner", ("a/b;c", "inner"), conversation_id="ü", remote=True
    )


def test_without_a_run_only_the_trace_context_is_written(seen: Captured) -> None:
    assert inject() == {}
    with agentbus.tool("alone"):
        assert list(inject()) == ["traceparent"]
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("web")
    with tracer.start_as_current_span("request"):
        assert list(inject()) == ["traceparent"]


def test_without_a_bus_only_the_run_is_written() -> None:
    with agentbus.agent("a", invocation_id="r") as run, run.tool("t", tool_call_id="c"):
        assert inject() == {"agentbus": "1;r;r;c;1;;a;a"}
        with resume(inject()) as resumed:
            assert resumed is not None
            assert current() is resumed
            assert (resumed.id, resumed.agent) == ("r", "a")


def test_the_run_of_a_task_that_outlives_it_is_written_too(seen: Captured) -> None:
    run = agentbus.agent("a", invocation_id="r").start()
    bound = agentbus.carry(inject)
    run.end()
    assert bound({})["agentbus"] == "1;r;r;;1;;a;a"
    assert "agentbus" not in inject()


def test_a_long_path_gives_way_and_an_endless_id_is_left_out(seen: Captured) -> None:
    with agentbus.agent("a" * 400), agentbus.agent("b" * 400), agentbus.agent("c" * 100, invocation_id="i"):
        entry = inject()["agentbus"]
    assert len(entry) <= 1024
    assert entry.endswith(";" + "c" * 100 + ";")
    assert extract({"agentbus": entry}).invocation == Invocation(
        "i", None, seen.events[0].invocation_id or "", "c" * 100, remote=True
    )
    with agentbus.agent("a", invocation_id="i" * 1100):
        assert "agentbus" not in inject()


def test_attempts_are_carried() -> None:
    again = Invocation.root("r", agent="a").attempted(3)
    carrier = again.run(lambda: inject())
    found = extract(carrier).invocation
    assert found is not None
    assert found.attempt == 3


class Unwritable(dict[str, str]):
    def __setitem__(self, key: str, value: str) -> None:
        raise TypeError("read only")


@pytest.mark.parametrize("carrier", [Unwritable(), (), 5, object()], ids=lambda carrier: type(carrier).__name__)
def test_a_carrier_that_takes_nothing_is_given_back(
    seen: Captured, carrier: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with agentbus.agent("a"):
        assert inject(carrier) is carrier
    assert "Nothing could be written into a carrier" in caplog.text


# -- a foreign service -------------------------------------------------------------------------------------------------


def test_under_a_foreign_services_span_a_root_is_its_child(seen: Captured) -> None:
    with resume(FOREIGN) as resumed:
        assert resumed is None
        assert current() is None
        with agentbus.agent("a") as run, run.llm("m"):
            assert run.invocation.is_root
        with agentbus.llm("alone"):
            pass
    for name, parent in (
        ("invoke_agent a", SPAN),
        ("chat alone", SPAN),
        ("chat m", id_of(seen.span("invoke_agent a"))),
    ):
        span = seen.span(name)
        assert (trace_of(span), parent_of(span)) == (TRACE, parent)
    assert seen.span("invoke_agent a").parent.is_remote  # type: ignore[union-attr]
    assert parents(seen) == {"a": None, "m": "a", "alone": None}


def test_a_foreign_services_decision_and_tracestate_are_obeyed() -> None:
    state = "vendor=1,other=x:y"
    with capture(sampler=ParentBased(ALWAYS_OFF)) as seen:
        with resume({**FOREIGN, "tracestate": state}), agentbus.agent("kept"):
            assert inject()["tracestate"] == state
        with resume({"traceparent": f"00-{TRACE}-{SPAN}-00"}), agentbus.agent("dropped"), agentbus.llm("dropped m"):
            assert inject()["traceparent"].endswith("-00")
    assert [span.name for span in seen.spans] == ["invoke_agent kept"]
    assert seen.spans[0].context.trace_state == TraceState([("vendor", "1"), ("other", "x:y")])


def test_a_link_to_a_foreign_service(seen: Captured) -> None:
    with resume(FOREIGN, policy="link"), agentbus.agent("a") as run, run.tool("t"):
        pass
    with resume(FOREIGN, trusted=False), agentbus.agent("b"):
        pass
    for name in ("invoke_agent a", "invoke_agent b"):
        span = seen.span(name)
        assert span.parent is None
        assert trace_of(span) != TRACE
        assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links] == [
            f"{TRACE}-{SPAN}"
        ]
    assert seen.span("execute_tool t").links == ()


def test_by_link_under_a_local_span_it_is_that_ones_child(seen: Captured) -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("web")
    with tracer.start_as_current_span("job") as job, resume(FOREIGN, policy="link"), agentbus.agent("a"):
        pass
    span = seen.span("invoke_agent a")
    assert parent_of(span) == f"{job.get_span_context().span_id:016x}"
    assert len(span.links) == 1


def test_untrusted_means_that_nothing_of_it_is_taken_over() -> None:
    with capture(sampler=TraceIdRatioBased(0.0)) as seen, resume(FOREIGN, trusted=False), agentbus.agent("a"):
        assert agentbus.current().trace != FOREIGN["traceparent"]  # type: ignore[union-attr]
    assert seen.spans == ()


# -- in this process ---------------------------------------------------------------------------------------------------


def test_inside_a_local_run_a_carrier_counts_and_afterwards_the_run_again(seen: Captured) -> None:
    carrier = {"agentbus": "1;k;r;c;2;talk;far;top/far", **FOREIGN}
    with agentbus.agent("local") as local:
        before = trace.get_current_span()
        with resume(carrier) as resumed, agentbus.agent("below") as below:
            assert resumed is not None
            assert (resumed.id, resumed.root_id, resumed.attempt, resumed.conversation_id) == ("k", "r", 2, "talk")
            assert below.invocation.path == ("top", "far", "below")
            assert (below.invocation.parent_id, below.invocation.parent_call_id) == ("k", "c")
        assert current() is local.invocation
        assert trace.get_current_span() is before
    span = seen.span("invoke_agent below")
    assert (trace_of(span), parent_of(span)) == (TRACE, f"{Ids().span_id('r', 'tool', 'k', 'c', 2):016x}")


@pytest.mark.parametrize("carrier", [None, {}, {"other": "1"}])
def test_without_anything_in_it_agents_are_fresh_roots(seen: Captured, carrier: Any) -> None:
    with agentbus.agent("local"), resume(carrier) as resumed:
        assert resumed is None
        with agentbus.agent("fresh") as run:
            assert run.invocation.is_root
        seen.bus.publish("in between")
        with agentbus.llm("m"):
            pass
    assert parents(seen) == {"local": None, "fresh": None, "m": None}
    assert seen.span("invoke_agent fresh").parent is None
    assert [event.root_invocation_id for event in seen.events if event.kind == "domain"] == [None]


def test_a_resumed_run_is_left_when_its_body_fails(seen: Captured) -> None:
    with pytest.raises(ValueError, match="body"), resume({"agentbus": "1;k;r;;1;;a;a"}):
        raise ValueError("body")
    assert current() is None


def test_what_was_extracted_can_be_resumed_later(seen: Captured) -> None:
    carried = extract({"agentbus": "1;k;r;;1;;a;a", **FOREIGN})
    with resume(carried) as resumed:
        assert resumed is not None
        assert resumed.id == "k"


def test_another_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="policy is 'both'; it is 'parent'"), resume({}, policy="both"):  # type: ignore[arg-type]
        pass


def test_events_of_a_resumed_run_say_where_they_belong(seen: Captured) -> None:
    with resume({"agentbus": "1;k;r;llm%3Ax;1;;far;far", **FOREIGN}), agentbus.llm("m"), agentbus.agent("a"):
        pass
    request, start = seen.events[0], seen.events[1]
    assert isinstance(request, LlmRequest)
    assert isinstance(start, AgentStart)
    assert (request.invocation_id, request.root_invocation_id, request.parent_call_id) == ("k", "r", "llm:x")
    assert (start.parent_invocation_id, start.root_invocation_id) == ("k", "r")
    assert start.parent_call_id == f"llm:{request.call_id}"
