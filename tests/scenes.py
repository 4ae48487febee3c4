"""One scene of the streams' matrix: a consumer, the stream that it reads, and what everybody's parents are to be."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_agentbus as agentbus
from otel_agentbus.testing import Captured, capture

from .observing import outcomes

#: How many values a generator has, and how many are taken of one that is left early.
ALL, SOME = 3, 2
OUTCOMES = {"exhausted": "ok", "generator raises": "error"}


@asynccontextmanager
async def cancel_scope() -> AsyncIterator[None]:
    with anyio.CancelScope():
        yield


@dataclass
class Scene:
    """A consumer, its stream "b", and all spans that were made."""

    end: str
    span_held: bool
    seen: Captured
    caplog: pytest.LogCaptureFixture
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    unraisable: list[str] = field(default_factory=list)
    #: What an async stream holds besides.
    scope: Callable[[], Any] | None = None
    #: Called when the generator waits for ever.
    waits: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("user")

    @contextmanager
    def told(self, name: str) -> Iterator[None]:
        """A tool call, and a span of the user's in it."""
        with agentbus.tool(name), self.tracer.start_as_current_span(f"user {name}"):
            yield

    def stream(self, name: str = "b", *, held: bool = True) -> Any:
        """A sync stream."""

        @agentbus.agent(name)
        def numbers() -> Iterator[int]:
            with ExitStack() as stack:
                if held and self.span_held:
                    stack.enter_context(self.tracer.start_as_current_span(f"user holds in {name}"))
                try:
                    for number in range(ALL):
                        if name == "b" and number == SOME and self.end == "generator raises":
                            raise ValueError("no more")
                        with self.told(f"{name} {number}"):
                            pass
                        yield number
                finally:
                    with self.told(f"{name} cleanup"):
                        pass

        return numbers()

    def async_stream(self, name: str = "b", *, held: bool = True) -> Any:
        """An async one, which awaits in every step and in its cleanup."""

        @agentbus.agent(name)
        async def numbers() -> AsyncIterator[int]:
            async with AsyncExitStack() as stack:
                if held and self.span_held:
                    stack.enter_context(self.tracer.start_as_current_span(f"user holds in {name}"))
                if held and self.scope is not None:
                    await stack.enter_async_context(self.scope())
                try:
                    for number in range(ALL):
                        if name == "b" and number == SOME:
                            await self._last_step()
                        with self.told(f"{name} {number}"):
                            await asyncio.sleep(0)
                        yield number
                finally:
                    with self.told(f"{name} cleanup"):
                        await asyncio.sleep(0)

        return numbers()

    async def _last_step(self) -> None:
        if self.end == "generator raises":
            raise ValueError("no more")
        if self.end == "cancelled in a step":
            self.waits()
            await asyncio.Event().wait()

    @contextmanager
    def consumer(self) -> Iterator[None]:
        with agentbus.agent("consumer"), self.tracer.start_as_current_span("user consumes"):
            yield
            with self.told("after"):
                pass
            with self.tracer.start_as_current_span("user after the stream"):
                pass

    def between(self) -> None:
        """What the consumer does while the stream is open."""
        with self.tracer.start_as_current_span("user between"):
            pass

    def later(self) -> None:
        """What comes when all of it is over."""
        with agentbus.agent("later"):
            pass
        with self.tracer.start_as_current_span("user later"):
            pass

    def check(self, *, second: bool = False) -> None:
        """Everybody's parent, the one end of each block, and that nobody heard of any trouble."""
        self.later()
        assert outcomes(self.seen)["b"] == OUTCOMES.get(self.end, "cancelled")
        found, wanted = self.parents(), self.expected(second)
        assert {name: found.get(name) for name in {*found, *wanted} if found.get(name) != wanted.get(name)} == {}
        assert self.unraisable == []
        assert [record.getMessage() for record in self.caplog.records] == []

    def parents(self) -> dict[str, set[str | None]]:
        spans = [*self.seen.spans, *self.exporter.get_finished_spans()]
        names = {span.context.span_id: span.name for span in spans if span.context is not None}
        assert len(names) == len(spans)
        found: dict[str, set[str | None]] = {}
        for span in spans:
            found.setdefault(span.name, set()).add(names[span.parent.span_id] if span.parent is not None else None)
        return found

    def expected(self, second: bool) -> dict[str, set[str | None]]:
        above: dict[str, str | None] = {
            "invoke_agent consumer": None,
            "invoke_agent later": None,
            "user later": None,
            "user consumes": "invoke_agent consumer",
            "user between": "user consumes",
            "user after the stream": "user consumes",
            "execute_tool after": "invoke_agent consumer",
            "user after": "execute_tool after",
        }
        if self.span_held:
            above["user holds in b"] = "invoke_agent b"
        for name in ("b", *(["second"] if second else [])):
            above[f"invoke_agent {name}"] = "invoke_agent consumer"
            for step in (*range(ALL if name == "second" or self.end == "exhausted" else SOME), "cleanup"):
                above[f"execute_tool {name} {step}"] = f"invoke_agent {name}"
                above[f"user {name} {step}"] = f"execute_tool {name} {step}"
        return {name: {parent} for name, parent in above.items()}


@pytest.fixture(params=[False, True], ids=["", "span held"])
def scene(
    request: pytest.FixtureRequest, end: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.ERROR, "otel_agentbus.router")  # it warns where the machine takes its time
    gc.freeze()  # what was there before is nothing to this test, and takes long to look through
    with capture() as seen, monkeypatch.context() as patch:
        made = Scene(end, bool(request.param), seen, caplog)
        patch.setattr(sys, "unraisablehook", lambda found: made.unraisable.append(repr(found)))
        yield made
        gc.collect()
        gc.unfreeze()
    assert made.unraisable == []
