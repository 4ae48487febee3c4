"""What it costs to count and price a model call: on the agent's path with a budget, and in the background without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import otel_agentbus as agentbus
from otel_agentbus import Budget, MetricsBridge, Settings
from otel_agentbus.accounting import Accounting
from otel_agentbus.events import Event, LlmRequest, LlmResponse
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.usage import usage_of

from . import block
from .table import Effort, Row, Timed, sample

CALLS = 400
NUMBER = 200
#: A priced call in the background must not cost more than the SDK's own instruments, told the same, without a price.
TARGET = 1.0
SDK_ATTRIBUTES = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.response.model": "gpt-5-mini",
}
SPENDER = {
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.agent.name": "planner",
}


def calls(count: int) -> list[Event]:
    """So many model calls of a run, each a request and a response."""
    events: list[Event] = []
    for number in range(count):
        of_it: dict[str, Any] = {
            "call_id": str(number),
            "invocation_id": "i",
            "root_invocation_id": "i",
            "agent": "planner",
        }
        events.append(LlmRequest(model_provider="openai", model="gpt-5-mini", messages_count=2, **of_it))
        events.append(
            LlmResponse(
                model_provider="openai",
                model="gpt-5-mini",
                response_model="gpt-5-mini",
                duration=1.5,
                success=True,
                input_tokens=120,
                output_tokens=40,
                cache_read_input_tokens=20,
                time_ns=1_790_000_000_000_000_000,
                **of_it,
            )
        )
    return events


def meters() -> MeterProvider:
    """The SDK's, with a reader: without one nothing is kept."""
    return MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)


class Counted:
    """The events entered in the ledger, priced, summed up and counted, as the pump does it."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events

    def prepare(self) -> None:
        """New accounts over new instruments."""
        self._accounting = Accounting(Settings())
        self._accounting.prices.load()
        self._metrics = MetricsBridge(meters(), entered=True)

    def entered(self) -> None:
        """The ledger, the price and the summary alone."""
        for event in self._events:
            self._accounting.enter(event)

    def counted(self) -> None:
        """And the metrics."""
        for event in self._events:
            self._metrics(self._accounting.enter(event))


def sdk_metrics(count: int) -> Callable[[], None]:
    """The same counts told to the SDK's own instruments: three points of histograms, five of counters, no price."""
    meter = meters().get_meter("benchmark")
    duration, usage = meter.create_histogram("duration"), meter.create_histogram("usage")
    made, tokens, cost = (meter.create_counter(name) for name in ("calls", "tokens", "cost"))

    def tell() -> None:
        for _ in range(count):
            duration.record(1.5, SDK_ATTRIBUTES)
            for kind, number in (("input", 120), ("output", 40)):
                usage.record(number, {**SDK_ATTRIBUTES, "gen_ai.token.type": kind})
            made.add(1, {**SPENDER, "agentbus.outcome": "ok"})
            for kind, number in (("input", 120), ("output", 40), ("cache_read", 20)):
                tokens.add(number, {**SPENDER, "gen_ai.token.type": kind})
            cost.add(0.0001, {**SPENDER, "agentbus.cost.source": "priced"})

    return tell


@contextmanager
def path() -> Iterator[dict[str, Timed]]:
    """A model call's block under a budget."""
    budget = Budget("day", usd=1e9, window="1d", on_exceeded="raise")
    with block.resting_bus(budget) as bus, agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:
        bus.accounting.prices.load()

        def call() -> None:
            with run.llm(messages_count=2) as made:
                made.record(response_model="gpt-5-mini", input_tokens=120, output_tokens=40)

        yield {"budget": Timed(call, NUMBER, prepare=bus._pump.ring.clear)}
        bus._pump.ring.clear()


def priced() -> Callable[[], object]:
    """A warm look-up of a price."""
    book = PriceBook()
    book.load()
    response = calls(1)[1]
    assert isinstance(response, LlmResponse)
    usage = usage_of(response)
    return lambda: book.charge(response, usage)


def rows(effort: Effort) -> list[Row]:
    """With and without a budget; in the background; and the price alone, against its 2 us where a block takes 7."""
    count = effort.of(CALLS)
    ours = Counted(calls(count))
    with block.cases() as without:
        plain = without["block"], without["sdk"]
        taken = sample({"block": plain[0], "sdk": plain[1], "price": Timed(priced(), NUMBER)}, effort)
    with path() as under:
        taken |= sample(under, effort)
    taken |= sample(
        {
            "entered": Timed(ours.entered, 1, prepare=ours.prepare, per=count),
            "counted": Timed(ours.counted, 1, prepare=ours.prepare, per=count),
            "sdk metrics": Timed(sdk_metrics(count), 1, per=count),
        },
        effort,
    )
    return [
        Row("llm block under a budget", taken["budget"], "without one", taken["block"]),
        Row("llm block under a budget", taken["budget"], "the SDK's span inline", taken["sdk"], 1.0),
        Row("a price, looked up", taken["price"], "the SDK's span inline", taken["sdk"], 0.114),
        Row("background, a call entered and priced", taken["entered"], "the SDK's instruments", taken["sdk metrics"]),
        Row("background, and counted", taken["counted"], "the SDK's instruments", taken["sdk metrics"], TARGET),
    ]
