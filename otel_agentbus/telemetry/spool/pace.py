"""When to try an endpoint again that does not take spans: exponential backoff with jitter, its own wishes obeyed."""

from __future__ import annotations

import random
import time

from ..senders.verdict import Verdict

#: Seconds after a first failure, and at most; an endpoint's Retry-After is obeyed up to its own bound.
FIRST_S, LONGEST_S, LONGEST_ASKED_S = 1.0, 60.0, 300.0
#: Seconds, at least, before credentials that were refused are tried again.
UNAUTHORISED_S = 30.0

_dice = random.SystemRandom()  # `random.seed()` in the application shall not make all processes knock at once


class Pace:
    """Whether the endpoint is thought well, and from when on it may be tried again (monotonic seconds)."""

    def __init__(self) -> None:
        self.well = True
        self.next_at = 0.0
        self._delay = 0.0

    def worked(self) -> None:
        """The endpoint has answered: go on at full speed."""
        self.well, self.next_at, self._delay = True, 0.0, 0.0

    def failed(self, verdict: Verdict) -> float:
        """The endpoint does not take anything now; the seconds until it is tried again."""
        self._delay = min(max(2 * self._delay, FIRST_S), LONGEST_S)
        wait = self._delay * _dice.uniform(0.75, 1.25)
        if verdict.kind == "unauthorised":
            wait = max(wait, UNAUTHORISED_S)
        if verdict.retry_after is not None:
            wait = max(wait, min(verdict.retry_after, LONGEST_ASKED_S))
        self.well, self.next_at = False, time.monotonic() + wait
        return wait

    def hurry(self) -> None:
        """Try once now, whatever was said before."""
        self.next_at = 0.0
