"""What streams measure and what they cost: the first chunk, running blocks, throughput, and other kinds of streams."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.events import LlmResponse
from otel_agentbus.testing import Captured, FakeClock, capture

from .observing import assert_balanced, ends, outcomes, parents


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def seen(clock: FakeClock) -> Iterator[Captured]:
    with capture(fake_clock=clock) as captured:
        yield captured
    assert_balanced(captured)


def slowly(clock: FakeClock, count: int = 3) -> Iterator[int]:
    for number in range(count):
        clock.advance(0.5)
        yield number


async def slowly_async(clock: FakeClock, count: int = 3) -> AsyncIterator[int]:
    for number in range(count):
        clock.advance(0.5)
        await asyncio.sleep(0)
        yield number


def first_chunks(seen: Captured) -> list[tuple[float | None, float, str | None]]:
    return [(e.time_to_first_chunk, e.duration, e.outcome) for e in seen.events if isinstance(e, LlmResponse)]


# -- the first chunk ---------------------------------------------------------------------------------------------------


def test_the_first_chunk_of_a_streamed_call_is_measured(seen: Captured, clock: FakeClock) -> None:
    assert list(agentbus.llm("m").stream(slowly(clock))) == [0, 1, 2]
    assert first_chunks(seen) == [(0.5, 1.5, "ok")]


async def test_the_first_chunk_of_an_async_call_is_measured(seen: Captured, clock: FakeClock) -> None:
    assert [n async for n in agentbus.llm("m").stream(slowly_async(clock))] == [0, 1, 2]
    assert first_chunks(seen) == [(0.5, 1.5, "ok")]


async def test_a_stream_in_a_running_call_is_measured_for_it_and_does_not_end_it(
    seen: Captured, clock: FakeClock
) -> None:
    for way in ("function", "method", "block given"):
        clock.advance(1)
        with agentbus.llm("m") as call:
            clock.advance(0.25)
            chunks: Any = slowly_async(clock)
            if way == "function":
                chunks = agentbus.stream(chunks)
            elif way == "method":
                chunks = call.stream(chunks)
            else:
                chunks = agentbus.stream(chunks, call)
            assert [n async for n in chunks] == [0, 1, 2]
            assert not call.ended
            clock.advance(0.25)
            call.record(output_tokens=3)
    assert first_chunks(seen) == [(0.75, 2.0, "ok")] * 3
    assert {event.output_tokens for event in seen.events if isinstance(event, LlmResponse)} == {3}


def test_a_sync_stream_in_a_running_call_is_measured_for_it_and_does_not_end_it(
    seen: Captured, clock: FakeClock
) -> None:
    with agentbus.llm("m") as call:
        for _ in call.stream(slowly(clock)):
            break
        call.record(output_tokens=1)
    assert first_chunks(seen) == [(0.5, 0.5, "ok")]


def test_a_generators_own_call_is_measured_inside(seen: Captured, clock: FakeClock) -> None:
    @agentbus.agent("writer")
    def write() -> Iterator[int]:
        with agentbus.llm("m"):
            yield from agentbus.stream(slowly(clock))

    assert list(write()) == [0, 1, 2]
    assert first_chunks(seen) == [(0.5, 1.5, "ok")]


def test_no_chunk_no_time(seen: Captured, clock: FakeClock) -> None:
    assert list(agentbus.llm("empty").stream(slowly(clock, 0))) == []
    with pytest.raises(ZeroDivisionError):
        list(agentbus.llm("failing").stream(1 // 0 for _ in "x"))
    assert first_chunks(seen) == [(None, 0.0, "ok"), (None, 0.0, "error")]


def test_a_chunk_may_be_told_by_hand_and_only_the_first_counts(seen: Captured, clock: FakeClock) -> None:
    call = agentbus.llm("m")
    call.first_chunk()
    with call:
        clock.advance(2)
        call.first_chunk()
        clock.advance(2)
        call.first_chunk()
    call.first_chunk()
    with agentbus.llm("recorded") as recorded:
        recorded.record(time_to_first_chunk=9.0)
        recorded.first_chunk()
    assert first_chunks(seen) == [(2.0, 4.0, "ok"), (9.0, 0.0, "ok")]


def test_streams_of_runs_and_tools_have_no_first_chunk(seen: Captured, clock: FakeClock) -> None:
    assert list(agentbus.agent("a").stream(slowly(clock))) == [0, 1, 2]
    assert list(agentbus.tool("t").stream(slowly(clock))) == [0, 1, 2]
    assert [end.duration for end in ends(seen.events)] == [1.5, 1.5]


# -- from the call on --------------------------------------------------------------------------------------------------


async def test_a_stream_belongs_to_where_it_was_called_not_to_where_it_is_read(seen: Captured) -> None:
    @agentbus.agent("writer")
    async def write() -> AsyncIterator[int]:
        with agentbus.tool("t"):
            yield 1

    with agentbus.agent("caller"):
        stream = write()
    with agentbus.agent("reader"):
        assert [n async for n in stream] == [1]
    assert parents(seen) == {"caller": None, "reader": None, "writer": "caller", "t": "writer"}


async def test_a_stream_that_is_handed_out_by_a_run_outlives_it(seen: Captured) -> None:
    async def numbers() -> AsyncIterator[int]:
        with agentbus.tool("t"):
            yield 1

    def handler() -> Any:
        with agentbus.agent("a") as run:
            return run.llm("m").stream(numbers())

    assert [n async for n in handler()] == [1]
    assert parents(seen) == {"a": None, "m": "a", "t": "m"}


def test_the_callers_run_is_untouched_while_a_stream_is_open(seen: Captured) -> None:
    with agentbus.agent("caller") as run:
        stream = run.llm("m").stream(iter("abc"))
        assert current() is run.invocation
        with run.tool("beside"):
            next(stream)
        stream.close()
    assert parents(seen)["beside"] == "caller"


# -- other kinds of streams --------------------------------------------------------------------------------------------


class Countdown:
    """An async iterator that is no generator, as client libraries have them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = False

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        if not self.count:
            raise StopAsyncIteration
        self.count -= 1
        return self.count

    async def aclose(self) -> None:
        self.closed = True


