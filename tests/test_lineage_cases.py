"""The cases of the invocation-context proposals, one by one: stamps, queues, attempts, failures, tools of frameworks.

Those that stand elsewhere, because they are the same for every block:

* root, child, rehydrate, nested runs, a pop on a throw, an exact pop, a pop without effect, a failed nested run, flush:
  `test_invocation`;
* sub-agents under runs, calls and tools of any kind, the outer tool again after the inner one, three levels and their
  paths, callers' ids and that one id is for one run: `test_lineage`; in tool calls that a framework tells of, the
  outer pair again after the inner one: `test_lineage_places`; in tasks and threads: `test_lineage_elsewhere`,
  `test_task_groups`; in processes: `test_processes`; over carriers: `test_carriers`; in jobs: `test_jobs`;
* a stream belongs to where it was called, not to where it is read, and never shows in its consumer (the proposal has
  it show): `test_streams_chunks`, `test_streams_matrix`.
"""

from __future__ import annotations

import contextvars
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current
from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmResponse
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, label, outcomes, parents


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


def sub_agent(name: str = "researcher") -> str:
    with agentbus.agent(name) as run:
        return run.id


def stamps(seen: Captured, kind: type[Event]) -> dict[str, tuple[str | None, str | None, str | None]]:
    """Of each event of a kind: its run, the run's caller and the root."""
    return {
        label(event): (event.invocation_id, event.parent_invocation_id, event.root_invocation_id)
        for event in seen.events
        if isinstance(event, kind)
    }


# -- stamps ------------------------------------------------------------------------------------------------------------


def test_a_top_level_run_is_stamped_as_its_own_root_at_its_start_and_end(seen: Captured) -> None:
    with agentbus.agent("planner", invocation_id="p"):
        pass
    assert stamps(seen, AgentStart) == stamps(seen, AgentEnd) == {"planner": ("p", None, "p")}


def test_every_run_of_a_chain_is_stamped_with_its_caller_and_the_root_at_both_ends(seen: Captured) -> None:
    with agentbus.agent("a", invocation_id="1"), agentbus.agent("b", invocation_id="2"):
        with agentbus.agent("c", invocation_id="3"):
            pass
        with agentbus.agent("d", invocation_id="4"):
            pass
    wanted = {"a": ("1", None, "1"), "b": ("2", "1", "1"), "c": ("3", "2", "1"), "d": ("4", "2", "1")}
    assert stamps(seen, AgentStart) == stamps(seen, AgentEnd) == wanted


async def _consumed(stream: Any) -> None:
    if hasattr(stream, "__anext__"):
        async for _ in stream:
            pass
    else:
        for _ in stream:
            pass


@pytest.mark.parametrize("kind", ["structured", "streamed", "streamed in steps"])
async def test_structured_and_streamed_answers_are_stamped_like_any_other(seen: Captured, kind: str) -> None:
    inner = agentbus.agent("inner", invocation_id="i")

    def steps() -> Iterator[str]:
        with agentbus.llm("m"):
            yield "chunk"

    async def async_steps() -> AsyncIterator[str]:
        async with agentbus.llm("m"):
            yield "chunk"

    with agentbus.agent("outer", invocation_id="o"):
        if kind == "structured":
            with inner as run, run.llm("m"):
                run.record(output={"answer": 42})
        else:
            await _consumed(inner.stream(steps() if kind == "streamed" else async_steps()))
    assert stamps(seen, AgentEnd)["inner"] == ("i", "o", "o")
    assert stamps(seen, LlmResponse) == {"m": ("i", "o", "o")}


def test_what_wraps_an_agents_body_runs_inside_of_its_run(seen: Captured) -> None:
    def middleware(body: Callable[[], str]) -> Callable[[], str]:
        def wrapped() -> str:
            sub_agent("of the middleware")
            return body()

        return wrapped

    assert agentbus.agent("planner")(middleware(lambda: "done"))() == "done"
    assert parents(seen) == {"planner": None, "of the middleware": "planner"}


def test_a_run_that_fails_has_the_id_that_its_caller_chose(seen: Captured) -> None:
    """Who is given no answer knows by it which run that was; runs inside of it have ids of their own."""
    with pytest.raises(ValueError, match="boom"), agentbus.agent("planner", invocation_id="mine"):
        assert sub_agent() != "mine"
        raise ValueError("boom")
    assert stamps(seen, AgentEnd)["planner"] == ("mine", None, "mine")
    assert outcomes(seen) == {"researcher": "ok", "planner": "error"}


