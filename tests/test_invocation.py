"""Who is running: the lineage itself, without telemetry."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dataclasses
import functools
import multiprocessing
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current, testing


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    assert current() is None
    yield
    assert current() is None


def test_a_root_has_no_parent_and_is_its_own_root() -> None:
    run = Invocation.root("r", agent="planner")
    assert (run.id, run.parent_id, run.root_id, run.is_root, run.depth) == ("r", None, "r", True, 0)
    assert (run.agent, run.path, run.attempt) == ("planner", ("planner",), 1)


def test_a_child_has_its_parents_root_path_conversation_and_channel() -> None:
    root = Invocation.root("r", agent="planner", conversation_id="c", channel="slack", trace="t", tracestate="s")
    child = root.child("k", agent="researcher")
    assert child == Invocation("k", "r", "r", "researcher", ("planner", "researcher"), 1, "c", "slack", "t", "s")
    assert (child.is_root, child.depth) == (False, 1)
    grandchild = child.child("g", agent="reader", conversation_id="other", channel="mail")
    assert (grandchild.parent_id, grandchild.root_id, grandchild.depth) == ("k", "r", 2)
    assert grandchild.path == ("planner", "researcher", "reader")
    assert (grandchild.conversation_id, grandchild.channel) == ("other", "mail")


def test_ids_are_minted_where_none_is_given_and_never_twice() -> None:
    random.seed(0)
    first = [Invocation.root().id for _ in range(100)]
    random.seed(0)
    second = [Invocation.root("").child(None).id for _ in range(100)]
    assert len({*first, *second}) == 200
    assert all(len(found) == 32 and int(found, 16) for found in first)


def test_ids_of_other_types_become_text() -> None:
    assert Invocation.root(5).id == "5"  # type: ignore[arg-type]
    assert Invocation.root(5).root_id == "5"  # type: ignore[arg-type]
    assert Invocation.root("r").child(7).id == "7"  # type: ignore[arg-type]
    assert Invocation.rehydrate(8).root_id == "8"  # type: ignore[arg-type]


def test_a_run_of_another_process_is_known_by_its_id_and_root_only() -> None:
    run = Invocation.rehydrate("k", "r", agent="researcher")
    assert (run.id, run.parent_id, run.root_id, run.remote) == ("k", None, "r", True)
    assert Invocation.rehydrate("k").root_id == "k"
    assert run.child("g").parent_id == "k"
    assert run.child("g").root_id == "r"
    assert run.child("g").remote is False


def test_an_invocation_cannot_be_changed_and_can_be_copied() -> None:
    run = Invocation.root("r", agent="planner")
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.id = "other"  # type: ignore[misc]
    assert copy.deepcopy(run) == run
    again = run.attempted(2)
    assert (again.id, again.attempt, run.attempt) == ("r", 2, 1)


def test_run_makes_it_current_and_gives_back_the_value() -> None:
    run = Invocation.root("r")
    assert run.run(lambda a, b: (a, b, current()), 1, b=2) == (1, 2, run)


def test_run_leaves_when_the_function_raises() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Invocation.root("r").run(fail)


async def test_run_of_a_coroutine_function_is_current_while_it_is_awaited() -> None:
    run = Invocation.root("r")

    async def work(value: int) -> tuple[int, Invocation | None]:
        await asyncio.sleep(0)
        return value, current()

    class Caller:
        async def __call__(self) -> Invocation | None:
            await asyncio.sleep(0)
            return current()

    assert await run.run(work, 1) == (1, run)
    assert await run.run(partial(work, 2)) == (2, run)
    assert await run.run(Caller()) is run
    assert current() is None


def test_runs_nest_and_the_outer_one_is_current_again() -> None:
    outer, inner = Invocation.root("o"), Invocation.root("i")
    first = outer.push()
    second = inner.push()
    assert current() is inner
    Invocation.pop(second)
    assert current() is outer
    Invocation.pop(first)


def test_a_failed_nested_run_does_not_leak() -> None:
    outer = Invocation.root("o")

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outer.run(lambda: outer.child("i").run(fail))


def test_pop_takes_the_topmost_run_when_none_is_named() -> None:
    outer, inner = Invocation.root("o"), Invocation.root("i")
    outer.push()
    inner.push()
    Invocation.pop()
    assert current() is outer
    Invocation.pop()
    Invocation.pop()


def test_pop_ends_exactly_the_named_run_even_below_the_top() -> None:
    first, second = Invocation.root("1"), Invocation.root("2")
    one, two = first.push(), second.push()
    Invocation.pop(one)
    assert current() is second
    Invocation.pop(two)
    assert current() is None


def test_a_second_pop_of_the_same_run_has_no_effect() -> None:
    first, second = Invocation.root("1"), Invocation.root("2")
    one = first.push()
    Invocation.pop(one)
    two = second.push()
    Invocation.pop(one)
    assert current() is second
    Invocation.pop(two)


def test_a_pop_too_many_does_not_open_a_boundary() -> None:
    with agentbus.agent("outer"), agentbus.resume({}):
        Invocation.pop()
        with agentbus.agent("fresh") as run:
            assert run.invocation.is_root


def in_a_context_of_its_own(test: Callable[[], None]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        contextvars.copy_context().run(test)

    return run


@in_a_context_of_its_own
def test_flush_forgets_every_run() -> None:
    frames = [Invocation.root(str(n)).push() for n in range(3)]
    Invocation.flush()
    assert current() is None
    for frame in frames:
        Invocation.pop(frame)


@in_a_context_of_its_own
def test_after_a_flush_a_leaked_block_is_nobodys_parent() -> None:
    with testing.capture() as seen:
        leaked = agentbus.agent("leaked").start()
        hung = leaked.tool("hung").start()
        for _ in range(2):
            Invocation.flush()
            with agentbus.agent("next job") as run:
                assert run.invocation.is_root
            with agentbus.tool("alone") as tool:
                assert tool.invocation.root_id == tool.id
            assert current() is None
        hung.end()
        leaked.end()
    assert [span.name for span in seen.spans if span.parent is not None] == ["execute_tool hung"]


def test_a_run_pushed_in_one_thread_is_unknown_in_another() -> None:
    run = Invocation.root("r")
    found: list[Invocation | None] = []
    frame = run.push()
    thread = threading.Thread(target=lambda: found.append(current()))
    thread.start()
    thread.join()
    Invocation.pop(frame)
    assert found == [None]


def test_a_pop_in_another_thread_ends_the_run_everywhere() -> None:
    frame = Invocation.root("r").push()
    thread = threading.Thread(target=Invocation.pop, args=(frame,))
    thread.start()
    thread.join()
    assert current() is None


def test_an_agent_under_a_pushed_run_is_its_child() -> None:
    outer = Invocation.root("o", agent="planner", conversation_id="c")
    with outer.run(lambda: agentbus.agent("inner").start()) as run:
        assert (run.invocation.parent_id, run.invocation.root_id) == ("o", "o")
        assert run.invocation.path == ("planner", "inner")
        assert run.invocation.conversation_id == "c"


def _call_ids_of_a_child(queue: multiprocessing.SimpleQueue[list[str]]) -> None:
    queue.put([agentbus.tool("t").start().id for _ in range(5)])
    Invocation.flush()


def test_call_ids_are_unique_across_a_fork() -> None:
    mine = []
    for _ in range(5):
        with agentbus.tool("t") as tool:
            mine.append(tool.id)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.SimpleQueue[list[str]] = context.SimpleQueue()
    children = [context.Process(target=_call_ids_of_a_child, args=(queue,)) for _ in range(3)]
    for child in children:
        child.start()
    theirs = [queue.get() for _ in children]
    for child in children:
        child.join()
    for _ in range(5):
        with agentbus.tool("t") as tool:
            mine.append(tool.id)
    assert len({*mine, *(found for ids in theirs for found in ids)}) == 25