class Reiterable:
    """An async iterable that is no iterator."""

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(2):
            yield number


class Futures:
    """An async iterator whose steps are no coroutines."""

    def __init__(self) -> None:
        self.count = 2

    def __aiter__(self) -> Futures:
        return self

    def __anext__(self) -> asyncio.Future[int]:
        if not self.count:
            raise StopAsyncIteration
        self.count -= 1
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, self.count)
        return future


async def test_any_async_iterator_is_a_stream(seen: Captured) -> None:
    assert [n async for n in agentbus.agent("class").stream(Countdown(3))] == [2, 1, 0]
    assert [n async for n in agentbus.agent("iterable").stream(Reiterable())] == [0, 1]
    assert [n async for n in agentbus.agent("futures").stream(Futures())] == [1, 0]
    assert [n async for n in agentbus.agent("again").stream(agentbus.stream(Countdown(1)))] == [0]
    assert outcomes(seen) == dict.fromkeys(("class", "iterable", "futures", "again"), "ok")


async def test_an_async_iterator_is_closed_where_it_can_be(seen: Captured) -> None:
    closed, forgotten, uncloseable = Countdown(3), Countdown(3), Futures()
    async with agentbus.agent("closed").stream(closed) as stream:
        await anext(stream)
    async for _ in agentbus.agent("forgotten").stream(forgotten):
        break
    async for _ in agentbus.agent("uncloseable").stream(uncloseable):
        break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (closed.closed, forgotten.closed) == (True, True)
    assert outcomes(seen) == dict.fromkeys(("closed", "forgotten", "uncloseable"), "cancelled")


async def test_streams_are_async_context_managers_and_iterators_of_themselves(seen: Captured) -> None:
    stream = agentbus.agent("a").stream(Countdown(2))
    assert aiter(stream) is stream
    sync_stream = agentbus.agent("b").stream(iter("a"))
    assert iter(sync_stream) is sync_stream
    await stream.aclose()
    sync_stream.close()


# -- cost --------------------------------------------------------------------------------------------------------------


async def test_thousands_of_chunks_pass_and_no_task_is_made(seen: Captured) -> None:
    tasks: set[Any] = set()

    async def many() -> AsyncIterator[int]:
        for number in range(5000):
            tasks.add(asyncio.current_task())
            yield number

    before = asyncio.all_tasks()
    assert sum([n async for n in agentbus.agent("a").stream(many())]) == sum(range(5000))
    assert sum(agentbus.agent("b").stream(iter(range(5000)))) == sum(range(5000))
    assert tasks == {asyncio.current_task()}
    assert asyncio.all_tasks() == before


class ClientStream:
    """A stream as model clients have them: an async `close`, and more to offer than chunks."""

    response = "the response"

    def __init__(self) -> None:
        self.closed = False

    def __aiter__(self) -> ClientStream:
        return self

    async def __anext__(self) -> int:
        return 1

    async def close(self) -> None:
        with agentbus.tool("closing"):
            self.closed = True


async def test_a_clients_stream_is_closed_as_it_closes_itself_and_offers_what_it_offers(seen: Captured) -> None:
    sources = [ClientStream(), ClientStream()]
    async with agentbus.llm("closed").stream(sources[0]) as stream:
        assert await anext(stream) == 1
        assert stream.response == "the response"
        with pytest.raises(AttributeError, match="nothing"):
            _ = stream.nothing
    async for _ in agentbus.llm("forgotten").stream(sources[1]):
        break
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [source.closed for source in sources] == [True, True]
    assert outcomes(seen)["closed"] == outcomes(seen)["forgotten"] == "cancelled"
    assert agentbus.stream(iter([1])).__length_hint__() == 1


class EitherWay(ClientStream):
    """Some clients' streams are read by `for` or by `async for`."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count = count

    def __iter__(self) -> EitherWay:
        return self

    def __next__(self) -> int:
        if not self.count:
            raise StopIteration
        self.count -= 1
        return self.count

    async def __anext__(self) -> int:
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None


async def test_a_stream_that_can_be_read_either_way_still_can(seen: Captured) -> None:
    assert list(agentbus.llm("sync").stream(EitherWay())) == [1, 0]
    assert [n async for n in agentbus.llm("async").stream(EitherWay())] == [1, 0]
    for _ in agentbus.llm("sync left").stream(EitherWay()):
        break
    left = EitherWay()
    async for _ in agentbus.llm("async left").stream(left):
        break
    agentbus.llm("unread").stream(EitherWay())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert left.closed
    assert {name: outcome for name, outcome in outcomes(seen).items() if name != "closing"} == {
        "sync": "ok",
        "async": "ok",
        "sync left": "cancelled",
        "async left": "cancelled",
        "unread": "cancelled",
    }
