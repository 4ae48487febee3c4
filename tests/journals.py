"""What the tests of journals share: a source that writes events down and makes spans of them, and the spans' bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretBytes

from otel_agentbus import Settings, SpanBridge
from otel_agentbus.events import Event
from otel_agentbus.journal import SegmentJournal
from otel_agentbus.recording import Opening, Recorder, read_record, record_of
from otel_agentbus.recovery import opening_of
from otel_agentbus.telemetry.ledger import Ledger
from otel_agentbus.telemetry.pricing import PriceBook

#: One for all tests: loading the list takes a third of a second.
PRICES = PriceBook(None)


class Block:
    """Stands for a block of the process that emits: its span is closed by nobody else."""

    ended = False


def writer(
    directory: Path, opening: Opening | Callable[[], Opening] | None = None, *, keep: bool = True, **options: Any
) -> SegmentJournal:
    """A journal as a bus would open it."""

    def first() -> bytes:
        assert opening is not None
        return (opening() if callable(opening) else opening).write()

    return SegmentJournal(directory, opening=None if opening is None else first, keep=keep, **options)


@dataclass
class Process:
    """A process that writes its events down and makes spans of them; `die` or `finish` ends it."""

    directory: Path
    source: str = "s"
    capture: str = "NO_CONTENT"
    conventions: Any = "1.41"
    id_key: bytes = b""
    limits: SpanLimits | None = None
    resource: Resource = field(
        default_factory=lambda: Resource(
            {"service.name": "tést", "service.instance.id": "i-1", "n": [1, 2]}, "https://s"
        )
    )

    def __post_init__(self) -> None:
        PRICES.load()
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(
            resource=self.resource, shutdown_on_exit=False, span_limits=self.limits or SpanLimits(max_events=1000)
        )
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        said = Settings(conventions=self.conventions, capture_content=self.capture, id_key=SecretBytes(self.id_key))
        self.opening = opening_of(self.source, provider, said)
        self.journal = writer(self.directory, self.opening)
        self.recorder = Recorder(self.journal, "event")
        self.ledger = Ledger(PRICES)
        self.bridge = SpanBridge(
            provider, conventions=self.conventions, capture=self.capture, id_key=self.id_key, grace=2.0
        )
        self.seq = 0

    def tell(self, *events: Event) -> Process:
        """Write the events down, and make spans of them."""
        for event in events:
            event.source, event.seq = self.source, self.seq
            self.seq += 1
            self.recorder(event)
            live, by_block = read_record(record_of(event))
            if by_block:
                live.origin = getattr(event, "origin", None)
            else:
                del live.origin
            self.bridge(self.ledger.enter(live))
        return self

    def die(self) -> dict[bytes, bytes]:
        """Leave the journal as a process does that is killed; what it would have sent, had it closed."""
        self.recorder.close()
        self.bridge.close()
        return by_id(self.exporter.get_finished_spans())

    def finish(self) -> dict[bytes, bytes]:
        """Close in order."""
        self.bridge.close()
        self.recorder.finish()
        return by_id(self.exporter.get_finished_spans())


def by_id(spans: Iterable[ReadableSpan]) -> dict[bytes, bytes]:
    """The bytes of each span with its resource and scope, by its id; a span that comes twice must be the same."""
    found: dict[bytes, bytes] = {}
    for span in spans:
        assert span.context is not None
        data = encode_spans([span]).SerializeToString()
        assert found.setdefault(span.context.span_id.to_bytes(8, "big"), data) == data
    return found


class Exporter(SpanExporter):
    """Keeps what it is given, or refuses it."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.batches: list[list[ReadableSpan]] = []
        self.shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self.takes:
            return SpanExportResult.FAILURE
        self.batches.append(list(spans))
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shut_down = True

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    @property
    def spans(self) -> list[ReadableSpan]:
        return [span for batch in self.batches for span in batch]

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)


SETTINGS = Settings()
