"""What the spans of each source are made with: its resource, limits and conventions, as its opening tells them."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan

from ..recording import Opening, key_hash
from ..recovery.origin import flavour_of, provider_of
from ..recovery.sending import listen
from ..settings import Settings
from ..telemetry.aliases import conventions_of
from ..telemetry.careful import CarefulWriter
from ..telemetry.ids import Ids
from ..telemetry.tracer import our_tracer
from ..telemetry.writer import SpanWriter

_log = logging.getLogger("otel_agentbus.relay")

#: How many sources' makers are kept at hand: processes come and go.
MAKERS = 512
#: How many decisions and parents each of them remembers: far fewer than a process does that has them for itself.
REMEMBERED = 128
#: Seconds after which an opening that was not there is asked for again.
AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the spans of one source as its own process would."""

    source: str
    opening: Opening | None
    writer: CarefulWriter
    grace_ns: int
    made_at: float = field(default_factory=time.monotonic)


class Makers:
    """The makers of a worker, those that were needed last; spans that end are collected here.

    Args:
        settings: what holds where an opening says nothing.
        openings: gives the opening of a source, None where there is none.

    """

    def __init__(self, settings: Settings, openings: Callable[[str], bytes | None]) -> None:
        self._settings = settings
        self._openings = openings
        self._ids = Ids(settings.id_key.get_secret_value())  # it remembers many: one for all
        self._key_hash = key_hash(settings.id_key.get_secret_value())
        self._strange: set[str] = set()
        self._made: OrderedDict[str, Maker] = OrderedDict()
        #: The spans that have ended and are to be exported, until somebody takes them.
        self.spans: list[ReadableSpan] = []
        #: How often something could not be made into a span.
        self.failures = 0

    def __len__(self) -> int:
        """How many are at hand."""
        return len(self._made)

    def of(self, source: str) -> Maker:
        """The maker of this source's spans."""
        maker = self._made.get(source)
        if maker is None or (maker.opening is None and time.monotonic() > maker.made_at + AGAIN_S):
            maker = self._made[source] = self._make(source)
            if len(self._made) > MAKERS:
                self._made.popitem(last=False)
        elif len(self._made) > 1:
            self._made.move_to_end(source)
        return maker

    def taken(self) -> list[ReadableSpan]:
        """The spans that have ended since this was asked for the last time."""
        spans = self.spans[:]
        self.spans.clear()
        return spans

    def failed(self) -> None:
        """Count what could not be made into a span, and log some of it; called where it is being handled."""
        self.failures += 1
        if self.failures in (1, 10, 100, 1000):
            _log.exception("An event could not be made into a span (%d so far)", self.failures)

    def _make(self, source: str) -> Maker:
        opening, settings = Opening.read(self._openings(source)), self._settings
        self._check(source, opening)
        provider = provider_of(opening, settings)
        listen(provider, self.spans.append)
        capture = settings.capture_content if opening is None else opening.capture
        conventions = conventions_of(flavour_of(opening, settings), settings.aliases)
        writer = SpanWriter(our_tracer(provider), self._ids, conventions, capture, REMEMBERED)
        grace = settings.grace if opening is None or opening.grace < 0 else opening.grace
        return Maker(source, opening, CarefulWriter(writer, self.failed), round(grace * 1e9))

    def _check(self, source: str, opening: Opening | None) -> None:
        """Say once what makes spans differ from those that their own process would make."""
        if opening is None:
            if "" not in self._strange:
                self._strange.add("")
                _log.warning("%s has no opening: its spans say that they are this process's", source)
        elif opening.id_key_hash != self._key_hash and opening.id_key_hash not in self._strange:
            self._strange.add(opening.id_key_hash)
            _log.warning(
                "%s (process %d on %s) derives its ids with another AGENTBUS_ID_KEY than this relay has: what its "
                "blocks have handed to other processes will not be found. Set the key that it has.",
                opening.source,
                opening.pid,
                opening.host,
            )
