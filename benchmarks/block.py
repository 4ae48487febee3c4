"""What a model call's block costs the agent: with all sinks on, while the background has yet to look at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import otel_agentbus as agentbus
from otel_agentbus import Bus

from .table import Effort, Row, Timed, sample

#: 6 us on the machine on which the SDK's own span took 17.5.
TARGET = 0.343
NUMBER = 200


class Nothing:
    """The block that does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def record(self, **fields: object) -> None:
        """Record nothing."""


def empty() -> None:
    """What the statement costs, without what it does."""
    with Nothing() as call:
        call.record(response_model="gpt-5-mini", input_tokens=120, output_tokens=40)


def sdk_span() -> Callable[[], None]:
    """The same told with the SDK alone: a span, three attributes at its start, three later."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("benchmark")

    def call() -> None:
        start = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-5-mini",
        }
        with tracer.start_as_current_span("chat gpt-5-mini", attributes=start) as span:
            span.set_attribute("gen_ai.response.model", "gpt-5-mini")
            span.set_attribute("gen_ai.usage.input_tokens", 120)
            span.set_attribute("gen_ai.usage.output_tokens", 40)

    return call


@contextmanager
def resting_bus(*budgets: agentbus.Budget) -> Iterator[Bus]:
    """A bus over the SDK's providers whose background stands still."""
    providers = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
    bus = agentbus.connect(tracer_provider=providers[0], meter_provider=providers[1], budgets=budgets)
    thread = bus._pump._thread
    bus._pump.stop()
    if thread is not None:
        thread.join()
    try:
        yield bus
    finally:
        bus.close(0.0)


@contextmanager
def cases() -> Iterator[dict[str, Timed]]:
    """The block, the SDK's span and the empty block."""
    with resting_bus() as bus, agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:

        def block() -> None:
            with run.llm(messages_count=2) as call:
                call.record(response_model="gpt-5-mini", input_tokens=120, output_tokens=40)

        yield {
            "block": Timed(block, NUMBER, prepare=bus._pump.ring.clear),
            "sdk": Timed(sdk_span(), NUMBER),
            "empty": Timed(empty, NUMBER),
        }
        bus._pump.ring.clear()


def rows(effort: Effort) -> list[Row]:
    """One block against the SDK's span and against an empty one."""
    with cases() as timed:
        taken = sample(timed, effort)
    case = "llm block with record()"
    return [
        Row(case, taken["block"], "the SDK's span inline", taken["sdk"], TARGET),
        Row(case, taken["block"], "an empty block", taken["empty"]),
    ]
