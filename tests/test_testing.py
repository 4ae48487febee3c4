"""The published helpers for users' own tests: capture, the fake clock, the drawn tree, strict mode."""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased

import otel_agentbus as agentbus
from otel_agentbus import current, testing
from otel_agentbus.blocks import clock, installed
from otel_agentbus.events import CacheHit, DomainEvent, Event, ToolCall
from otel_agentbus.settings import Settings
from otel_agentbus.testing import FakeClock, capture, wait_until


def run_my_agent() -> None:
    with agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:
        with run.llm() as call:
            call.record(input_tokens=120, output_tokens=40)
        with run.tool("search"):
            pass


# -- capture -----------------------------------------------------------------------------------------------------------


def test_the_example_of_the_docstring_holds() -> None:
    assert "run_my_agent()" in (testing.__doc__ or "")
    with capture() as seen:
        run_my_agent()
    seen.assert_tree("""
        invoke_agent planner
        ├─ chat gpt-5-mini
        └─ execute_tool search
    """)


def test_events_spans_and_metrics_are_captured() -> None:
    with capture() as seen:
        run_my_agent()
        kinds = [event.kind for event in seen.events]
        assert kinds == ["agent.start", "llm.request", "llm.response", "tool.start", "tool.end", "agent.end"]
        assert [span.name for span in seen.spans] == [
            "chat gpt-5-mini",
            "execute_tool search",
            "invoke_agent planner",
        ]
        assert seen.span("execute_tool search").resource.attributes["service.name"] == "test"
        assert sum(seen.metric("agentbus.tokens.used").values()) == 160
        ((_, (count, _)),) = seen.metric("gen_ai.execute_tool.duration").items()
        assert count == 1
        assert seen.metric("no.such.metric") == {}


def test_a_span_is_asked_for_by_a_name_that_only_one_has() -> None:
    with capture() as seen:
        for _ in range(2):
            run_my_agent()
        with pytest.raises(AssertionError, match="2 spans are named 'execute_tool search'; there are"):
            seen.span("execute_tool search")
        with pytest.raises(AssertionError, match="0 spans are named 'nothing'"):
            seen.span("nothing")


def test_captures_nest_and_the_outer_one_goes_on() -> None:
    before = installed()
    with capture() as outer:
        with agentbus.tool("first"):
            pass
        with capture() as inner:
            assert installed() is inner.bus
            with agentbus.tool("second"):
                pass
        assert installed() is outer.bus
        with agentbus.tool("third"):
            pass
    assert installed() is before
    assert [event.tool for event in outer.events if isinstance(event, ToolCall)] == ["first", "third"]
    assert [event.tool for event in inner.events if isinstance(event, ToolCall)] == ["second"]
    assert [span.name for span in inner.spans] == ["execute_tool second"]


def test_a_capture_is_undone_when_its_body_fails() -> None:
    before = installed(), clock.time_ns, clock.perf_counter_ns
    with pytest.raises(KeyboardInterrupt), capture(fake_clock=FakeClock()):
        raise KeyboardInterrupt
    assert (installed(), clock.time_ns, clock.perf_counter_ns) == before
    assert (clock.time_ns, clock.perf_counter_ns) == (time.time_ns, time.perf_counter_ns)


def test_the_applications_own_bus_is_back_afterwards_and_closed_at_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[Callable[[], object]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(atexit, "unregister", at_exit.remove)
    settings = Settings(traces_exporter="none", metrics_exporter="none")
    with agentbus.connect(settings=settings) as bus:
        with capture() as seen:
            assert agentbus.connect() is seen.bus
            seen.bus.close()
            run_my_agent()
        assert installed() is bus
        assert agentbus.connect() is bus
        bus.close()
        assert len(at_exit) == 1
        at_exit[0]()
        assert installed() is None
    assert at_exit == []
    assert len(seen.events) == 6


def test_nothing_global_changes() -> None:
    before = trace.get_tracer_provider(), metrics.get_meter_provider()
    with capture():
        run_my_agent()
    assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before


def test_what_the_environment_says_of_exporters_and_samplers_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with capture() as seen:
        run_my_agent()
    assert len(seen.spans) == 3


def test_a_sampler_and_settings_can_be_chosen() -> None:
    for sampler in (ALWAYS_OFF, TraceIdRatioBased(0.0)):
        with capture(sampler=sampler) as seen:
            run_my_agent()
        assert (seen.spans, len(seen.events)) == ((), 6)
    with capture(capture_content="SPAN_ONLY") as seen, agentbus.tool("t", arguments="an argument"):
        pass
    assert "an argument" in str(dict(seen.spans[0].attributes or {}))
    with capture() as seen, agentbus.tool("t", arguments="an argument"):
        pass
    assert "an argument" not in str(dict(seen.spans[0].attributes or {}))


def test_content_passes_the_given_redaction() -> None:
    asked: list[tuple[str, Any]] = []

    def redact(name: str, value: Any) -> Any:
        asked.append((name, value))
        return "redacted"

    with capture(capture_content="SPAN_ONLY", redact=redact) as seen, agentbus.tool("t", arguments="mine"):
        pass
    assert ("arguments", "mine") in asked
    assert "mine" not in str(dict(seen.spans[0].attributes or {}))


async def test_what_is_emitted_in_tasks_and_threads_is_captured() -> None:
    with capture() as seen:
        await asyncio.gather(asyncio.to_thread(run_my_agent), asyncio.to_thread(run_my_agent))
    assert len(seen.events) == 12
    assert len(seen.spans) == 6


def test_what_is_left_open_is_judged_at_the_end() -> None:
    with capture() as seen:
        block = agentbus.agent("open").start()
    assert [(span.name, (span.attributes or {})["agentbus.outcome"]) for span in seen.spans] == [
        ("invoke_agent open", "interrupted")
    ]
    block.end()
    assert current() is None


# -- strict ------------------------------------------------------------------------------------------------------------


def test_strict_raises_for_a_handler_that_failed() -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("handler")

    with pytest.raises(AssertionError, match=r"1 handlers failed .*RuntimeError.*, 0 invalid"), capture() as seen:
        seen.bus.subscribe(fail, DomainEvent)
        seen.bus.publish("x")
    with capture(strict=False) as seen:
        seen.bus.subscribe(fail, DomainEvent)
        seen.bus.publish("x")
    ((_, event, error),) = seen.failures
    assert (event, str(error)) == (seen.events[0], "handler")


def test_strict_raises_for_an_invalid_event() -> None:
    invalid = CacheHit(cache_type="semantic", tokens_saved="many")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=r"0 handlers failed .*, 1 invalid events"), capture() as seen:
        seen.bus.emit(invalid)
    with capture(strict=False) as seen:
        seen.bus.emit(invalid)
    assert seen.events == []
    with capture(validate_events=False) as seen:
        seen.bus.emit(invalid)
    assert seen.events == [invalid]


