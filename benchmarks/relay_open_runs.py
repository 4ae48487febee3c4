"""What open runs cost the relay: memory of a worker and of Redis, taking over, and ending one that is open for long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall, ToolCallStart
from otel_agentbus.recording import Opening, record_of

from .relay_house import House, wait_for
from .table import Row

SOURCE = "0123456789abcdef"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-03"
#: Runs that are written at once; those that are ended one by one, and then those that are ended together.
AT_ONCE, ENDED, TOGETHER = 250, 25, 1000


class OpenRuns:
    """Runs that wait for a tool: each has begun, asked its model, and called it."""

    def __init__(self, house: House) -> None:
        self._journal = house.journal()
        self._seq = 0
        self._house = house
        house.journal().introduce(SOURCE, Opening(source=SOURCE, grace=2.0).write())
        #: How many bytes all records have.
        self.size = 0

    def begin(self, first: int, end: int) -> None:
        """The runs of these numbers begin, and no faster than the worker works them off."""
        for start in range(first, end, AT_ONCE):
            self._write([event for run in range(start, min(start + AT_ONCE, end)) for event in self._open(run)])
            wait_for(lambda: self._house.waiting() < 20_000)
        wait_for(lambda: not self._house.waiting())

    def end_all(self, runs: Sequence[int]) -> float:
        """The CPU microseconds of the worker for each of these runs, which end now."""
        before = self._house.cpu()
        self._write([event for run in runs for event in self._ended(run)])
        wait_for(lambda: not self._house.waiting())
        return (self._house.cpu() - before).workers / len(runs) * 1e6

    def end(self, run: int) -> float:
        """The milliseconds until the spans are exported of a run that ends now."""
        self._house.begin()
        self._write([*self._ended(run)])
        wait_for(lambda: not self._house.waiting(), pause=0.002)
        return self._house.late_ms()[-1]  # its agent's, which ends at the time of its event

    def _open(self, run: int) -> Iterator[Event]:
        told = _envelope(run)
        model: dict[str, Any] = {"model_provider": "openai", "model": "gpt-5-mini"}
        yield AgentStart(**told, **model)
        yield LlmRequest(**told, **model, messages_count=2, call_id="c")
        yield LlmResponse(
            **told, **model, duration=0.5, success=True, input_tokens=1200, output_tokens=140, call_id="c"
        )
        yield ToolCallStart(**told, tool="approval", tool_call_id="t")

    def _ended(self, run: int) -> Iterator[Event]:
        told = _envelope(run)
        yield ToolCall(**told, tool="approval", tool_call_id="t", duration=60.0, success=True)
        yield AgentEnd(**told)

    def _write(self, events: Sequence[Event]) -> None:
        for event in events:
            self._seq += 1
            event.source, event.seq, event.time_ns = SOURCE, self._seq, time.time_ns()
        datas = [record_of(event) for event in events]
        self.size += sum(map(len, datas))
        self._journal.append_many(datas, [event.root_invocation_id or "" for event in events], [SOURCE] * len(datas))


def _envelope(run: int) -> dict[str, Any]:
    name = f"run-{run}"
    return {"invocation_id": name, "root_invocation_id": name, "agent": "planner", "trace": TRACE}


def rows(house: House, most: int) -> Iterator[Row]:
    """All of it, with up to so many open runs."""
    house.clear()
    house.hire(1)
    runs, empty = OpenRuns(house), house.memory()
    fresh_rss, at_first_ms = house.workers[0].rss(), 0.0
    open_runs = 0
    for many in sorted({max(most // 100, 1), max(most // 10, 1), max(most // 2, 1), most}):
        runs.begin(open_runs, many)
        open_runs = many
        rss = house.workers[0].rss()
        yield Row(f"memory of a worker, {many:,} open runs", rss / 1e6, "with none", fresh_rss / 1e6, unit="MB")
        at_first_ms = at_first_ms or _taken_over_ms(house)
    size = (house.memory() - empty) / most
    yield Row("memory of Redis, an open run", size, "its records", runs.size / most, unit="B")
    taken_ms = _taken_over_ms(house)
    few = f"with {max(most // 100, 1):,}"
    yield Row(f"taking over all shards, {most:,} open runs", taken_ms, few, at_first_ms, unit="ms")
    ended = min(most, ENDED + TOGETHER)
    runs.begin(most, most + ended)
    old, new = range(ended), range(most, most + ended)
    late_ms = [median(runs.end(run) for run in those[:ENDED]) for those in (old, new)]
    yield Row("emit to export, end of an old run", late_ms[0], "of a new one", late_ms[1], unit="ms")
    cpu_us = [runs.end_all(those[ENDED:] or those[:1]) for those in (old, new)]
    yield Row("CPU of a worker, end of an old run", cpu_us[0], "of a new one", cpu_us[1], unit="us")
    house.dismiss()


def _taken_over_ms(house: House) -> float:
    """The milliseconds from the death of a worker until the next one, which waits already, has its shards."""
    house.hire(1)
    first, second = house.workers
    began = time.perf_counter()
    first.kill()
    wait_for(lambda: all(f":{second.popen.pid}:" in (owner or "") for owner in house.owners()))
    house.workers.remove(first)
    return (time.perf_counter() - began) * 1000
