"""What becomes of a failing or slow handler: counted, logged at most once a minute, passed on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from otel_agentbus.delivery import Tally
from otel_agentbus.events import Event

if TYPE_CHECKING:
    from .subscription import Subscription

#: Hears every failure of a handler.
OnError = Callable[["Subscription", Event, BaseException], object]

logger = logging.getLogger("otel_agentbus.router")


class Throttle:
    """Lets one line a minute through, and counts the others."""

    INTERVAL_NS = 60 * 10**9

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._held_back = 0

    def admit(self, now_ns: int) -> int | None:
        """How many lines were held back since the last one; None if this one is to be held back too."""
        if self._last_ns is not None and now_ns - self._last_ns < self.INTERVAL_NS:
            self._held_back += 1
            return None
        self._last_ns = now_ns
        held_back, self._held_back = self._held_back, 0
        return held_back


class Failures:
    """Counts, logs and passes on what goes wrong in handlers, and never fails itself."""

    def __init__(self, on_error: OnError | None, clock: Callable[[], int]) -> None:
        self.count = Tally()
        self.slow = Tally()
        self._on_error = on_error
        self._clock = clock
        self._here = threading.local()

    def report(self, subscription: Subscription, event: object, error: BaseException) -> None:
        """A call of this subscription's handler, or of its `where`, raised."""
        subscription.failed.add()
        self.count.add()
        if getattr(self._here, "reporting", False):
            return  # a log handler or `on_error` emitted: its failures are only counted, or there would be no end
        self._here.reporting = True
        try:
            self._log(subscription, event, error)
            if self._on_error is not None:
                self._on_error(subscription, cast("Event", event), error)
        except Exception:  # noqa: BLE001 - isolation: who hears of failures may fail too
            self.count.add()
        finally:
            self._here.reporting = False

    def report_slow(self, subscription: Subscription, event: object, took_ns: int) -> None:
        """An emit was slow, mostly for this subscription's handler."""
        self.slow.add()
        if subscription.slow_log.admit(self._clock()) is None:
            return
        where = f"in {subscription.name}"
        if not subscription.name.startswith("otel_agentbus."):  # ours is what it is
            where += ': deliver="thread" keeps it off the agent\'s path'
        if subscription.deliver != "inline":
            where = f"in waking up {subscription.name}"
        try:
            logger.warning("emit of %s took %.1f ms, most of it %s", type(event).__name__, took_ns / 1e6, where)
        except Exception:  # noqa: BLE001 - isolation: a filter of the log may fail
            self.count.add()

    def _log(self, subscription: Subscription, event: object, error: BaseException) -> None:
        held_back = subscription.failure_log.admit(self._clock())
        if held_back is not None:
            more = f" ({held_back} failures since the last line)" if held_back else ""
            logger.error("%s failed on %s%s", subscription.name, type(event).__name__, more, exc_info=error)
