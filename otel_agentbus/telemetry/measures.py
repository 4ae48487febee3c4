"""How one measurement is taken: checked, recorded in the context of its span, or discarded and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from . import instruments, names
from .attributes import number
from .series import Instruments

#: No call and no run lasts longer; a larger number is in another unit.
MAX_SECONDS = 366 * 86_400.0


class Measures:
    """Takes measurements, and counts those that cannot be true."""

    def __init__(self, made: Instruments) -> None:
        self._discarded = made.counter(instruments.DISCARDED, names.REASON)
        self._none = made.dimensions().of()

    def seconds(
        self, histograms: Sequence[Histogram], value: object, attributes: Mapping[str, str], context: Context
    ) -> None:
        """Record a duration, if it can be one."""
        seconds = number(value)
        if seconds is None or not 0 <= seconds <= MAX_SECONDS:
            self.discard("invalid")
            return
        for histogram in histograms:
            histogram.record(seconds, attributes, context)

    def discard(self, reason: str, measurements: int = 1) -> None:
        """Count what was not recorded."""
        self._discarded.add(self._none, measurements, reason)


def elapsed(start_ns: int | None, end_ns: int | None) -> float | None:
    """The seconds between two times; None where one is not known, or the clock was set back."""
    if start_ns is None or end_ns is None or end_ns < start_ns:
        return None
    return (end_ns - start_ns) / 1e9
