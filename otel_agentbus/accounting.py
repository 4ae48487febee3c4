"""Where money meets the bus: one price list, one ledger and one summary, all fed in the background."""

from __future__ import annotations

import sys

from .events import Event, LlmRequest, LlmResponse
from .settings import Settings
from .telemetry.ledger import Ledger
from .telemetry.pricing import PriceBook
from .telemetry.summary import Summary

#: What needs the price list.
_PRICED = frozenset((LlmRequest, LlmResponse))


class Accounting:
    """Enters every event before anything is made of it, so that spans, metrics and tables say the same."""

    def __init__(self, settings: Settings) -> None:
        self.prices = PriceBook(settings.prices)
        self.ledger = Ledger(self.prices)
        self.summary = Summary()

    def enter(self, event: Event) -> Event:
        """Give the event its account; the first model call waits here for the price list, in the background."""
        if event.__class__ in _PRICED and not self.prices.ready and not _interrupted():
            self.prices.load()
        event = self.ledger.enter(event)
        self.summary(event)
        return event

    def after_fork(self) -> None:
        """In the child: nothing of what the parent has spent."""
        self.prices.after_fork()
        self.ledger.forget()
        self.summary.forget()


def _interrupted() -> bool:
    """Whether the program is ending by Ctrl-C: importing classes now would make it exit with 1, not by the signal.

    CPython forgets an unhandled KeyboardInterrupt when a text is executed, as dataclasses do to be made.
    """
    return isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
