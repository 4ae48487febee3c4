"""What waits takes memory: a model call in the ring, against a span of the SDK in its queue."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

import otel_agentbus as agentbus

from .block import resting_bus
from .table import Effort, Row

SPANS = 2000
#: 400 bytes, where the SDK's span takes 2,856.
TARGET = 0.14


def grown_by(work: Callable[[], object]) -> int:
    """How many bytes are in use that were not before."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = work()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return after - before


def queued_calls(count: int) -> int:
    """The bytes of so many model calls, each two events in the ring and its block."""
    with resting_bus() as bus, agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:

        def calls() -> None:
            for _ in range(count):
                with run.llm(messages_count=2) as call:
                    call.record(response_model="gpt-5-mini", input_tokens=120, output_tokens=40)

        grown = grown_by(calls)
        bus._pump.ring.clear()
    return grown


def queued_spans(count: int) -> int:
    """The bytes of so many ended spans of the SDK, with the attributes that ours have."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("benchmark")

    def spans() -> list[Any]:
        kept = []
        for number in range(count):
            start = {f"gen_ai.at.start.{n}": "text" for n in range(7)}
            span: Any = tracer.start_span("chat gpt-5-mini", attributes=start)
            span.set_attributes({"gen_ai.response.id": f"r{number}", "gen_ai.usage.input_tokens": number, "more": True})
            span.end()
            kept.append(span._readable_span())
        return kept

    return grown_by(spans)


def rows(effort: Effort) -> list[Row]:
    """A model call that waits for the background."""
    count = effort.of(SPANS)
    ours, sdk = queued_calls(count) / count, queued_spans(count) / count
    return [Row("memory of a queued model call", ours, "the SDK's span", sdk, TARGET, unit="B", binding=False)]
