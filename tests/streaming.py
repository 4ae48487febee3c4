"""What the tests of streams share: generators that hold things across their yields, and a check that nothing leaked."""

from __future__ import annotations

import contextvars
import gc
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider

import otel_agentbus as agentbus
from otel_agentbus import current
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, ends, label, parents

#: A context variable of the application's, set by the generators and by the consumer.
mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="untouched")
_tracer = TracerProvider(shutdown_on_exit=False).get_tracer("user")

#: How a stream is made of a generator function; each is the block "b", but for the plain one.
Make = Callable[[Callable[[], Any]], Any]
WAYS: dict[str, Make] = {
    "decorated agent": lambda function: agentbus.agent("b")(function)(),
    "block.stream": lambda function: agentbus.llm("b").stream(function()),
    "stream(generator, block)": lambda function: agentbus.stream(function(), agentbus.tool("b")),
    "stream(generator)": lambda function: agentbus.stream(function()),
}


@dataclass
class Watched:
    """One scenario: how its stream is made, what was told, and what went wrong behind its back."""

    way: str
    held: bool
    seen: Captured
    caplog: pytest.LogCaptureFixture
    unraisable: list[str] = field(default_factory=list)
    #: Whether the consumer's context is as it was.
    untouched: Callable[[], bool] = lambda: mine.get() == "untouched"

    def hold(self) -> AbstractContextManager[Any]:
        """A span of the user's own, where the scenario has one."""
        return _tracer.start_as_current_span("user's own") if self.held else nullcontext()

    def numbers(self, count: int = 3) -> Any:
        """A sync stream."""

        def generate() -> Generator[int, Any, str]:
            with self.hold():
                try:
                    for number in range(count):
                        mine.set(f"set by the generator {number}")
                        with agentbus.tool(f"inside {number}"):
                            pass
                        yield number
                finally:
                    with agentbus.tool("cleanup"):
                        pass
            return "returned"

        return WAYS[self.way](generate)

    def async_numbers(self, count: int = 3, pause: Callable[[], Any] | None = None) -> Any:
        """An async stream; `pause` is awaited in each step, and in its cleanup."""

        async def generate() -> AsyncGenerator[int, Any]:
            with self.hold():
                try:
                    for number in range(count):
                        mine.set(f"set by the generator {number}")
                        async with agentbus.tool(f"inside {number}"):
                            if pause is not None:
                                await pause()
                        yield number
                finally:
                    async with agentbus.tool("cleanup"):
                        if pause is not None:
                            await pause()

        return WAYS[self.way](generate)

    @contextmanager
    def consumer(self) -> Iterator[None]:
        """A consumer with a run, a span and a variable of its own, all of which must be as they were."""
        token = mine.set("the consumer's")
        with agentbus.agent("consumer") as run, _tracer.start_as_current_span("the consumer's"):
            here = context.get_current()
            self.untouched = lambda: (
                current() is run.invocation and context.get_current() is here and mine.get() == "the consumer's"
            )
            yield
            assert self.untouched()
        mine.reset(token)

    def check(self, outcome: str, *, cleaned: bool = True) -> None:
        """The stream ended once, with this outcome, all that it did stands under it, and nobody heard of it."""
        gc.collect()
        assert self.unraisable == []
        assert [record.getMessage() for record in self.caplog.records] == []
        assert_balanced(self.seen)
        found = parents(self.seen)
        above = "consumer" if self.way == "stream(generator)" else "b"
        inside = {name: parent for name, parent in found.items() if name.startswith(("inside", "cleanup"))}
        assert set(inside.values()) <= {above}
        assert ("cleanup" in inside) is cleaned
        if above == "b":
            assert found["b"] == "consumer"
            assert [event.outcome for event in ends(self.seen.events) if label(event) == "b"] == [outcome]


@pytest.fixture(params=[False, True], ids=["", "user span held"])
def held(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=WAYS)
def watched(
    request: pytest.FixtureRequest, held: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.ERROR, "otel_agentbus.router")  # it warns where the machine takes its time
    gc.freeze()  # what was there before is nothing to this test, and takes long to look through
    with capture() as seen:
        scenario = Watched(str(request.param), held, seen, caplog)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "unraisablehook", lambda found: scenario.unraisable.append(repr(found)))
            yield scenario
            gc.collect()
            gc.unfreeze()
    assert scenario.unraisable == []
    assert current() is None
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert mine.get() == "untouched"
