"""One job of a queue: whose child it is, which attempt it is, and that nothing of it stays behind in the worker."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, get_current
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import get_current_span, set_span_in_context

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current, jobs
from otel_agentbus.blocks import install, installed
from otel_agentbus.events import AgentStart
from otel_agentbus.testing import Captured, capture


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def enqueued(name: str = "planner") -> dict[str, str]:
    """What a job carries that was sent by a tool of this agent."""
    with agentbus.agent(name, invocation_id=name), agentbus.tool("delegate", tool_call_id=f"{name}-1"):
        return dict(jobs.headers())


def ids(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def above(span: ReadableSpan) -> tuple[str, bool] | None:
    """The parent's id, and whether it is in another process."""
    return None if span.parent is None else (f"{span.parent.span_id:016x}", span.parent.is_remote)


def linked(span: ReadableSpan) -> list[tuple[str, str]]:
    return [(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links]


def starts(seen: Captured) -> dict[str | None, AgentStart]:
    return {event.agent: event for event in seen.events if isinstance(event, AgentStart)}


# -- whose child it is -------------------------------------------------------------------------------------------------


def test_the_first_attempt_goes_on_under_the_call_that_has_sent_it(seen: Captured) -> None:
    carrier = enqueued()
    with jobs.job(carrier) as sender:
        assert sender is not None
        assert sender.id == "planner"
        with agentbus.agent("worker"):
            pass
    (trace_id, tool), worker = ids(seen.span("execute_tool delegate")), seen.span("invoke_agent worker")
    assert (ids(worker)[0], above(worker), linked(worker)) == (trace_id, (tool, True), [])
    start = starts(seen)["worker"]
    assert (start.parent_invocation_id, start.root_invocation_id, start.attempt) == ("planner", "planner", 1)


@pytest.mark.parametrize("attempt", [2, 3, 4])
def test_a_retry_is_a_root_of_its_own_that_links_to_the_sender_and_has_the_jobs_attempt(
    seen: Captured, attempt: int
) -> None:
    carrier = enqueued()
    with jobs.job(carrier, attempt=attempt) as sender:
        assert sender is None
        with agentbus.agent("worker"), agentbus.agent("below"):
            pass
    tool, worker = ids(seen.span("execute_tool delegate")), seen.span("invoke_agent worker")
    assert (above(worker), linked(worker)) == (None, [tool])
    assert ids(worker)[0] != tool[0]
    told = {name: start.attempt for name, start in starts(seen).items()}
    assert told == {"planner": 1, "worker": attempt, "below": 1}
    assert above(seen.span("invoke_agent below")) == (ids(worker)[1], False)


def test_the_spans_of_two_attempts_of_one_run_have_ids_of_their_own(seen: Captured) -> None:
    for attempt in (2, 3):
        with jobs.job(None, attempt=attempt), agentbus.agent("worker", invocation_id="same"):
            pass
    assert len({ids(span)[1] for span in seen.spans}) == 2


def test_one_job_for_many_links_to_its_sender(seen: Captured) -> None:
    carrier = enqueued()
    with jobs.job(carrier, batch=True), agentbus.agent("worker"):
        pass
    worker = seen.span("invoke_agent worker")
    assert (above(worker), linked(worker)) == (None, [ids(seen.span("execute_tool delegate"))])
    assert starts(seen)["worker"].attempt == 1


def test_a_job_from_where_it_is_not_trusted_links_only(seen: Captured) -> None:
    carrier = enqueued()
    with jobs.job(carrier, trusted=False), agentbus.agent("worker"):
        pass
    worker = seen.span("invoke_agent worker")
    assert (above(worker), linked(worker)) == (None, [ids(seen.span("execute_tool delegate"))])


@pytest.mark.parametrize(
    "carrier", [None, {}, {"agentbus": "garbage", "traceparent": "garbage"}, {"agentbus": 7}, 7, [1], object()]
)
@pytest.mark.parametrize("attempt", [-1, 1, 2])
def test_a_job_with_nothing_that_can_be_read_is_a_fresh_root(seen: Captured, carrier: Any, attempt: int) -> None:
    with jobs.job(carrier, attempt=attempt) as sender, agentbus.agent("worker"):
        assert sender is None
    worker = seen.span("invoke_agent worker")
    assert (above(worker), linked(worker)) == (None, [])
    assert starts(seen)["worker"].attempt == max(attempt, 1)


@pytest.mark.parametrize(("retries", "attempt"), [(2, 3), (0, 1), (None, 1), ("2", 1), (-3, 1), (10**30, 999_999)])
def test_what_a_queue_says_of_retries_may_be_anything(seen: Captured, retries: object, attempt: int) -> None:
    with jobs.job(None, attempt=jobs.attempt_after(retries)), agentbus.agent("worker") as worker:
        carrier = jobs.headers()
    assert worker.invocation.attempt == attempt
    with jobs.job(carrier) as sender:
        assert sender is not None
        assert (sender.id, sender.attempt) == (worker.id, attempt)


def test_headers_are_strings_and_nothing_without_a_run(seen: Captured) -> None:
    assert jobs.headers() == {}
    mine = {"mine": "stays"}
    with agentbus.agent("planner"):
        assert jobs.headers(mine) is mine
    assert set(mine) == {"mine", "traceparent", "agentbus"}
    assert {type(text) for text in mine.values()} == {str}


# -- nothing stays behind ----------------------------------------------------------------------------------------------

ELSEWHERE = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))


