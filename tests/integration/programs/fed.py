"""The troupe, or one paused run, of a process that makes no spans: its events go to a broker.

    python -m tests.integration.programs.fed URL NAME RUNS TELLING

RUNS runs in each of the troupe's threads. Where RUNS is "paused", one run begins, tells "paused" on standard output,
goes on when there is a line on standard input, and ends.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import otel_agentbus as agentbus
from otel_agentbus import Bus, Settings
from otel_agentbus.feeding import Feed
from otel_agentbus.recovery import opening_of

from .troupe import THREADS, Troupe


def paused(name: str) -> None:
    """A run with a tool that takes its time, and an agent in the tool."""
    with agentbus.agent("planner", invocation_id=name, model="m") as planner, planner.tool("wait", tool_call_id="t"):
        with agentbus.agent("early", invocation_id=f"{name}/early"):
            pass
        print("paused", flush=True)
        sys.stdin.readline()
        with agentbus.agent("late", invocation_id=f"{name}/late") as late, late.llm(call_id="c", model="m") as call:
            call.record(input_tokens=12, output_tokens=3)


def feed_of(bus: Bus, url: str) -> Feed:
    """The way to the broker, of a process that says of itself what an exporting one does."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    settings = Settings(broker=url)
    provider = TracerProvider(resource=Resource({"service.name": "fed"}), shutdown_on_exit=False)
    feed = Feed(settings, lambda: opening_of(bus.source, provider, settings))
    feed.start()
    bus.subscribe(feed)
    return feed


def main() -> None:
    """Emit; the events are in the broker when it ends with 0."""
    url, name, runs = sys.argv[1:4]
    bus = agentbus.connect()
    feed = feed_of(bus, url)
    if runs == "paused":
        paused(name)
    else:
        troupe = Troupe(name, os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT))
        troupe.tell("ready")
        with ThreadPoolExecutor(THREADS) as threads:
            for done in [threads.submit(troupe.work, thread, int(runs)) for thread in range(THREADS)]:
                done.result()
        troupe.tell("last")
    bus.flush()
    written = feed.close(time.monotonic() + 30)
    sys.exit(0 if written else 1)


if __name__ == "__main__":
    main()
