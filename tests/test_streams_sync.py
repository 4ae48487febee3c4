"""Sync streams: however one is left, it ends once, rightly, and leaves no trace in its consumer."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.testing import capture

from .observing import outcomes, parents
from .streaming import Watched, held, mine, watched

__all__ = ["held", "watched"]


def test_exhausted(watched: Watched) -> None:
    with watched.consumer():
        found = []
        for number in watched.numbers():
            assert watched.untouched()
            found.append(number)
        assert found == [0, 1, 2]
    watched.check("ok")


def test_left_early_and_closed(watched: Watched) -> None:
    with watched.consumer():
        stream = watched.numbers()
        next(stream)
        stream.close()
        assert watched.untouched()
        stream.close()
    watched.check("cancelled")


def test_used_as_a_context_manager(watched: Watched) -> None:
    with watched.consumer(), watched.numbers() as stream:
        assert next(stream) == 0
    watched.check("cancelled")


def test_left_early_and_forgotten(watched: Watched) -> None:
    with watched.consumer():
        for _ in watched.numbers():
            break
        assert watched.untouched()
    watched.check("cancelled")


def test_left_early_and_forgotten_in_a_circle(watched: Watched) -> None:
    """The collector closes the generator itself then, wherever it runs."""
    if watched.held:
        pytest.skip("the collector takes what is in a circle apart itself, the user's span before the generator")
    with watched.consumer():
        circle: list[Any] = [watched.numbers()]
        circle.append(circle)
        next(circle[0])
        del circle
        gc.collect()
    assert watched.unraisable == []
    assert watched.caplog.records == []
    if watched.way != "stream(generator)":
        assert outcomes(watched.seen)["b"] == "cancelled"


def test_never_begun(watched: Watched) -> None:
    with watched.consumer():
        watched.numbers()
    watched.check("cancelled", cleaned=False)


def test_an_exception_in_the_consumer(watched: Watched) -> None:
    with watched.consumer():
        with pytest.raises(ValueError, match="consumer"):
            for _ in watched.numbers():
                raise ValueError("the consumer's")
        gc.collect()
    watched.check("cancelled")


def test_an_exception_in_the_generator(watched: Watched) -> None:
    with watched.consumer():
        stream = watched.numbers()
        assert next(stream) == 0
        with pytest.raises(KeyError):
            stream.throw(KeyError("thrown"))
        assert watched.untouched()
        with pytest.raises(StopIteration):
            next(stream)
    watched.check("error")


def test_each_step_in_a_thread_of_its_own(watched: Watched) -> None:
    with watched.consumer():
        stream, found = watched.numbers(), []

        def step() -> None:
            try:
                found.append(next(stream))
            except StopIteration:
                found.append("end")
            assert current() is None
            assert mine.get() == "untouched"

        for _ in range(4):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        assert found == [0, 1, 2, "end"]
    watched.check("ok")


def test_forgotten_in_another_thread(watched: Watched) -> None:
    with watched.consumer():
        kept = [watched.numbers()]
        next(kept[0])
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
    watched.check("cancelled")


def test_two_streams_interleaved(watched: Watched) -> None:
    with watched.consumer():
        first, second = watched.numbers(), watched.numbers()
        found = [next(first), next(second), next(first), next(second)]
        assert watched.untouched()
        found += [*first, *second]
        assert found == [0, 0, 1, 1, 2, 2]
    assert watched.caplog.records == []


def test_values_pass_both_ways_and_the_return_value_arrives(watched: Watched) -> None:
    def consumer() -> Generator[int, None, str]:
        returned: str = yield from watched.numbers()
        return returned

    with watched.consumer():
        outer = consumer()
        assert [next(outer), next(outer), next(outer)] == [0, 1, 2]
        with pytest.raises(StopIteration) as returned:
            next(outer)
        assert returned.value.value == "returned"
        stream = watched.numbers(count=1)
        next(stream)
        with pytest.raises(StopIteration) as stop:
            stream.send("sent")
        assert stop.value.value == "returned"


def test_what_is_sent_reaches_the_generator() -> None:
    def echo() -> Generator[Any, Any, str]:
        got = None
        while got != "stop":
            got = yield got
        return "done"

    with capture() as seen:
        stream = agentbus.agent("a").stream(echo())
        assert [next(stream), stream.send(1), stream.send(2)] == [None, 1, 2]
        with pytest.raises(StopIteration) as stop:
            stream.send("stop")
    assert stop.value.value == "done"
    assert outcomes(seen) == {"a": "ok"}


def test_a_generator_that_reads_itself_is_refused_as_ever() -> None:
    streams: list[Any] = []

    def selfish() -> Iterator[int]:
        with pytest.raises((RuntimeError, ValueError)):
            next(streams[0])
        with pytest.raises((RuntimeError, ValueError)):
            streams[0].close()
        yield 1

    with capture() as seen:
        streams.append(agentbus.agent("a").stream(selfish()))
        assert list(streams[0]) == [1]
    streams.clear()
    assert outcomes(seen) == {"a": "ok"}


def test_a_stream_within_a_stream_is_below_it() -> None:
    @agentbus.agent("inner")
    def inner() -> Iterator[int]:
        for number in range(2):
            with agentbus.tool(f"tool {number}"):
                yield number

    @agentbus.agent("outer")
    def outer() -> Iterator[int]:
        for number in inner():
            run = current()
            assert run is not None
            assert run.agent == "outer"
            yield number

    with capture() as seen:
        assert list(outer()) == [0, 1]
    assert parents(seen) == {"outer": None, "inner": "outer", "tool 0": "inner", "tool 1": "inner"}
    assert set(outcomes(seen).values()) == {"ok"}


def test_anything_that_can_be_iterated_is_a_stream() -> None:
    class Reiterable:
        def __iter__(self) -> Iterator[int]:
            with agentbus.tool("iterating"):
                yield 1

    with capture() as seen:
        assert list(agentbus.agent("list").stream([1, 2])) == [1, 2]
        assert list(agentbus.agent("iterator").stream(iter("ab"))) == ["a", "b"]
        assert list(agentbus.agent("class").stream(Reiterable())) == [1]
        assert list(agentbus.agent("again").stream(agentbus.stream(range(2)))) == [0, 1]
    assert set(outcomes(seen).values()) == {"ok"}
    assert parents(seen)["iterating"] == "class"


def test_what_cannot_be_iterated_is_an_error_and_not_an_open_block() -> None:
    with capture() as seen:
        with pytest.raises(TypeError, match="not iterable"):
            agentbus.agent("a").stream(5)
        assert current() is None
    assert outcomes(seen) == {"a": "error"}


def test_an_iterator_without_close_or_send_is_left_early_all_the_same() -> None:
    with capture() as seen:
        for _ in agentbus.agent("a").stream(iter([1, 2])):
            break
        stream = agentbus.agent("b").stream(iter([1, 2]))
        with pytest.raises(AttributeError):
            stream.send(1)
        stream.close()
    assert outcomes(seen) == {"a": "cancelled", "b": "cancelled"}
