"""A way out for spans: a processor that queues them, an exporter behind it, and the account of what became of them."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace.export import SpanExporter

from ..settings import Settings
from .export import built, otlp_target
from .processor import SpoolingBatchSpanProcessor
from .pump import remaining
from .spool import SpoolingSpanExporter
from .spool.exporter import spooling_exporter

#: What became of spans, in the order in which it is told.
FATES = ("exported", "rejected", "spooled", "dead_lettered", "waiting")


#: The share of the time at the end in which spans are tried to be delivered before what is left goes to the spool.
FLUSH_SHARE = 0.75


class Exit(NamedTuple):
    """Where spans leave: what kind of exporter, the endpoint as it may be shown, and the exporter."""

    exporter: str
    endpoint: str
    out: SpanExporter


def span_exits(settings: Settings) -> list[Exit]:
    """The exporters that the settings name for spans."""
    return [_exit(settings, name) for name in settings.exporters("traces")]


def _exit(settings: Settings, name: str) -> Exit:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        # Standard output as the specification says, the one of now and not of the SDK's import.
        return Exit("console", "stdout", ConsoleSpanExporter(out=sys.stdout))
    target = otlp_target(settings, "traces", "otlp" if name == "agentbus_spool" else name)
    return Exit("otlp", target.shown, built(target, lambda: spooling_exporter(target, settings)))


@dataclass(frozen=True, slots=True)
class SpanWay:
    """The spans of our own pipeline to one exporter."""

    exporter: str
    endpoint: str
    processor: SpoolingBatchSpanProcessor
    out: SpanExporter

    @classmethod
    def through(cls, exit_: Exit, settings: Settings, meter_provider: MeterProvider) -> SpanWay:
        """A processor as the settings say, and this exporter behind it."""
        processor = SpoolingBatchSpanProcessor(
            exit_.out,
            max_queue_size=settings.bsp_max_queue_size,
            schedule_delay_millis=settings.bsp_schedule_delay_ms,
            max_export_batch_size=min(settings.bsp_max_export_batch_size, settings.bsp_max_queue_size),
            export_timeout_millis=settings.bsp_export_timeout_ms,
            meter_provider=meter_provider,
            exit_timeout=settings.exit_timeout,
        )
        return cls(exit_.exporter, exit_.endpoint, processor, exit_.out)

    def flush(self, deadline: float) -> bool:
        """Deliver what has ended until now; whether the endpoint took it by the (monotonic) deadline."""
        return self.processor.force_flush(_millis(remaining(deadline)))

    def close(self, deadline: float) -> bool:
        """Deliver, or keep on disk, what has ended; whether the endpoint took it by the (monotonic) deadline."""
        left = remaining(deadline)
        flushed = self.processor.force_flush(_millis(min(left * FLUSH_SHARE, left - self.processor.spilling_s)))
        self.processor.shutdown(max(remaining(deadline), 0.01))
        return flushed

    def abandon(self) -> None:
        """In a forked child: forget what is the parent's, and take nothing any more; another way takes its place.

        No lock of the parent's is asked for, no thread is started or waited for, and no file or connection is ended:
        this may run before the parts of this way have heard of the fork themselves.
        """
        self.processor.abandon()
        if isinstance(self.out, SpoolingSpanExporter):
            self.out.abandon()

    def account(self) -> dict[str, Any]:
        """What became of the spans that came this way: `taken` and `adopted` (of processes that are gone) are the sum.

        `spooled` is what waits on disk now, `kept` what has ever been written there.
        """
        processor = self.processor
        told: dict[str, Any] = {"exporter": self.exporter, "endpoint": self.endpoint, "taken": processor.taken}
        dropped = Counter(processor.dropped)
        if isinstance(self.out, SpoolingSpanExporter):
            counts = self.out.counts
            dropped.update(counts.dropped)
            told.update(
                adopted=counts.adopted,
                exported=counts.delivered,
                rejected=counts.rejected,
                spooled=counts.spooled,
                kept=counts.kept,
                dead_lettered=counts.dead_lettered,
            )
        else:
            dropped["failed"] += processor.failed
            told.update(adopted=0, exported=processor.exported, rejected=0, spooled=0, kept=0, dead_lettered=0)
        told["waiting"] = processor.waiting
        told["dropped"] = {reason: count for reason, count in dropped.items() if count}
        told["balance"] = told["taken"] + told["adopted"] - sum(told[fate] for fate in FATES) - dropped.total()
        return told


def _millis(seconds: float) -> int:
    return max(1, int(seconds * 1000))
