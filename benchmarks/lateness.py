"""How late an event loop is while the background works off bursts, against the same loop with nothing running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import quantiles

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import otel_agentbus as agentbus

from .table import Effort, Row

TICKS = 1000
TICK_S = 0.001
#: A burst of 100 model calls, which are 200 events, every so many ticks.
EVERY, CALLS = 50, 100
#: 1 ms, where a loop with nothing else in its process is 0.18 ms late.
TARGET = 5.5


def burst() -> None:
    """200 events at once."""
    with agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:
        for _ in range(CALLS):
            with run.llm(messages_count=2) as call:
                call.record(response_model="gpt-5-mini", input_tokens=120, output_tokens=40)


async def _late_ns(ticks: int, work: Callable[[], None]) -> list[float]:
    late = []
    for tick in range(ticks):
        if tick % EVERY == 0:
            work()  # its own time is the agent's, and counts nowhere here
        due = time.perf_counter_ns() + TICK_S * 1e9
        await asyncio.sleep(TICK_S)
        late.append(max(time.perf_counter_ns() - due, 0.0))
    return late


def p99(late: list[float]) -> float:
    """What one tick in a hundred exceeds."""
    return quantiles(late, n=100)[-1] if len(late) > 1 else late[0]


def rows(effort: Effort) -> list[Row]:
    """The loop's lateness with the pump at work."""
    ticks = effort.of(TICKS)
    idle = p99(asyncio.run(_late_ns(ticks, burst)))  # without a bus nothing is emitted
    providers = TracerProvider(shutdown_on_exit=False), MeterProvider(shutdown_on_exit=False)
    with agentbus.connect(tracer_provider=providers[0], meter_provider=providers[1]):
        busy = p99(asyncio.run(_late_ns(ticks, burst)))
    case = "event loop late under bursts, p99"
    return [Row(case, busy / 1000, "nothing running", idle / 1000, TARGET, unit="us", binding=False)]
