"""Requests and answers, apart from events."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from otel_agentbus.errors import NoAnswer
from otel_agentbus.events import Event
from otel_agentbus.router import Router


@pytest.fixture
def router() -> Iterator[Router]:
    with Router() as router:
        yield router


@dataclass
class MaySpend:
    """A request: may the agent spend so much?"""

    usd: float


class MaySpendMore(MaySpend):
    """A request of a narrower kind."""


async def test_a_request_is_answered_by_an_async_or_a_plain_function(router: Router) -> None:
    @router.answer(MaySpend)
    async def decide(request: MaySpend) -> bool:
        await asyncio.sleep(0)
        return request.usd < 10

    @router.answer(str)
    def shout(request: str) -> str:
        return request.upper()

    assert [await router.ask(MaySpend(1)), await router.ask(MaySpend(99), 10), await router.ask("no")] == [
        True,
        False,
        "NO",
    ]


async def test_a_subclass_is_answered_by_its_base_unless_it_has_a_responder_itself(router: Router) -> None:
    router.answer(MaySpend)(lambda _: "base")
    assert await router.ask(MaySpendMore(1)) == "base"
    router.answer(MaySpendMore)(lambda _: "own")
    assert (await router.ask(MaySpendMore(1)), await router.ask(MaySpend(1))) == ("own", "base")


async def test_requests_are_no_events_and_events_no_requests(router: Router) -> None:
    heard: list[Event] = []
    router.subscribe(heard.append)
    router.answer(MaySpend)(lambda _: True)
    assert await router.ask(MaySpend(1))
    assert heard == []


async def test_without_a_responder_there_is_no_answer(router: Router) -> None:
    with pytest.raises(NoAnswer, match=r"nobody answers MaySpend: register a responder with `router\.answer`"):
        await router.ask(MaySpend(1))
    router.answer(MaySpend)(lambda _: True)
    router.close()
    with pytest.raises(NoAnswer):
        await router.ask(MaySpend(1))


class Overdrawn(Exception):
    """The responder's own."""


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_the_responders_own_exception_is_raised_where_it_was_asked(router: Router, asynchronous: bool) -> None:
    error = Overdrawn("by 3 USD")

    async def fails_later(_: MaySpend) -> None:
        raise error

    def fails(_: MaySpend) -> None:
        raise error

    router.answer(MaySpend)(fails_later if asynchronous else fails)
    with pytest.raises(Overdrawn) as raised:
        await router.ask(MaySpend(1), 10)
    assert raised.value is error


async def test_an_async_responder_that_takes_too_long_times_out_and_is_cancelled(router: Router) -> None:
    cancelled = asyncio.Event()

    @router.answer(MaySpend)
    async def hangs(_: MaySpend) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError, match=r"hangs has not answered within 0\.01 s"):
        await router.ask(MaySpend(1), 0.01)
    await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_blocking_responder_does_not_block_the_loop_and_may_hang(router: Router) -> None:
    release, started = threading.Event(), threading.Event()

    @router.answer(MaySpend)
    def blocks(_: MaySpend) -> bool:
        started.set()
        return release.wait(30)

    asking = asyncio.ensure_future(router.ask(MaySpend(1), 30))
    while not started.is_set():
        await asyncio.sleep(0)  # the loop runs although the responder blocks
    release.set()
    assert await asking is True
    release.clear()
    with pytest.raises(TimeoutError):
        await router.ask(MaySpend(1), 0.01)
    release.set()


async def test_a_responder_sees_the_context_of_the_one_who_asks(router: Router) -> None:
    user = contextvars.ContextVar("user", default="nobody")
    router.answer(str)(lambda _: user.get())
    user.set("lena")
    assert await router.ask("who?") == "lena"


async def test_a_responder_that_is_cancelled_or_exits_does_not_cancel_or_end_the_one_who_asks(router: Router) -> None:
    @router.answer(int)
    async def gives_up(_: int) -> None:
        raise asyncio.CancelledError

    router.answer(str)(lambda _: exit())
    router.answer(bytes)(lambda _: next(iter(())))
    with pytest.raises(NoAnswer, match="gives_up was cancelled before it answered"):
        await router.ask(1)
    with pytest.raises(NoAnswer, match="the responder ended with SystemExit"):
        await router.ask("x")
    with pytest.raises(NoAnswer, match="the responder ended with StopIteration"):
        await router.ask(b"x")


async def test_the_one_who_asks_may_be_cancelled(router: Router) -> None:
    cancelled = asyncio.Event()

    @router.answer(MaySpend)
    async def hangs(_: MaySpend) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    asking = asyncio.ensure_future(router.ask(MaySpend(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(cancelled.wait(), 10)


def test_an_answer_to_a_loop_that_has_been_closed_is_lost_without_a_word(router: Router) -> None:
    release, answered = threading.Event(), threading.Event()

    @router.answer(MaySpend)
    def blocks(_: MaySpend) -> None:
        release.wait(10)
        answered.set()

    with pytest.raises(TimeoutError):
        asyncio.run(router.ask(MaySpend(1), 0.01))
    release.set()
    assert answered.wait(10)


@pytest.mark.parametrize(
    ("kind", "responder", "sentence"),
    [
        (MaySpend(1), print, "answer takes the class of the requests, not MaySpend"),
        (str, 3, "a responder must be a function that returns its answer, not 3"),
        (int, print, "int is answered by builtins.len already, and a request has one answer"),
    ],
)
def test_a_wrong_responder_is_refused(router: Router, kind: Any, responder: Any, sentence: str) -> None:
    router.answer(int)(len)
    with pytest.raises((TypeError, ValueError)) as refused:
        router.answer(kind)(responder)
    assert sentence in str(refused.value)