def leak(*, derived: bool = True) -> None:
    """Leave open what a job can leave open: a pushed run, blocks, and a span of somebody's on top of them."""
    Invocation.root("leaked", agent="leaked").push()
    agentbus.agent("left open", invocation_id="left").start()
    agentbus.tool("left open too", tool_call_id="left").start()
    here = get_current() if derived else type(get_current())()
    attach(set_span_in_context(trace.NonRecordingSpan(ELSEWHERE), here))


def root_of(seen: Captured, agent: str) -> str | None:
    return starts(seen)[agent].root_invocation_id


@pytest.mark.parametrize("derived", [True, False])
@pytest.mark.parametrize("attempt", [1, 2])
def test_what_a_job_has_left_open_is_no_parent_of_the_next_one(seen: Captured, attempt: int, derived: bool) -> None:
    carriers = {name: enqueued(name) for name in ("one", "two")}
    before = get_current()
    for name, carrier in carriers.items():
        with jobs.job(carrier, attempt=attempt):
            with agentbus.agent(f"worker of {name}"):
                pass
            leak(derived=derived)
        assert current() is None
        assert get_current() is before
    with agentbus.agent("afterwards"):
        pass
    for name in carriers:
        worker, (trace_id, _) = seen.span(f"invoke_agent worker of {name}"), ids(seen.span(f"invoke_agent {name}"))
        if attempt == 1:
            assert (ids(worker)[0], root_of(seen, f"worker of {name}")) == (trace_id, name)
        else:
            assert (above(worker), [link[0] for link in linked(worker)]) == (None, [trace_id])
    assert above(seen.span("invoke_agent afterwards")) is None


@pytest.mark.parametrize("closed", [False, True])
def test_what_a_job_leaves_open_on_a_bus_that_it_has_connected_itself_is_not_current_after_it(closed: bool) -> None:
    before = get_current()
    with contextlib.ExitStack() as over:
        with jobs.job(None):
            over.enter_context(capture())
            agentbus.agent("left open").start()
            agentbus.tool("left open too").start()
            if closed:
                over.close()
        assert (current(), get_current()) == (None, before)
        assert jobs.headers() == {}


def test_a_job_that_forgets_every_run_and_pushes_another_leaves_nothing_behind(seen: Captured) -> None:
    carrier = enqueued()
    with jobs.job(None):
        Invocation.flush()
        Invocation.root("leaked", agent="leaked").push()
    assert current() is None
    with jobs.job(carrier), agentbus.agent("worker"):
        pass
    assert root_of(seen, "worker") == "planner"


