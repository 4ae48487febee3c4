"""A program that emits and emits, at a pace that the background can keep, and then accounts for every event.

    python -m tests.integration.programs.soak EVENTS RATE SECONDS

EVENTS events at RATE events per second, or as many as SECONDS allow. It tells on standard output, a JSON object a line:
how many were emitted, each second; and when all is delivered its receipt.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import otel_agentbus as agentbus

THREADS = 2
TOOLS = ("search", "read_page", "calculate")
#: Above so many events that wait for the background one pauses, as an agent would wait for its model.
QUEUED = 10_000
#: Seconds until all must be delivered when the last event has been emitted.
PATIENCE_S = 120.0


def one_run(number: int) -> int:
    """A planner with two calls, three tools, and in each an agent with a call; how many events these are."""
    with agentbus.agent("planner", provider="openai", model="gpt-5-mini") as planner:
        ask(planner, number)
        for tool in TOOLS:
            with planner.tool(tool), agentbus.agent(f"{tool} expert", model="claude-haiku-4-5") as expert:
                ask(expert, number)
        ask(planner, number)
    return 2 * (1 + 2 + 3 * len(TOOLS))


def ask(run: Any, number: int) -> None:
    """One model call; every tenth fails."""
    try:
        with run.llm() as call:
            call.record(input_tokens=number % 1000, output_tokens=number % 77)
            if number % 10 == 0:
                raise TimeoutError("the model does not answer")
    except TimeoutError:
        pass


class Soak:
    """The threads, and how far they are."""

    def __init__(self, bus: agentbus.Bus, events: int, rate: float, seconds: float) -> None:
        self._bus = bus
        self._events, self._rate = events // THREADS, rate / THREADS
        self._began = time.monotonic()
        self._until = self._began + seconds
        self.emitted = [0] * THREADS

    def work(self, thread: int) -> None:
        """One thread's share."""
        number = 0
        while self.emitted[thread] < self._events and time.monotonic() < self._until:
            self.emitted[thread] += one_run(number)
            number += 1
            ahead = self._began + self.emitted[thread] / self._rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            elif number % 50 == 0:
                self._breathe()

    def _breathe(self) -> None:
        while self._bus.health()["events"]["queued"] > QUEUED:
            time.sleep(0.05)

    def run(self) -> int:
        """All of them; the number of events."""
        threads = [threading.Thread(target=self.work, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(1.0)
            say(emitted=sum(self.emitted), seconds=round(time.monotonic() - self._began, 1))
        return sum(self.emitted)


def say(**what: Any) -> None:
    """One line."""
    print(json.dumps(what), flush=True)


def settle(bus: agentbus.Bus) -> bool:
    """Wait until the endpoint has all, and nothing is spooled any more."""
    spool, until = Path(os.environ["AGENTBUS_SPOOL_DIR"]), time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if bus.flush(10.0) and not any(spool.rglob("*.seg")):
            return True
        time.sleep(0.5)
    return False


def main() -> None:
    """Observe, soak, account."""
    events, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    bus = agentbus.connect()
    emitted = Soak(bus, events, rate, seconds).run()
    say(done=emitted)
    settled = settle(bus)
    say(settled=settled, emitted=emitted, health=bus.health())
    closed = bus.close()
    say(closed=closed, emitted=emitted, health=bus.health())


if __name__ == "__main__":
    main()
