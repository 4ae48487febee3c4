"""Spans that are made again, on their way to the endpoint: in batches, each delivered, kept in the spool, or lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ..errors import ConfigurationError
from ..settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_log = logging.getLogger("otel_agentbus.recovery")

#: What becomes of spans that are exported.
Fate = Literal["delivered", "spooled", "refused", "lost"]
#: Told how many events are done, and how many there are.
Progress = Callable[[int, int], None]
#: Spans in one export.
BATCH = 512
#: How often a progress is told, in events.
STEP = 256


def require_endpoint(settings: Settings) -> None:
    """See that spans can be sent somewhere.

    Raises:
        ConfigurationError: the settings name no exporter for them.

    """
    if settings.sdk_disabled:
        raise ConfigurationError("OTEL_SDK_DISABLED is true, so nothing can be sent: unset it.")
    if not settings.exports_traces:
        raise ConfigurationError(
            "There is nowhere to send spans to: set OTEL_EXPORTER_OTLP_ENDPOINT to the URL of your receiver, such as "
            "http://localhost:4318 (or OTEL_TRACES_EXPORTER to console)."
        )


def exporters_for(settings: Settings) -> list[SpanExporter]:
    """The exporters that the settings name for spans.

    Raises:
        ConfigurationError: they name none.

    """
    require_endpoint(settings)
    from ..telemetry.ways import span_exits

    return [found.out for found in span_exits(settings)]


class Sending:
    """Collects spans, and exports them when there is a batch of them, in the thread that `flush` is called in."""

    def __init__(self, exporters: Iterable[SpanExporter]) -> None:
        self._exporters: Sequence[SpanExporter] = tuple(exporters)
        self._batch: list[ReadableSpan] = []
        #: What became of spans that an endpoint did not take at once.
        self.spooled = self.refused = self.lost = 0

    def __call__(self, span: ReadableSpan) -> None:
        """Take one span."""
        self._batch.append(span)

    def step(self) -> None:
        """Export where there is a whole batch."""
        if len(self._batch) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Export what there is."""
        batch, self._batch = self._batch, []
        for start in range(0, len(batch), BATCH):
            spans = batch[start : start + BATCH]
            fates = {_export(exporter, spans) for exporter in self._exporters}
            if "lost" in fates:
                self.lost += len(spans)
            elif "refused" in fates:
                self.refused += len(spans)
            elif "spooled" in fates:
                self.spooled += len(spans)

    def settle(self, timeout: float) -> bool:
        """Wait so many seconds for what was kept for later; whether the endpoints have it all."""
        self.flush()
        flushed = [_quietly(exporter.force_flush, round(timeout * 1000)) for exporter in self._exporters]
        if all(flushed):
            self.spooled = 0
        return all(flushed)

    def close(self) -> None:
        """End the exporters."""
        for exporter in self._exporters:
            _quietly(exporter.shutdown)


class Ended(SpanProcessor):
    """Hands over each span that has ended and is to be exported."""

    def __init__(self, take: Callable[[ReadableSpan], None]) -> None:
        self._take = take

    def on_end(self, span: ReadableSpan) -> None:
        """Take the span, if it was sampled."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._take(span)


def listen(provider: TracerProvider, take: Callable[[ReadableSpan], None]) -> None:
    """Have each span that ends in this provider handed over."""
    provider.add_span_processor(Ended(take))


def _export(exporter: SpanExporter, spans: Sequence[ReadableSpan]) -> Fate:
    """What becomes of the spans; refused ones are kept as dead letters."""
    before = _counted(exporter)
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        if exporter.export(spans) is SpanExportResult.SUCCESS:
            return "delivered"
    except Exception:  # noqa: BLE001 - any exporter may be given; what it could not take counts as lost
        _log.warning("An exporter failed", exc_info=True)
    finally:
        detach(token)
    after = _counted(exporter)
    if before is None or after is None or after[0] > before[0]:
        return "lost"
    return "refused" if after[1] > before[1] else "spooled"


def _counted(exporter: SpanExporter) -> tuple[int, int] | None:
    """What a spooling exporter has dropped and buried so far; None of one that keeps nothing beyond this process."""
    counts = getattr(exporter, "counts", None)
    if counts is None or getattr(exporter, "directory", None) is None:
        return None
    return sum(counts.dropped.values()), counts.dead_lettered


def _quietly(function: Callable[..., object], *arguments: object) -> bool:
    try:
        return function(*arguments) is not False
    except Exception:  # noqa: BLE001 - as in _export
        _log.warning("An exporter could not be ended", exc_info=True)
        return False
