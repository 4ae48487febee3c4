"""Exporters of spans that answer as told and remember what they were given, and spans to give them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, get_value
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.util.types import AttributeValue

NOWHERE = Resource.get_empty()
SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


def ended(name: str | int, *, sampled: bool = True, **attributes: AttributeValue) -> ReadableSpan:
    """A span that has ended."""
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(int(sampled)))
    return ReadableSpan(str(name), context, resource=NOWHERE, attributes=attributes, start_time=1, end_time=2)


class Scripted(SpanExporter):
    """Takes what it is given, unless told otherwise; `hanging()` makes each call wait."""

    def __init__(self, answer: SpanExportResult | Exception | None = SUCCESS, flushed: bool | None = None) -> None:
        self.answer = answer
        self.flushed = flushed
        #: The names of the spans, by call; what was exported with SUCCESS; the calls in their order.
        self.batches: list[list[str]] = []
        self.delivered: list[str] = []
        self.calls: list[str] = []
        self.suppressed: set[object] = set()
        self.threads: set[threading.Thread] = set()
        self.entered = threading.Event()
        self._free = threading.Event()
        self._free.set()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.suppressed.add(get_value(_SUPPRESS_INSTRUMENTATION_KEY))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait while hanging, then answer."""
        self._note("export")
        self.threads.add(threading.current_thread())
        names = [span.name for span in spans]
        self.batches.append(names)
        self.entered.set()
        self._free.wait(30)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is SUCCESS:
            self.delivered += names
        return self.answer  # type: ignore[return-value]  # None, too: there are such exporters

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """What `flushed` says."""
        self._note("force_flush")
        return self.flushed  # type: ignore[return-value]  # None is what the SDK's own base class answers

    def shutdown(self) -> None:
        """Nothing ends here."""
        self._note("shutdown")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Meanwhile no export comes back."""
        self.hang()
        try:
            yield
        finally:
            self.release()

    def hang(self) -> None:
        """From now on no export comes back."""
        self._free.clear()
        self.entered.clear()

    def release(self) -> None:
        """All exports come back."""
        self._free.set()


class Spooling(Scripted):
    """One with a spool."""

    def __init__(self, answer: SpanExportResult | Exception | None = SUCCESS, flushed: bool | None = None) -> None:
        super().__init__(answer, flushed)
        self.spilled: list[list[str]] = []
        self.spilling: Exception | None = None

    def spill(self, spans: Sequence[ReadableSpan]) -> int:
        """Keep them."""
        self._note("spill")
        if self.spilling is not None:
            raise self.spilling
        self.spilled.append([span.name for span in spans])
        return 0

    def sync(self) -> None:
        """Nothing is on a disk."""
        self._note("sync")

    @property
    def kept(self) -> list[str]:
        """The names of what was spilled, in order."""
        return [name for chunk in self.spilled for name in chunk]
