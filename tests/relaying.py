"""What the tests of the relay's trees share: a stream and a store in memory, and a worker that dies now and then."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from otel_agentbus import Settings
from otel_agentbus.events import Event
from otel_agentbus.journal.redis import Entry, Kept
from otel_agentbus.recording import Opening
from otel_agentbus.recording.records import record_of
from otel_agentbus.relay.makers import Makers
from otel_agentbus.relay.trees import Known, Trees

from .bridging import T0

RESOURCE = {"service.name": "test"}
#: The stream's clock is not the sources'.
SHIFT_MS = 5_000_000


def opening(source: str) -> bytes:
    """The opening of any source of these tests."""
    return Opening(source=source, resource=RESOURCE, sampler="AlwaysOnSampler", grace=2.0).write()


def key_of(event: Event) -> str:
    """The tree of an event, as a feed says it."""
    found = event.root_invocation_id or event.parent_invocation_id or event.invocation_id
    return found or getattr(event, "deploy_id", None) or f"@{event.source}"


def stream_of(events: Iterable[Event], delay_ms: int = 20) -> list[Entry]:
    """A stream in which each event came a little after it had happened; never before the one before it."""
    entries: list[Entry] = []
    last, number = 0, 0
    for event in events:
        ms = max(last, ((event.time_ns or 0) - T0) // 1_000_000 + SHIFT_MS + delay_ms)
        number = number + 1 if ms == last else 0
        last = ms
        entries.append(Entry(f"{ms}-{number}", key_of(event), event.source or "", record_of(event)))
    return entries


@dataclass
class Shelf:
    """A shard's store: what acknowledgements have kept."""

    trees: dict[str, list[Entry]] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    seqs: dict[str, int] = field(default_factory=dict)
    position: int = 0

    def known(self, keys: Collection[str]) -> Mapping[str, Known]:
        return {key: Known(list(self.trees.get(key, ())), key in self.over) for key in keys}

    def marks(self, sources: Collection[str]) -> Mapping[str, int]:
        return {source: self.seqs[source] for source in sources if source in self.seqs}

    def idle(self, before_ms: int) -> list[str]:
        return sorted(key for key, ms in self.heard.items() if ms <= before_ms)

    def ack(self, position: int, kept: Kept) -> None:
        assert position >= self.position
        for key in (*kept.over, *kept.dropped):
            self.trees.pop(key, None)
            self.heard.pop(key, None)
        self.over |= set(kept.over)
        for key, entries in kept.grown.items():
            self.trees.setdefault(key, []).extend(entries)
        self.heard.update(kept.heard)
        self.seqs.update(kept.marks)
        self.position = position


@dataclass
class Worker:
    """Reads a stream in batches, and sends each batch's spans before it acknowledges it."""

    stream: list[Entry]
    shelf: Shelf = field(default_factory=Shelf)
    settings: Settings = field(default_factory=Settings)
    sent: list[ReadableSpan] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As a new worker does: with nothing but the store."""
        self.makers = Makers(self.settings, opening)
        self.trees = Trees(self.shelf, self.makers, round(self.settings.run_ttl * 1000))
        self.at = self.shelf.position

    def read(self, most: int) -> bool:
        """Take so many entries; whether there were any."""
        entries = self.stream[self.at : self.at + most]
        self.trees.prepare(entries)
        for entry in entries:
            self.trees.feed(entry)
        self.at += len(entries)
        return bool(entries)

    def wait_until(self, now_ms: int) -> None:
        """Nothing more is there, and it is so late."""
        self.trees.judge(now_ms)
        self.trees.look_at(self.shelf.idle(now_ms - round(self.settings.run_ttl * 1000)), now_ms)

    def send(self) -> None:
        self.sent += self.makers.taken()

    def ack(self) -> None:
        self.shelf.ack(self.at, copy.deepcopy(self.trees.kept()))
        self.trees.acked()
        self.counts += self.trees.counts
        self.trees.counts.clear()

    def turn(self, most: int = 1000) -> bool:
        some = self.read(most)
        self.send()
        self.ack()
        return some

    def all(self, most: int = 1000) -> Worker:
        """Everything that is there; then it gets so late that nothing waits for its grace any more."""
        while self.turn(most):
            pass
        self.later(60)
        return self

    def later(self, seconds: float) -> None:
        """Nothing comes for so long."""
        last_ms = self.stream[self.at - 1].ms if self.at else 0
        self.wait_until(last_ms + round(seconds * 1000))
        self.send()
        self.ack()

    def spans(self) -> dict[bytes, bytes]:
        """What was sent, each by its id; a span that was sent twice must have been the same bytes."""
        return encoded(self.sent)


def encoded(spans: Iterable[ReadableSpan]) -> dict[bytes, bytes]:
    """The OTLP bytes of each span, by its id."""
    found: dict[bytes, bytes] = {}
    for span in spans:
        assert span.context is not None
        key = span.context.span_id.to_bytes(8)
        data: bytes = encode_spans([span]).SerializeToString(deterministic=True)
        assert found.setdefault(key, data) == data, f"one span, two contents: {span.name}"
    return found
