"""What went wrong in observing, counted and logged once a minute, because it must never reach the agent."""

from __future__ import annotations

import logging
import time
from collections import Counter

from ..errors import BudgetExceeded

logger = logging.getLogger("otel_agentbus.adapters")

#: Seconds between two log lines about the same thing.
QUIET = 60.0


class Losses:
    """Counts by what was lost; the first of each, and then one a minute, is logged with its traceback."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._logged: dict[str, float] = {}

    def count(self, what: str, error: BaseException | None = None) -> None:
        """One more of these."""
        self.counts[what] += 1
        now = time.monotonic()
        if now - self._logged.get(what, -QUIET) >= QUIET:
            self._logged[what] = now
            logger.warning("%s (%d so far)", what, self.counts[what], exc_info=error)


losses = Losses()


class Shielded:
    """A `with` that keeps our own failures from the program: counted and logged, never raised."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, BudgetExceeded):
            return False  # a budget that is to stop the agent is no failure of ours
        losses.count(self._what, error)
        return True