def test_strict_never_hides_the_tests_own_failure() -> None:
    with pytest.raises(ValueError, match="the test's own"), capture() as seen:
        seen.bus.emit(CacheHit(cache_type="x", tokens_saved="many"))  # type: ignore[arg-type]
        raise ValueError("the test's own")


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_the_fake_clock_stands_still_until_it_is_told() -> None:
    turned = FakeClock(100)
    assert [turned(), turned(), turned.now_ns] == [100, 100, 100]
    turned.advance(1.5)
    turned.advance(0.000_000_001)
    assert turned() == 100 + 1_500_000_001


def test_blocks_and_events_take_their_times_from_the_fake_clock() -> None:
    turned = FakeClock(1_000)
    with capture(fake_clock=turned) as seen, agentbus.agent("a"):
        turned.advance(2)
        seen.bus.publish("half way")
        with agentbus.tool("t"):
            turned.advance(0.1)
    assert [event.time_ns for event in seen.events] == [
        1_000,
        2_000_001_000,
        2_000_001_000,
        2_100_001_000,
        2_100_001_000,
    ]
    durations = {event.kind: getattr(event, "duration", None) for event in seen.events}
    assert (durations["tool.end"], durations["agent.end"]) == (0.1, 2.1)
    spans = {span.name: (span.start_time, span.end_time) for span in seen.spans}
    assert spans["execute_tool t"] == (2_000_001_000, 2_100_001_000)
    assert spans["invoke_agent a"] == (1_000, 2_100_001_000)


def test_nested_captures_have_clocks_of_their_own() -> None:
    outer, inner = FakeClock(1), FakeClock(2)
    with capture(fake_clock=outer):
        with capture(fake_clock=inner):
            assert clock.time_ns() == 2
        assert clock.time_ns() == 1
        with capture():
            assert clock.time_ns() == 1
    assert clock.time_ns is time.time_ns


def test_two_captures_of_one_program_are_equal_but_for_their_sources() -> None:
    def told() -> list[Event]:
        with (
            capture(fake_clock=FakeClock()) as seen,
            agentbus.agent("a", invocation_id="r") as run,
            run.tool("t", tool_call_id="c"),
        ):
            pass
        for event in seen.events:
            event.source = None
        return seen.events

    assert told() == told()


# -- the tree ----------------------------------------------------------------------------------------------------------


def test_a_tree_is_drawn_with_all_its_branches() -> None:
    with capture() as seen:
        with agentbus.agent("a") as run:
            with run.tool("t1"), agentbus.agent("b") as inner:
                with inner.llm("m1"):
                    pass
                with inner.llm("m2"):
                    pass
            with run.tool("t2"):
                pass
        with agentbus.tool("alone"):
            pass
    assert seen.tree().splitlines() == [
        "invoke_agent a",
        "├─ execute_tool t1",
        "│  └─ invoke_agent b",
        "│     ├─ chat m1",
        "│     └─ chat m2",
        "└─ execute_tool t2",
        "execute_tool alone",
    ]


def test_children_that_began_at_the_same_time_stand_in_the_order_of_their_names() -> None:
    with capture(fake_clock=FakeClock()) as seen, agentbus.agent("a"):
        for name in "cab":
            with agentbus.tool(name):
                pass
    assert seen.tree().splitlines()[1:] == ["├─ execute_tool a", "├─ execute_tool b", "└─ execute_tool c"]


def test_a_tree_that_differs_is_shown_beside_the_expected_one() -> None:
    with capture() as seen:
        run_my_agent()
    with pytest.raises(AssertionError) as failed:
        seen.assert_tree("""
            invoke_agent planner
            └─ execute_tool search
        """)
    assert str(failed.value).splitlines() == [
        "The trees differ. Expected:",
        "invoke_agent planner",
        "└─ execute_tool search",
        "Got:",
        "invoke_agent planner",
        "├─ chat gpt-5-mini",
        "└─ execute_tool search",
    ]


def test_nothing_is_an_empty_tree() -> None:
    with capture() as seen:
        pass
    assert seen.tree() == ""
    seen.assert_tree("")


def test_a_span_whose_parent_was_not_captured_is_drawn_as_a_root() -> None:
    carrier = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with capture() as seen, agentbus.resume(carrier):
        run_my_agent()
    assert seen.tree().startswith("invoke_agent planner\n├─ chat")


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_waiting_ends_when_it_is_so_and_when_it_takes_too_long() -> None:
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers)) is True
    assert wait_until(lambda: False, timeout=0.01) is False