def test_a_job_inside_a_run_goes_its_own_way_and_the_run_goes_on_after_it(seen: Captured) -> None:
    carrier = enqueued()
    with agentbus.agent("host") as host:
        here = get_current()
        with jobs.job(carrier), agentbus.agent("worker"):
            leak()
        assert current() == host.invocation
        assert get_current() is here
        with jobs.job(None), agentbus.agent("fresh"):
            pass
        with agentbus.agent("below"):
            pass
    assert (root_of(seen, "worker"), root_of(seen, "below")) == ("planner", host.id)
    assert starts(seen)["fresh"].parent_invocation_id is None


def test_jobs_end_in_any_order_and_each_ends_itself_only(seen: Captured) -> None:
    before = get_current()
    carriers = [enqueued(name) for name in ("one", "two", "three", "four", "five")]
    one, two, three = map(jobs.begin, carriers[:3])
    leak()
    jobs.end(one)
    jobs.end(two)
    assert current() is not None  # the third job goes on, with what it has pushed
    jobs.end(three)
    assert (current(), get_current()) == (None, before)

    one = jobs.begin(carriers[0])
    leak()
    two = jobs.begin(carriers[1])
    jobs.end(one)
    jobs.end(two)  # what the first has left open is gone, too
    assert (current(), get_current()) == (None, before)

    one, two = map(jobs.begin, carriers[3:])
    jobs.end(one)
    with agentbus.agent("worker"):
        pass
    jobs.end(two)
    jobs.end(two)
    jobs.end(one)
    assert (root_of(seen, "worker"), current(), get_current()) == ("five", None, before)


def test_a_second_end_has_no_effect(seen: Captured) -> None:
    begun = jobs.begin(enqueued("one"))
    jobs.end(begun)
    with jobs.job(enqueued("two")):
        jobs.end(begun)
        with agentbus.agent("worker"):
            pass
    jobs.end(None)
    assert root_of(seen, "worker") == "two"


def test_a_job_that_is_ended_elsewhere_leaves_what_goes_on_there(seen: Captured) -> None:
    begun: list[jobs.Begun] = []
    inside = contextvars.copy_context()
    inside.run(lambda: begun.append(jobs.begin(enqueued("one"))))
    with agentbus.agent("here") as here:
        context = get_current()
        jobs.end(begun[0])
        assert (current(), get_current() is context) == (here.invocation, True)
    thread = threading.Thread(target=lambda: begun.append(jobs.begin(enqueued("two"))))
    thread.start()
    thread.join()
    with agentbus.agent("here again") as here:
        jobs.end(begun[1])
        assert current() == here.invocation
    assert inside.run(current) is None


def test_a_job_that_was_never_ended_is_no_parent_of_the_next_one(seen: Captured) -> None:
    one, two = enqueued("one"), enqueued("two")
    forgotten = jobs.begin(one)
    leak()
    with jobs.job(two), agentbus.agent("worker"):
        pass
    with jobs.job(None), agentbus.agent("fresh"):
        pass
    jobs.end(forgotten)
    assert (root_of(seen, "worker"), starts(seen)["fresh"].parent_invocation_id) == ("two", None)


def test_how_a_job_ends_is_its_own(seen: Captured) -> None:
    with pytest.raises(ZeroDivisionError), jobs.job(enqueued()), agentbus.agent("worker"):
        leak()
        raise ZeroDivisionError
    assert current() is None
    with pytest.raises(KeyboardInterrupt), jobs.job(None):
        raise KeyboardInterrupt


# -- with somebody's spans ---------------------------------------------------------------------------------------------


