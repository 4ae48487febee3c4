"""Spans written with care: what a foreign span processor does must not leave the machine that has them half-way."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry.trace import INVALID_SPAN, Span

from ..events import Event, Outcome
from .places import Place
from .runs import OpenSpan
from .writer import SpanWriter


class CarefulWriter:
    """A writer that never raises: foreign span processors may, and must not leave the state machine half-way."""

    def __init__(self, writer: SpanWriter, failed: Callable[[], None]) -> None:
        self._writer = writer
        self._failed = failed
        #: How many spans have begun and not ended, of all sources; how many have ever begun.
        self.open_spans = 0
        self.begun = 0

    @property
    def ended(self) -> int:
        """How many spans have ended that are to be exported."""
        return self._writer.ended

    @property
    def unsampled(self) -> int:
        """How many have ended that are not: left out by the sampler, or never made."""
        return self._writer.unsampled

    @property
    def elsewhere(self) -> tuple[int, int]:
        """How many have begun that others export, and how many of them have ended."""
        return self._writer.elsewhere, self._writer.elsewhere_ended

    @property
    def moments(self) -> int:
        """How many were without length."""
        return self._writer.moments

    def begin(self, place: Place, parent: Place | None, event: Event, start_ns: int) -> Span:
        """Start the span; one that fails is lost, and stands for itself until its end."""
        self.open_spans += 1
        self.begun += 1
        try:
            return self._writer.begin(place, parent, event, start_ns)
        except Exception:  # noqa: BLE001 - a foreign span processor may raise; the next span must not suffer
            self._failed()
            return INVALID_SPAN

    def moment(self, span: Span, event: Event) -> None:
        """Add what happened as an event of the span."""
        self._isolated(self._writer.moment, span, event)

    def standing_moment(self, place: Place, parent: Place | None, event: Event) -> None:
        """What happened where no span can take it."""
        self._isolated(self._writer.standing_moment, place, parent, event)

    def finish(
        self, open_: OpenSpan, end_ns: int, end: Event | None, outcome: Outcome, totals: Mapping[str, float]
    ) -> None:
        """End the span, with what its end event says."""
        self.open_spans -= 1
        try:
            self._writer.finish(open_, end_ns, end, outcome, totals)
        except Exception:  # noqa: BLE001 - as in begin
            self._failed()

    def _isolated(self, function: Callable[..., None], *args: object) -> None:
        try:
            function(*args)
        except Exception:  # noqa: BLE001 - a foreign span processor may raise; the next span must not suffer
            self._failed()
