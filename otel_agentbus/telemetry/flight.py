"""A batch on its way from the processor to an exporter with a spool, to which it may be given twice at the end."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.sdk.trace import ReadableSpan


class Flight(list[ReadableSpan]):
    """Spans that are exported, and spilled where the time runs out meanwhile; whoever claims them takes them."""

    def __init__(self, spans: Iterable[ReadableSpan] = ()) -> None:
        super().__init__(spans)
        self._unclaimed = [True]

    def claim(self) -> bool:
        """Whether nobody was quicker; also of two threads only one is told so."""
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False
