"""The bridges of one bus: spans and metrics are made of its events once the providers are known that take them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.trace import Tracer

from .events import Event
from .settings import Settings
from .telemetry.deployment_metrics import CommitTimes
from .telemetry.ids import Ids
from .telemetry.metrics import MetricsBridge
from .telemetry.outlet import Outlet
from .telemetry.spans import SpanBridge
from .telemetry.tracer import can_prepare, our_tracer


class Bridges:
    """Hands events to the span bridge and the metrics bridge, as far as there are any.

    `go_live` is told of a tracer that takes no ids of ours: blocks then make their spans themselves. Where a relay
    makes the spans, there is a tracer for the sampler and for what is current, and no span bridge.
    """

    def __init__(
        self,
        settings: Settings,
        outlet: Outlet,
        ids: Ids,
        *,
        go_live: Callable[[Tracer], None],
        health: Callable[[], Mapping[str, Any]],
        commit_times: CommitTimes | None,
    ) -> None:
        self._settings = settings
        self._outlet = outlet
        self._ids = ids
        self._go_live = go_live
        self._health = health
        self._commit_times = commit_times
        self._lives = False
        #: Our tracer of the provider that there is.
        self.tracer: Tracer | None = None
        self.spans: SpanBridge | None = None
        self.metrics: MetricsBridge | None = None

    def wire(self) -> None:
        """Build the bridges over the providers that there are."""
        pipeline, disabled = self._outlet.pipeline, self._settings.sdk_disabled
        if self.tracer is None and pipeline.tracer_provider is not None and not disabled:
            tracer = our_tracer(pipeline.tracer_provider)
            if not can_prepare(tracer):
                self._lives = True
                self._go_live(tracer)
            elif not self._settings.relays:
                self.spans = SpanBridge(
                    pipeline.tracer_provider,
                    conventions=self._settings.conventions,
                    aliases=self._settings.aliases,
                    capture=self._settings.capture_content,
                    id_key=self._settings.id_key.get_secret_value(),
                    grace=self._settings.grace,
                    max_open_spans=self._settings.max_open_spans,
                )
            self.tracer = tracer
        if self.metrics is None and pipeline.meter_provider is not None and not disabled:
            self.metrics = MetricsBridge(
                pipeline.meter_provider,
                conventions=self._settings.conventions,
                entered=True,
                ids=self._ids,
                health=self._health,
                commit_times=self._commit_times,
            )
        if self.metrics is not None and self._lives:
            self.metrics.exemplars.ids = None  # the ids are the tracer's own, and not known here

    def forget(self, *, rebuilt: bool) -> None:
        """In the child of a fork: the spans are the parent's, and so is what was counted."""
        self.spans = self.tracer = None
        if self.metrics is not None:
            self.metrics.forget()
        if rebuilt:
            self.metrics = None

    def span(self, event: Event) -> None:
        """Make spans of it."""
        if self.spans is not None:
            self.spans(event)

    def count(self, event: Event) -> None:
        """Count it."""
        if self.metrics is not None:
            self.metrics(event)

    def tick(self) -> None:
        """Let time pass."""
        if self.spans is not None:
            self.spans.tick()

    def end_forgotten(self) -> None:
        """Have streams tell their end that the program has left and nobody holds: frameworks' often hold themselves.

        They would be judged interrupted else. Python collects at its exit, too, when it is too late.
        """
        if self.spans is not None and self.spans.open_spans:
            gc.collect()

    def settle(self, timeout: float) -> bool:
        """Wait so many seconds for what is still being found out for the metrics."""
        return self.metrics is None or self.metrics.settle(timeout)

    def close(self) -> None:
        """Give up what the metrics have open."""
        if self.metrics is not None:
            self.metrics.close()

    def told(self) -> dict[str, int]:
        """What the span bridge says of itself, if there is one."""
        return {} if self.spans is None else self.spans.health()
