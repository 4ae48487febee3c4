"""What has become of the spans that a spool was given: every one of them is in exactly one of these numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What became of the spans of one batch that no longer wait."""

    delivered: int = 0
    #: Taken by the endpoint and refused one by one (partial success).
    rejected: int = 0
    dead_lettered: int = 0
    #: Neither taken nor written down: the file of dead letters could not be written.
    unburied: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.delivered + self.rejected + self.dead_lettered + self.unburied

    def within(self, items: int) -> Tally:
        """The same for at most so many spans: the others are accounted for elsewhere."""
        delivered = min(self.delivered, items)
        rejected = min(self.rejected, items - delivered)
        dead_lettered = min(self.dead_lettered, items - delivered - rejected)
        unburied = min(self.unburied, items - delivered - rejected - dead_lettered)
        return Tally(delivered, rejected, dead_lettered, unburied)


@dataclass(slots=True)
class SpoolCounts:
    """Spans by what has become of them; a copy, consistent at the moment it was taken."""

    #: Given to `export()` and `spill()` by this process.
    taken: int = 0
    #: Taken over from processes that died.
    adopted: int = 0
    delivered: int = 0
    #: The endpoint answered with success, and that it did not take them.
    rejected: int = 0
    #: Refused for good; they are in the file of dead letters.
    dead_lettered: int = 0
    #: Lost, by reason: spool_full, spool_age, spool_removed, spool_error, spool_off, dead_letter_failed …
    dropped: Counter[str] = field(default_factory=Counter)
    #: Ever written down, of those taken.
    kept: int = 0
    #: On disk now, of this process and of those it took over from.
    spooled: int = 0
    #: In a thread that is sending or storing them right now.
    in_flight: int = 0
    #: Of those delivered, how many came from the spool.
    resent: int = 0
    #: Of those dead-lettered, how many had to go since, because that file is bounded.
    dead_letters_lost: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every span is accounted for; so it is at every moment."""
        gone = self.delivered + self.rejected + self.dead_lettered + self.dropped.total()
        return self.taken + self.adopted == gone + self.spooled + self.in_flight
