"""One source's events told again: priced, put in order and made into spans, as its own process did it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from opentelemetry.sdk.trace import ReadableSpan

from ..events import Event, LlmRequest, LlmResponse
from ..recording import Recorded, Told, key_hash
from ..settings import Settings
from ..telemetry.ledger import Ledger
from ..telemetry.ordering import Ordering
from ..telemetry.pricing import PriceBook
from ..telemetry.spans import SpanBridge
from .origin import flavour_of, provider_of
from .sending import listen

_log = logging.getLogger("otel_agentbus.recovery")

_PRICED = frozenset((LlmRequest, LlmResponse))


class _Inside:
    """The block that had emitted an event: its end is in the journal, or the process never reached it."""

    ended = False


_INSIDE = _Inside()


class Retelling:
    """Makes the spans of one source again, and hands each that ends to `take`.

    Content is not looked at again: what the journal has is what was allowed. `also` gets each event, priced.
    """

    def __init__(
        self,
        source: Recorded,
        settings: Settings,
        prices: PriceBook,
        take: Callable[[ReadableSpan], None],
        also: Callable[[Event], None] | None = None,
    ) -> None:
        self.source = source
        opening = source.opening
        id_key = settings.id_key.get_secret_value()
        _check(source, id_key)
        self._provider = provider_of(opening, settings)
        listen(self._provider, take)
        self._prices = prices
        self._ledger = Ledger(prices)
        self._also = also
        #: The bridge gives up a gap after a time of the clock, which says nothing here: so no gap may reach it that
        #: the events behind it would fill.
        self._ordering = Ordering()
        self._bridge = SpanBridge(
            self._provider,
            conventions=flavour_of(opening, settings),
            aliases=settings.aliases,
            capture=settings.capture_content if opening is None else opening.capture,
            id_key=id_key,
            grace=settings.grace if opening is None or opening.grace < 0 else opening.grace,
            max_open_spans=(opening and opening.max_open_spans) or settings.max_open_spans,
        )
        #: How many events were told.
        self.events = 0

    def __call__(self, told: Told) -> None:
        """Tell the next event."""
        self.events += 1
        event = told.event
        if told.by_block:
            event.origin = _INSIDE
        else:
            del event.origin
        if event.__class__ in _PRICED and not self._prices.ready:
            self._prices.load()
        event = self._ledger.enter(event)
        if self._also is not None:
            self._also(event)
        self._hand_over(self._ordering.push(event, 0))

    def _hand_over(self, events: Iterable[Event]) -> None:
        for event in events:
            self._bridge(event)

    def flush(self) -> None:
        """Tell what waits behind a gap; what is open stays open."""
        self._hand_over(self._ordering.drain())
        self._bridge.flush()

    def close(self) -> None:
        """Nothing more will come: what is open was interrupted when it was last heard of."""
        self.flush()
        self._bridge.close()

    def interrupt(self, root: str) -> None:
        """Nothing more is to come of this tree: what is open in it was interrupted when it was last heard of."""
        self._bridge.interrupt(root)

    def release(self) -> None:
        """End the provider; it has nothing left to send."""
        self._provider.shutdown()

    def counts(self) -> dict[str, int]:
        """What was left out and why, and what is open."""
        return self._bridge.health()


def _check(source: Recorded, id_key: bytes) -> None:
    """Say what makes the spans of this source differ from those that its process has sent."""
    opening = source.opening
    if opening is None:
        _log.warning("%s has no opening: its spans say that they are this process's", source.name)
    elif opening.id_key_hash != key_hash(id_key):
        _log.warning(
            "%s (process %d on %s) derived its ids with another AGENTBUS_ID_KEY than this process has: its spans get "
            "other ids than those that were sent already. Set the key that it had.",
            opening.source,
            opening.pid,
            opening.host,
        )


def tree_of(event: Event) -> str | None:
    """The root of the tree that an event belongs to, as far as the event itself tells."""
    return event.root_invocation_id or event.parent_invocation_id or event.invocation_id
