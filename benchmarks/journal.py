"""What it costs to write every event down, what the spool costs unneeded, and emitting while the exporter is slow."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pydantic_core import to_json

import otel_agentbus as agentbus
from otel_agentbus import SpoolingSpanExporter
from otel_agentbus.events import Event, LlmResponse
from otel_agentbus.journal import SegmentJournal
from otel_agentbus.recording import Recorder
from otel_agentbus.telemetry.processor import SpoolingBatchSpanProcessor

from .table import Effort, Row, Timed, sample

NUMBER = 500
#: Beyond the JSON and the write there are the checksum, the lock, and the look whether the directory is still there.
EVENT_TARGET = 3.0
BATCH_TARGET = 3.0
SPANS = 20_000
#: Emitting must not feel what happens behind the ring.
EMIT_TARGET = 3.0


def response() -> LlmResponse:
    """The event that is written most often."""
    return LlmResponse(
        model_provider="openai",
        model="gpt-5-mini",
        response_model="gpt-5-mini",
        duration=1.5,
        success=True,
        input_tokens=120,
        output_tokens=40,
        call_id="c1",
        invocation_id="i1",
        root_invocation_id="i1",
        agent="planner",
        source="0123456789abcdef",
        seq=7,
        time_ns=1_790_000_000_000_000_000,
        trace="00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
    )


@contextmanager
def writing() -> Iterator[dict[str, Timed]]:
    """An event in the journal at once, collected and flushed, and the same JSON written without a journal."""
    with tempfile.TemporaryDirectory() as directory:
        at_once = Recorder(SegmentJournal(Path(directory, "event"), max_bytes=1 << 24, keep=True), sync="event")
        collected = Recorder(SegmentJournal(Path(directory, "batch"), max_bytes=1 << 24, keep=True), sync="batch")
        event, plain = response(), _plain(response())
        file = os.open(Path(directory, "plain"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def batch() -> None:
            for _ in range(100):
                collected(event)
            collected.flush()

        yield {
            "event": Timed(lambda: at_once(event), NUMBER),
            "batch": Timed(batch, max(NUMBER // 100, 1), per=100),
            "plain": Timed(lambda: os.write(file, to_json(plain)), NUMBER),
        }
        os.close(file)
        at_once.close()
        collected.close()


def _plain(event: Event) -> dict[str, object]:
    fields = (name for name in LlmResponse.__dataclass_fields__ if name != "event")
    return {"event": event.kind} | {name: value for name in fields if (value := getattr(event, name)) not in (None, {})}


class Slow(SpanExporter):
    """Takes its time for each batch."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.taken = 0

    def export(self, spans: object) -> SpanExportResult:
        """Take them, slowly."""
        time.sleep(self.seconds)
        self.taken += len(spans)  # type: ignore[arg-type]
        return SpanExportResult.SUCCESS


def files_while_well(spans: int) -> int:
    """How many files the spool makes for spans that the endpoint takes."""
    with tempfile.TemporaryDirectory() as directory:
        exporter = SpoolingSpanExporter(Slow(), directory)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SpoolingBatchSpanProcessor(exporter))
        tracer = provider.get_tracer("benchmark")
        for number in range(spans):
            tracer.start_span(f"span {number}").end()
            if number % 500 == 499:
                provider.force_flush(10_000)
        provider.force_flush(10_000)
        files = sum(len(names) for _, _, names in os.walk(directory))
        provider.shutdown()
        return files


def p99_emit_ns(exporter_seconds: float, calls: int) -> float:
    """What one call's block in a hundred exceeds, in a burst before an exporter that takes so long for a batch."""
    with tempfile.TemporaryDirectory() as directory:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(
            SpoolingBatchSpanProcessor(SpoolingSpanExporter(Slow(exporter_seconds), directory), 2048)
        )
        taken: list[float] = []
        with agentbus.connect(tracer_provider=provider) as bus:
            with agentbus.agent("planner") as run:
                for _ in range(calls):
                    before = time.perf_counter_ns()
                    with run.llm("gpt-5-mini", messages_count=2) as call:
                        call.record(input_tokens=120, output_tokens=40)
                    taken.append(time.perf_counter_ns() - before)
            bus.flush(60)
        provider.shutdown()
    return quantiles(taken, n=100)[-1] if len(taken) > 1 else taken[0]


def rows(effort: Effort) -> list[Row]:
    """The journal per event, the spool at rest, and the agent's own time while the exporter is slow."""
    with writing() as cases:
        taken = sample(cases, effort)
    spans = effort.of(SPANS)
    idle, slow = p99_emit_ns(0.0, spans), p99_emit_ns(0.5, spans)
    against = "its JSON and a write"
    return [
        Row("an event written by its emitter", taken["event"], against, taken["plain"], EVENT_TARGET),
        Row("an event written in batches", taken["batch"], against, taken["plain"], BATCH_TARGET),
        Row(
            "files of a spool that is not needed",
            files_while_well(effort.of(2000)),
            "spans",
            effort.of(2000),
            0.0,
            "files",
        ),
        Row("llm block, p99 in a burst, slow exporter", slow, "a fast one", idle, EMIT_TARGET, binding=False),
    ]