# -- queues ------------------------------------------------------------------------------------------------------------


def in_a_worker(function: Callable[[], Any]) -> Any:
    """Where nothing of the sender's context is."""
    return contextvars.Context().run(function)


def plain() -> None:
    sub_agent("queued")


def streamed() -> None:
    """A job whose answer is broadcast as it comes."""
    assert list(agentbus.agent("queued").stream(iter("abc"))) == ["a", "b", "c"]


@pytest.mark.parametrize("job", [plain, streamed], ids=["queued", "broadcast"])
def test_a_queued_agent_is_the_child_of_the_run_that_queued_it_under_an_id_of_its_own(
    seen: Captured, job: Callable[[], None]
) -> None:
    with agentbus.agent("root", invocation_id="r"), agentbus.agent("sender", invocation_id="s"):
        message = json.dumps(dict(agentbus.inject()))

    def work() -> None:
        with agentbus.resume(json.loads(message)) as caller:
            assert caller is not None
            assert (current(), caller.id, caller.root_id) == (caller, "s", "r")
            job()
        assert current() is None

    in_a_worker(work)
    queued, parent, root = stamps(seen, AgentEnd)["queued"]
    assert (parent, root) == ("s", "r")
    assert queued not in ("s", "r", None)
    assert len({span.context.trace_id for span in seen.spans if span.context}) == 1


@pytest.mark.parametrize("job", [plain, streamed], ids=["queued", "broadcast"])
def test_an_agent_that_was_queued_outside_of_any_run_is_a_root(seen: Captured, job: Callable[[], None]) -> None:
    message = dict(agentbus.inject())
    assert message == {}

    def work() -> None:
        with agentbus.resume(message) as caller:
            assert (caller, current()) == (None, None)
            job()

    in_a_worker(work)
    queued, parent, root = stamps(seen, AgentEnd)["queued"]
    assert (parent, root) == (None, queued)


def test_a_job_that_carries_two_ids_and_nothing_else_is_the_child_of_the_run_they_name(seen: Captured) -> None:
    assert Invocation.run_rehydrated("s", "r", sub_agent, "queued")
    assert Invocation.run_rehydrated("s", None, sub_agent, "queued by a root")
    found = stamps(seen, AgentEnd)
    assert (found["queued"][1:], found["queued by a root"][1:]) == (("s", "r"), ("s", "s"))


@pytest.mark.parametrize("missing", [None, ""])
def test_a_job_that_carries_no_ids_is_a_root_wherever_it_runs(seen: Captured, missing: str | None) -> None:
    with agentbus.agent("worker's own") as run:
        Invocation.run_rehydrated(missing, "r", sub_agent, "queued")
        assert current() is run.invocation
    assert parents(seen) == {"worker's own": None, "queued": None}
    queued, _, root = stamps(seen, AgentEnd)["queued"]
    assert root == queued


async def test_a_jobs_coroutine_function_is_awaited_under_the_run(seen: Captured) -> None:
    async def work(name: str) -> str:
        return sub_agent(name)

    assert await Invocation.run_rehydrated("s", "r", work, "queued")
    assert await Invocation.run_rehydrated(None, None, work, "root")
    found = stamps(seen, AgentEnd)
    assert (found["queued"][1:], found["root"][1]) == (("s", "r"), None)


@pytest.mark.parametrize("boundary", ["flush", "resume", "run_rehydrated"])
def test_what_one_job_leaves_open_is_nobodys_parent_in_the_next(seen: Captured, boundary: str) -> None:
    def jobs() -> None:
        leaked = agentbus.agent("leaked").start()
        Invocation.root("pushed").push()
        if boundary == "flush":
            Invocation.flush()
            sub_agent("next")
        elif boundary == "resume":
            with agentbus.resume({}):
                sub_agent("next")
        else:
            Invocation.run_rehydrated(None, None, sub_agent, "next")
        leaked.end()

    in_a_worker(jobs)
    assert parents(seen) == {"leaked": None, "next": None}


# -- attempts and failures ---------------------------------------------------------------------------------------------


def ask(model: str, fails: bool) -> str:
    with agentbus.llm(model):
        if fails:
            raise ConnectionError(f"{model} is away")
        return f"{model} answers"


def fail_over(*models: tuple[str, bool]) -> str:
    for model, fails in models:
        try:
            return ask(model, fails)
        except ConnectionError as error:
            failed = error
    raise failed