def test_a_job_stands_under_the_span_that_its_worker_has_begun_for_it() -> None:
    provider = TracerProvider()
    tracer = provider.get_tracer("a queue's own instrumentation")
    with capture() as seen:
        carrier = enqueued()
        with tracer.start_as_current_span("run", context=of(carrier)) as span:
            with jobs.job(carrier):
                inner = get_current_span()
                with agentbus.agent("worker"):
                    pass
            after = get_current_span()
        with tracer.start_as_current_span("run again") as unrelated, jobs.job(None), agentbus.agent("fresh"):
            pass
    assert (inner, after) == (span, span)
    worker, fresh = seen.span("invoke_agent worker"), seen.span("invoke_agent fresh")
    assert above(worker) == (ids(seen.span("execute_tool delegate"))[1], True)
    assert above(fresh) == (f"{unrelated.get_span_context().span_id:016x}", False)


def of(carrier: dict[str, str]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(carrier)


def test_an_instrumentation_that_ends_its_span_before_the_job_ends_has_the_last_word(seen: Captured) -> None:
    before = get_current()
    tracer = TracerProvider().get_tracer("a queue's own instrumentation")
    theirs = tracer.start_as_current_span("run")
    theirs.__enter__()
    begun = jobs.begin(None)
    leak()
    theirs.__exit__(None, None, None)
    jobs.end(begun)
    assert get_current() == before


def test_an_instrumentation_that_goes_back_to_inside_of_a_job_after_its_end_has_the_next_job_start_outside(
    seen: Captured,
) -> None:
    carrier = enqueued()
    tracer = TracerProvider().get_tracer("a queue's own instrumentation")
    begun = jobs.begin(carrier)
    theirs = tracer.start_as_current_span("run")
    theirs.__enter__()
    jobs.end(begun)
    theirs.__exit__(None, None, None)
    before = get_current()
    with jobs.job(None), agentbus.agent("fresh"):
        pass
    assert above(seen.span("invoke_agent fresh")) is None
    assert not get_current()
    assert before


# -- what a message has already ----------------------------------------------------------------------------------------


def test_a_message_that_has_gone_out_before_keeps_what_it_had(seen: Captured) -> None:
    first = enqueued("one")
    again = {**first, "mine": "stays"}
    with agentbus.agent("two"):
        jobs.add_headers(again)
        run_only = {"agentbus": first["agentbus"]}  # from where telemetry is switched off
        jobs.add_headers(run_only)
    assert again == {**first, "mine": "stays"}
    assert run_only == {"agentbus": first["agentbus"]}


def test_a_message_with_a_trace_context_of_the_same_trace_keeps_it_and_gets_the_run(seen: Captured) -> None:
    with agentbus.agent("planner"):
        mine = jobs.headers()
        theirs = mine["traceparent"][:36] + "00f067aa0ba902b7-01"
        message: dict[str, Any] = {"traceparent": theirs, "retries": 0}
        jobs.add_headers(message)
        other = f"00-{'a' * 32}-00f067aa0ba902b7-01"
        foreign = {"traceparent": other}
        jobs.add_headers(foreign)
    assert message == {"traceparent": theirs, "retries": 0, "agentbus": mine["agentbus"]}
    assert foreign == {"traceparent": other}


@pytest.mark.parametrize("attempt", [1, 2])
def test_what_a_job_sends_outside_of_its_runs_is_carried_on_from_where_the_job_was_sent(
    seen: Captured, attempt: int
) -> None:
    carrier = enqueued()
    with jobs.job({**carrier, "other": "x"}, attempt=attempt):
        with agentbus.agent("worker"):
            inside: dict[str, Any] = {}
            jobs.add_headers(inside)
            own = jobs.headers()
        next_one: dict[str, Any] = {}
        jobs.add_headers(next_one)
    assert (inside, next_one) == (own, carrier)
    with jobs.job(carrier, attempt=2, trusted=False):
        untrusted: dict[str, Any] = {}
        jobs.add_headers(untrusted)
    assert untrusted == {}


def test_a_message_that_takes_nothing_is_sent_all_the_same(seen: Captured, caplog: pytest.LogCaptureFixture) -> None:
    broken: Any = 7
    with caplog.at_level(logging.WARNING, "otel_agentbus"):
        jobs.add_headers(broken)
    assert [record.getMessage() for record in caplog.records] == ["Nothing could be written into a message"]


# -- flushing ----------------------------------------------------------------------------------------------------------


class Flushes:
    """Counts the flushes of a bus, and how long each may take."""

    def __init__(self, bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timeouts: list[float] = []
        monkeypatch.setattr(bus, "flush", self)

    def __call__(self, timeout: float = 10.0) -> bool:
        self.timeouts.append(timeout)
        return True


@pytest.mark.parametrize(
    ("setting", "flush", "flushed"),
    [(False, None, 0), (False, True, 1), (True, None, 1), (True, False, 0), (True, True, 1)],
)
def test_a_jobs_end_flushes_where_that_is_asked_for(
    setting: bool, flush: bool | None, flushed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with capture(flush_on_root_end=setting, exit_timeout=1.5) as seen, monkeypatch.context() as patch:
        flushes = Flushes(seen.bus, patch)
        with jobs.job(None, flush=flush):
            assert flushes.timeouts == []
        begun = jobs.begin(None)
        jobs.end(begun, flush=flush)
        jobs.end(begun, flush=flush)
    assert flushes.timeouts == [1.5] * 2 * flushed


def carried() -> None:
    with agentbus.agent("carried"):
        pass


def test_the_end_of_the_outermost_run_flushes_in_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with capture(exit_timeout=1.5) as seen, monkeypatch.context() as patch:
        flushes = Flushes(seen.bus, patch)
        patch.setattr(seen.bus, "emit", jobs.flushing(seen.bus.router.emit, seen.bus))
        with agentbus.agent("planner"):
            with agentbus.agent("below"), agentbus.llm("m"):
                pass
            thread = threading.Thread(target=agentbus.carry(carried))
            thread.start()
            thread.join()
            assert flushes.timeouts == []
        assert flushes.timeouts == [1.5]
        with jobs.job(enqueued("sender"), flush=False), agentbus.tool("alone"):
            assert flushes.timeouts == [1.5, 1.5]  # the sender's
            with agentbus.agent("worker"):  # whose caller is in another process
                pass
            assert flushes.timeouts == [1.5, 1.5, 1.5]
        with agentbus.llm("alone"):
            pass
        assert flushes.timeouts == [1.5] * 3
        gone = agentbus.agent("gone").start()
        with gone.tool("goes on"):
            gone.end()
            with agentbus.agent("late"):
                pass
    assert flushes.timeouts == [1.5] * 5


# -- what is broken ----------------------------------------------------------------------------------------------------


def test_a_job_runs_without_a_bus() -> None:
    assert installed() is None
    with capture():
        carrier = enqueued()
    with jobs.job(carrier, flush=True) as sender, agentbus.agent("worker") as worker:
        assert sender is not None
        assert worker.invocation.root_id == "planner"
        leak()
    assert current() is None
    attach(type(get_current())())  # without a bus there is nobody who speaks OpenTelemetry


class Failing:
    """A bus of which nothing works."""

    source = "failing"
    gate: Any = None

    @property
    def tracing(self) -> Any:
        raise RuntimeError("no tracing")

    @property
    def settings(self) -> Any:
        raise RuntimeError("no settings")

    def ambient(self) -> None:
        return None

    def emit(self, event: object) -> None:
        """Nothing."""

    def flush(self, timeout: float = 10.0) -> bool:
        raise RuntimeError("no flush")


def test_a_bus_that_fails_never_reaches_the_job(caplog: pytest.LogCaptureFixture) -> None:
    before = install(Failing())
    try:
        with caplog.at_level(logging.WARNING, "otel_agentbus"), jobs.job({}, flush=True):
            ran = True
    finally:
        install(before)
    assert ran
    assert current() is None
    assert {record.getMessage() for record in caplog.records} == {
        "A job could not be joined to what has sent it",
        "The end of a job could not be told",
        "What was emitted could not be flushed",
    }
