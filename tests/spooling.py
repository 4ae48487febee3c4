"""For the tests of the spool: a sender that answers as scripted, spans to send, and an exporter that hurries."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.senders.verdict import Kind, Verdict
from otel_agentbus.telemetry.spool import SpoolingSpanExporter, pace

_RESOURCE = Resource({"service.name": "test"})


def spans(*names: str) -> list[ReadableSpan]:
    """Spans of these names."""
    return [
        ReadableSpan(
            name,
            SpanContext(trace_id=1, span_id=number, is_remote=False, trace_flags=TraceFlags(1)),
            resource=_RESOURCE,
            start_time=1,
            end_time=2,
        )
        for number, name in enumerate(names, 1)
    ]


class ScriptedSender:
    """Gives the scripted verdicts, then `default`; keeps the bytes that it was given, and those that it took."""

    name = "the endpoint"

    def __init__(self, *script: Verdict | Kind, default: Verdict | Kind = "delivered") -> None:
        self.script = deque(script)
        self.default = default
        self.given: list[bytes] = []
        self.taken: list[bytes] = []
        self.closed = False
        self.renewed = 0
        #: Cleared, it lets no send return.
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        #: Batches of more spans are too large.
        self.largest = 1_000_000

    def send(self, batch: Batch) -> Verdict:
        self.given.append(batch.data)
        self.entered.set()
        self.open.wait()
        if batch.count > self.largest:
            return Verdict("too_large", message="413")
        verdict = self.script.popleft() if self.script else self.default
        verdict = Verdict(verdict, message="scripted") if isinstance(verdict, str) else verdict
        if verdict.delivered:
            self.taken.append(batch.data)
        return verdict

    @property
    def names(self) -> list[str]:
        """The spans that were taken."""
        return [span.name for data in self.taken for span in Batch(data=data).spans]

    def shutdown(self) -> None:
        self.closed = True
        self.open.set()

    def renew(self) -> None:
        self.renewed += 1


@contextmanager
def spool(sender: Any, directory: Path | None, **options: Any) -> Iterator[SpoolingSpanExporter]:
    """An exporter that is shut down in the end."""
    exporter = SpoolingSpanExporter(sender, directory, **{"exit_timeout": 0.6, "key": "endpoint", **options})
    try:
        yield exporter
    finally:
        exporter.shutdown()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backing off takes no time."""
    monkeypatch.setattr(pace, "FIRST_S", 0.001)
    monkeypatch.setattr(pace, "LONGEST_S", 0.002)
    monkeypatch.setattr(pace, "UNAUTHORISED_S", 0.002)


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backing off does not end by itself."""
    monkeypatch.setattr(pace, "FIRST_S", 1_000.0)
    monkeypatch.setattr(pace, "LONGEST_S", 1_000.0)