def failures(seen: Captured) -> list[str]:
    """Of whom it was told, and how often, that they failed."""
    return [label(event) for event in seen.events if getattr(event, "outcome", None) == "error"]


def test_a_failover_that_recovers_is_one_run_under_one_id_and_no_failure_of_it(seen: Captured) -> None:
    with agentbus.agent("planner", invocation_id="p"):
        assert fail_over(("first", True), ("second", True), ("third", False)) == "third answers"
    assert failures(seen) == ["first", "second"]
    assert outcomes(seen)["planner"] == "ok"
    assert {event.invocation_id for event in seen.events} == {"p"}


def test_a_failover_that_is_exhausted_is_told_once_as_the_runs_failure_after_all_attempts(seen: Captured) -> None:
    with pytest.raises(ConnectionError), agentbus.agent("planner", invocation_id="p"):
        fail_over(("first", True), ("second", True))
    assert failures(seen) == ["first", "second", "planner"]
    assert {event.invocation_id for event in seen.events} == {"p"}


def test_a_streams_failover_is_one_run_too_and_each_attempt_is_its_own(seen: Captured) -> None:
    def attempt(model: str, fails: bool) -> Iterator[str]:
        with agentbus.llm(model):
            yield f"{model} begins"
            if fails:
                raise ConnectionError(f"{model} is away")

    @agentbus.agent("planner")
    def answer() -> Iterator[str]:
        try:
            yield from attempt("first", True)
        except ConnectionError:
            yield from attempt("second", False)

    with agentbus.agent("consumer"):
        stream = answer()
    assert list(stream) == ["first begins", "second begins"]
    assert failures(seen) == ["first"]
    assert parents(seen) == {"consumer": None, "planner": "consumer", "first": "planner", "second": "planner"}


def test_a_listener_that_throws_is_never_a_failure_of_the_tool_or_the_run() -> None:
    def throw(event: Event) -> None:
        raise RuntimeError(f"of the listener, at {event.kind}")

    with capture(strict=False) as seen:
        seen.bus.subscribe(throw, priority=-2_000_000)
        with agentbus.agent("planner") as run, run.tool("search"):
            pass
    assert len(seen.failures) == len(seen.events) == 4
    assert failures(seen) == []
    assert outcomes(seen) == {"search": "ok", "planner": "ok"}


def failing_agent() -> None:
    with agentbus.agent("child"):
        raise ValueError("boom")


def test_a_sub_agent_that_fails_in_a_tool_that_answers_for_it_fails_alone(seen: Captured) -> None:
    """As agents are offered to models as tools: the model is told of the failure, and goes on."""
    with agentbus.agent("parent") as run, run.tool("delegate") as call:
        try:
            failing_agent()
        except ValueError as error:
            call.record(result=f"Agent failed: {error}")
    assert outcomes(seen) == {"child": "error", "delegate": "ok", "parent": "ok"}
    assert failures(seen) == ["child"]


def test_a_sub_agent_that_a_tool_calls_by_hand_fails_the_tool_and_both_runs_once_each(seen: Captured) -> None:
    with pytest.raises(ValueError, match="boom"), agentbus.agent("parent") as run, run.tool("delegate"):
        failing_agent()
    assert failures(seen) == ["child", "delegate", "parent"]


def test_a_run_beside_the_conversation_is_attributed_to_no_run(seen: Captured) -> None:
    """The one that finds a title, say, or whatever else the application does of its own accord meanwhile."""
    with agentbus.agent("planner", conversation_id="talk") as run, run.tool("search"):
        with agentbus.resume(None), agentbus.agent("title", conversation_id="talk"):
            pass
        sub_agent()
    assert parents(seen) == {"planner": None, "search": "planner", "title": None, "researcher": "search"}
    assert len({span.context.trace_id for span in seen.spans if span.context}) == 2


async def test_every_resumption_of_a_tools_stream_is_inside_of_its_call(seen: Captured) -> None:
    def answers() -> Iterator[int]:
        for number in range(3):
            sub_agent(f"step {number}")
            yield number

    with agentbus.agent("planner") as run:
        with run.tool("early"):
            stream = run.tool("delegate").stream(answers())
        for number in stream:
            sub_agent(f"consumer {number}")
    found = parents(seen)
    assert {found[f"step {number}"] for number in range(3)} == {"delegate"}
    assert {found[f"consumer {number}"] for number in range(3)} == {"planner"}
