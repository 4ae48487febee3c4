"""Blocks end exactly once, with the right outcome, however they are left."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, ends, outcomes, parents, restored

KINDS: dict[str, Callable[[], Any]] = {
    "agent": lambda: agentbus.agent("b"),
    "llm": lambda: agentbus.llm("b"),
    "tool": lambda: agentbus.tool("b"),
}


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)
    assert current() is None


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return KINDS[str(request.param)]


# -- however it is left ------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The program's own."""

    class Deeply(Exception):
        """Nested."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Wordless(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad"), "ValueError", "bad"),
        (KeyError("k"), "KeyError", "'k'"),
        (Refused("no"), f"{__name__}.Refused", "no"),
        (Refused.Deeply(), f"{__name__}.Refused.Deeply", ""),
        (Unprintable(), f"{__name__}.Unprintable", ""),
        (Wordless(), f"{__name__}.Wordless", ""),
        (TimeoutError("late"), "TimeoutError", "late"),
        (StopIteration(3), "StopIteration", "3"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "ExceptionGroup", "two (2 sub-exceptions)"),
        (asyncio.QueueFull(), "asyncio.queues.QueueFull", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_exception_is_the_outcome_error_and_goes_on(
    seen: Captured, make: Callable[[], Any], error: Exception, kind: str, message: str
) -> None:
    with pytest.raises(type(error)) as caught, make():
        raise error
    assert caught.value is error
    (end,) = ends(seen.events)
    assert (end.outcome, end.error_type, end.error_message) == ("error", kind, message)
    assert getattr(end, "success", False) is False


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError("reason"),
        concurrent.futures.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        BaseExceptionGroup("stop", [KeyboardInterrupt()]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_error_is_the_outcome_cancelled(
    seen: Captured, make: Callable[[], Any], error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught, make():
        raise error
    assert caught.value is error
    (end,) = ends(seen.events)
    assert (end.outcome, end.error_type, end.error_message) == ("cancelled", None, None)
    assert getattr(end, "success", False) is False


def test_sys_exit_passes_and_ends_every_block_around_it(seen: Captured) -> None:
    with pytest.raises(SystemExit), agentbus.agent("a") as run, run.tool("t"), agentbus.llm("m"):
        sys.exit(3)
    assert outcomes(seen) == {"m": "cancelled", "t": "cancelled", "a": "cancelled"}


def test_return_break_and_continue_end_it_as_ok(seen: Captured) -> None:
    def early() -> int:
        with agentbus.tool("returned"):
            return 3

    assert early() == 3
    for name in ("continued", "broken"):
        with agentbus.tool(name):
            if name == "continued":
                continue
            break
    assert outcomes(seen) == {"returned": "ok", "continued": "ok", "broken": "ok"}


async def test_a_cancelled_task_ends_its_blocks_as_cancelled(seen: Captured) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with agentbus.agent("a") as run, run.tool("t"), run.llm("m"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcomes(seen) == {"m": "cancelled", "t": "cancelled", "a": "cancelled"}


async def test_a_timeout_is_cancelled_inside_and_an_error_outside(seen: Captured) -> None:
    with pytest.raises(TimeoutError):
        async with agentbus.agent("outside"):
            async with asyncio.timeout(0):
                async with agentbus.tool("inside"):
                    await asyncio.Event().wait()
    assert outcomes(seen) == {"inside": "cancelled", "outside": "error"}


def test_a_generator_that_is_closed_or_forgotten_ends_its_block(seen: Captured) -> None:
    def held(name: str) -> Iterator[int]:
        with agentbus.tool(name):
            yield 1

    closed = held("closed")
    next(closed)
    closed.close()  # type: ignore[attr-defined]
    forgotten = held("forgotten")
    next(forgotten)
    del forgotten
    circle: list[Any] = [held("in a circle")]
    next(circle[0])
    circle.append(circle)
    del circle
    gc.collect()
    assert outcomes(seen) == {"closed": "cancelled", "forgotten": "cancelled", "in a circle": "cancelled"}


# -- again, elsewhere, at once -----------------------------------------------------------------------------------------


def test_a_second_start_or_end_has_no_effect(seen: Captured, make: Callable[[], Any]) -> None:
    block = make()
    block.end()
    assert seen.events == []
    block.start().start()
    block.end()
    block.end(ValueError("too late"))
    block.start()
    block.end()
    assert outcomes(seen) == {"b": "ok"}


def test_a_block_that_is_over_is_used_again_without_effect(seen: Captured, make: Callable[[], Any]) -> None:
    block = make()
    with block:
        pass
    with block:
        assert current() is None
    assert len(seen.events) == 2


def test_an_end_by_hand_inside_its_with_counts(seen: Captured, make: Callable[[], Any]) -> None:
    with suppress(KeyError), make() as block:
        block.end(ValueError("first"))
        raise KeyError
    (end,) = ends(seen.events)
    assert (end.outcome, end.error_type) == ("error", "ValueError")


def test_a_block_may_end_in_another_thread(seen: Captured, make: Callable[[], Any]) -> None:
    with restored():
        block = make().start()
        thread = threading.Thread(target=block.end)
        thread.start()
        thread.join()
        assert current() is None
        with agentbus.agent("after"):
            pass
    assert outcomes(seen) == {"b": "ok", "after": "ok"}
    assert parents(seen)["after"] is None


def test_many_threads_that_end_one_block_end_it_once(seen: Captured, make: Callable[[], Any]) -> None:
    for _ in range(20):
        with restored():
            block = make().start()
        barrier = threading.Barrier(4)

        def end(block: Any = block, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(5)
            block.end()

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ends(seen.events)) == 20
