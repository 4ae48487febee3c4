"""Ten thousand model calls from threads and tasks whose tokens and costs are known beforehand: `CALLS` says all of it.

Run as a program it makes them, exports what came of them, says how many events that were, and lives on until its
standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from itertools import count
from typing import Any, NamedTuple

import otel_agentbus as agentbus
from otel_agentbus.calls import LlmBlock
from otel_agentbus.events import CacheHit, LlmResponse
from otel_agentbus.observe import AgentBlock

THREADS, TASKS = 8, 200
#: How many calls each run makes; a thread makes 25 runs, a task one.
EACH = 25

#: USD per million tokens, of a model that no public list knows.
PRICES = """
[[price]]
provider = "house"
model = "house-1"
input = 0.3
output = 1.7
cache_read = 0.03
"""


class Call(NamedTuple):
    """One model call: whom it asks, what it uses, and what becomes of it."""

    number: int
    kind: str
    agent: str

    @property
    def provider(self) -> str:
        return {"reported": "openai", "unlisted": "openai", "nobody": "nobody"}.get(self.kind, "house")

    @property
    def model(self) -> str:
        return {"reported": "gpt-5-mini", "unlisted": "gpt-of-tomorrow", "nobody": "some"}.get(self.kind, "house-1")

    @property
    def input(self) -> int:
        return 200 + self.number * 7919 % 9973

    @property
    def output(self) -> int:
        return self.number * 104_729 % 1999

    @property
    def cache_read(self) -> int:
        return self.number % 101

    @property
    def cost_usd(self) -> float | None:
        """What the provider reports."""
        return self.number * 1.37e-7 if self.kind == "reported" else None

    def usage(self) -> dict[str, Any]:
        """What it records."""
        if self.kind == "silent":
            return {}
        said = {"input_tokens": self.input, "output_tokens": self.output, "cache_read_input_tokens": self.cache_read}
        return said if self.cost_usd is None else {**said, "cost_usd": self.cost_usd}


KINDS = (
    *("reported", "reported", "override", "override", "override"),
    *("cached", "unlisted", "nobody", "silent", "repeated", "framework"),
)


def calls_of(run: int) -> list[Call]:
    """The calls of one run."""
    numbers = range(run * EACH, (run + 1) * EACH)
    return [Call(number, KINDS[number % len(KINDS)], f"agent {run % 7}") for number in numbers]


RUNS = range(2 * TASKS)
CALLS = [call for run in RUNS for call in calls_of(run)]


def tell(bus: agentbus.Bus, run: AgentBlock, call: Call) -> None:
    """Make one call, and tell of it as often as its kind says."""
    with run.llm(provider=call.provider, model=call.model) as block:
        if call.kind == "cached":
            bus.emit(CacheHit(cache_type="answers", tokens_saved=1))
        if call.kind == "framework":  # it reports the call, and so does the client that it calls
            inside(call)
        block.record(**call.usage())
    if call.kind == "repeated":
        repeat(bus, call, block)


def inside(call: Call) -> None:
    with agentbus.llm(provider=call.provider, model=call.model) as block:
        block.record(**call.usage())


def repeat(bus: agentbus.Bus, call: Call, block: LlmBlock) -> None:
    for _ in range(2):
        bus.emit(
            LlmResponse(
                model_provider=call.provider,
                model=call.model,
                duration=0.0,
                success=True,
                call_id=block.id,
                **call.usage(),
            )
        )


def thread(bus: agentbus.Bus, runs: range) -> None:
    for number in runs:
        calls = calls_of(number)
        with agentbus.agent(calls[0].agent) as run:
            for call in calls:
                tell(bus, run, call)


async def task(bus: agentbus.Bus, number: int) -> None:
    calls = calls_of(number)
    async with agentbus.agent(calls[0].agent) as run:
        for call in calls:
            tell(bus, run, call)
            await asyncio.sleep(0)


async def tasks(bus: agentbus.Bus) -> None:
    await asyncio.gather(*(task(bus, number) for number in RUNS[:TASKS]))


def main() -> None:
    emitted = count()
    with agentbus.connect() as bus:
        bus.subscribe(lambda _event: next(emitted))
        shares = [RUNS[TASKS + number :: THREADS] for number in range(THREADS)]
        threads = [threading.Thread(target=thread, args=(bus, share)) for share in shares]
        for one in threads:
            one.start()
        asyncio.run(tasks(bus))
        for one in threads:
            one.join()
        bus.flush(60)
        print(next(emitted), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
