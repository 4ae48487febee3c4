"""The programs that the relay's benchmark runs as processes: agents that emit, an endpoint, a worker with a clock.

python -m benchmarks.relay_programs emit RUNS RATE | receive | phases URL; each says a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from statistics import quantiles
from typing import Any

import otel_agentbus as agentbus

#: Events and spans of one run, below.
EVENTS, SPANS = 18, 9
#: Runs before the measured ones, and after how many of these it is waited for the background.
WARM, FLUSHED = 20, 50
#: Seconds between the two, where the rate is steady: for whoever reads to be warm, too.
SETTLED_S = 2.0


def run(number: int) -> None:
    """A planner that asks its model, searches, and asks a researcher, which asks another model."""
    with agentbus.agent("planner", provider="openai", model="gpt-5-mini") as planner:
        for turn in range(3):
            with planner.llm(messages_count=2 * turn + 1, parameters={"temperature": 0.2, "max_tokens": 500}) as call:
                call.record(
                    response_model="gpt-5-mini-2026",
                    response_id=f"r{number}-{turn}",
                    finish_reasons=["stop"],
                    input_tokens=1200,
                    output_tokens=140,
                    cache_read_input_tokens=200,
                )
        with planner.tool("search", tool_call_id=f"c{number}"):
            pass
        with planner.tool("ask", tool_call_id=f"a{number}"), agentbus.agent("researcher", provider="openai") as other:
            for turn in range(2):
                with other.llm("gpt-5", messages_count=turn + 1) as call:
                    call.record(response_model="gpt-5", input_tokens=900, output_tokens=100)


def emit(runs: int, rate: float) -> None:
    """So many runs, at so many events a second; a rate of 0 is as fast as the background works them off."""
    bus = agentbus.connect()
    for number in range(WARM):
        run(number)
    bus.flush(30)
    if rate:
        time.sleep(SETTLED_S)
    print(json.dumps({"warm": True}), flush=True)
    cpu, began = time.process_time(), time.perf_counter()
    for number in range(runs):
        if rate:
            time.sleep(max(began + number * EVENTS / rate - time.perf_counter(), 0.0))
        elif number % FLUSHED == 0:
            bus.flush(30)
        run(WARM + number)
    bus.flush(60)
    said = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - began, "events": runs * EVENTS}
    said["lost"] = sum((bus.health().get("broker") or {}).get("dropped", {}).values())
    bus.close()
    print(json.dumps(said), flush=True)


class Endpoint:
    """Takes OTLP over HTTP, and does nothing with it; between /begin and /end it notes when each span came."""

    def __init__(self) -> None:
        self._notes: list[tuple[int, bytes]] | None = None

    async def serve(self) -> None:
        """Say the port, then serve until the process is ended."""
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await server.serve_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
                answer = self._answer(head.split(b" ", 2)[1], await reader.readexactly(int(length or 0)))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
                await writer.drain()
        writer.close()

    def _answer(self, path: bytes, body: bytes) -> bytes:
        if path == b"/begin":
            self._notes = []
        elif path == b"/end":
            notes, self._notes = self._notes or [], None
            return json.dumps(_late_ms(notes)).encode()
        elif self._notes is not None:
            self._notes.append((time.time_ns(), body))
        return b""


def _late_ms(notes: list[tuple[int, bytes]]) -> list[float]:
    """How many milliseconds after its end each span came."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    found: list[float] = []
    for at_ns, body in notes:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in of_resource.scope_spans:
                found += ((at_ns - span.end_time_unix_nano) / 1e6 for span in of_scope.spans)
    return found


class Phases:
    """CPU seconds of this thread by phase; what a phase calls that is a phase, too, is counted there alone."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = defaultdict(float)
        self._now = ["outside"]
        self._since = time.thread_time()

    def of(self, where: Any, name: str, phase: str) -> None:
        """Have this function or method counted as this phase."""
        function: Callable[..., Any] = getattr(where, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self._turn()
            self._now.append(phase)
            try:
                return function(*arguments, **named)
            finally:
                self._turn()
                self._now.pop()

        setattr(where, name, counted)

    def _turn(self) -> None:
        now = time.thread_time()
        self.taken[self._now[-1]] += now - self._since
        self._since = now


def phases(url: str) -> None:
    """Work off what is in the broker, and say where the time went."""
    from otel_agentbus import Settings
    from otel_agentbus.journal.redis import Lease
    from otel_agentbus.relay import relay, trees
    from otel_agentbus.relay.exporting import Outlet
    from otel_agentbus.relay.worker import Worker
    from otel_agentbus.telemetry import otlp

    clock = Phases()
    for where, name, phase in (
        (Worker, "run", "the rest"),
        (Lease, "read", "read"),
        (trees.Trees, "prepare", "ask the store"),
        (trees, "read_record", "parse"),
        (trees.Trees, "feed", "apply"),
        (Outlet, "deliver", "send"),
        (otlp, "encoded", "encode"),
        (Lease, "ack", "acknowledge"),
    ):
        clock.of(where, name, phase)
    done = relay(url, settings=Settings(), until_empty=True)
    del clock.taken["outside"]
    print(json.dumps({"events": done.events, "cpu": clock.taken}), flush=True)


def p50_p99(values: list[float]) -> tuple[float, float]:
    """The median, and what one value in a hundred exceeds."""
    cuts = quantiles(values, n=100)
    return cuts[49], cuts[98]


def main(arguments: list[str]) -> None:
    """One of the programs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the benchmark, which then ends its processes
    if arguments[0] == "emit":
        emit(int(arguments[1]), float(arguments[2]))
    elif arguments[0] == "receive":
        asyncio.run(Endpoint().serve())
    else:
        phases(arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
