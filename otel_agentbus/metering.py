"""What was spent of one budget, added up exactly, by run or by window."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from .spending import EXACT, Budget, Limit, Where, exact

#: So many scopes of one budget are kept; beyond it those that are over go first, then those idle longest.
SCOPES = 10_000
#: How long a run that is over is still shown.
LINGER_NS = 300_000_000_000

#: So many shares that are not true any more are kept, or gone through one by one, before all are.
SPARE = 200

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Reached(NamedTuple):
    """A threshold that was reached by one call."""

    scope: Scope
    threshold: float
    limit: Limit
    spent: float
    unpriced_calls: int


#: A root's id, or the beginning of a window in nanoseconds.
Place = str | int | None


class Scope:
    """What was spent of one budget in one run or window (of one agent, say)."""

    __slots__ = ("_passed", "meter", "place", "tokens", "unpriced", "usd", "whose")

    def __init__(self, meter: Meter, place: Place, whose: str | None) -> None:
        self.meter = meter
        self.place = place
        self.whose = whose
        self.usd = Decimal(0)
        self.tokens = 0
        self.unpriced = 0
        self._passed = [0] * len(meter.limits)  # how many of the thresholds, limit by limit

    def spent(self, limit: Limit) -> float:
        """What was spent, as a number for people and JSON."""
        return float(self.usd) if limit.unit == "usd" else self.tokens

    def share(self, limit: Limit) -> float:
        """How much of the limit that is."""
        return self.spent(limit) / limit.amount

    def is_over(self, limit: Limit) -> bool:
        """Whether nothing is left."""
        return (self.usd if limit.unit == "usd" else self.tokens) >= limit.bound

    def has_room(self, limit: Limit, usd: float, tokens: int) -> bool:
        """Whether something is left, and so much at least."""
        after = EXACT.add(self.usd, exact(usd)) if limit.unit == "usd" else self.tokens + tokens
        return not self.is_over(limit) and after <= limit.bound

    def add(self, tokens: int, usd: Decimal | None) -> Sequence[Reached]:
        """Add a call; gives the thresholds that it reached, lower ones first."""
        if usd is None:
            self.unpriced += 1
        else:
            self.usd = EXACT.add(self.usd, usd)
        self.tokens += tokens
        reached: Sequence[Reached] = ()
        for number, limit in enumerate(self.meter.limits):
            so_far = self.usd if limit.unit == "usd" else self.tokens
            passed = self._passed[number]
            if passed < len(limit.steps) and so_far >= limit.steps[passed][1]:
                reached = (*reached, *self._passes(number, limit, so_far))
        return sorted(reached, key=lambda found: found.threshold) if len(reached) > 1 else reached

    def _passes(self, number: int, limit: Limit, so_far: Decimal | int) -> Iterator[Reached]:
        for threshold, step in limit.steps[self._passed[number] :]:
            if so_far < step:
                return
            self._passed[number] += 1
            yield Reached(self, threshold, limit, self.spent(limit), self.unpriced)

    def told(self) -> dict[str, Any]:
        """Which scope it is, in the words of events and errors."""
        said: dict[str, Any] = {}
        if isinstance(self.place, int):
            said["window_start"] = _moment(self.place)
        else:
            said["root_invocation_id"] = self.place
        if self.meter.budget.by is not None:
            said[self.meter.budget.by] = self.whose
        return said


class Meter:
    """All that was spent of one budget. Not locked: whoever uses it sees to that, but for reading."""

    def __init__(self, budget: Budget, most: int = SCOPES) -> None:
        self.budget = budget
        self.limits = budget.limits
        self.window_ns = budget.window_ns
        #: Scopes that were still in use when they had to make room: what was spent there is forgotten.
        self.dropped = 0
        self.size = 0
        self._most = most
        self._places: OrderedDict[Place, OrderedDict[str | None, Scope]] = OrderedDict()
        self._ended: OrderedDict[Place, int] = OrderedDict()
        self._latest: int | None = None
        #: The highest share that was reached in each place and, of runs, in a heap (with shares that were surpassed).
        self._peaks: dict[Place, float] = {}
        self._heap: list[tuple[float, int, Place]] = []
        self._number = 0
        self._now_ns = 0

    def place_of(self, where: Where) -> Place:
        """The run or the window."""
        length = self.window_ns
        return where.root if length is None else where.time_ns // length * length

    def whose(self, where: Where) -> str | None:
        """The agent (say) that it is split by."""
        by = self.budget.by
        if by is None:
            return None
        whose: str | None = getattr(where, by)
        if by == "provider":  # "OpenAI" is "openai"
            return whose.strip().lower() or None if whose is not None else None
        return whose or None if by == "model" else whose

    def applies(self, where: Where) -> bool:
        """Whether it can be told what would be spent there: a budget by model does not bind what names no model."""
        return self.budget.by not in {"model", "provider"} or self.whose(where) is not None

    def look(self, where: Where) -> Scope | None:
        """The scope there, if anything was spent in it."""
        scopes = self._places.get(self.place_of(where))
        return None if scopes is None else scopes.get(self.whose(where))

    def new(self, where: Where) -> Scope:
        """What that scope is before anything is spent in it; it is not kept."""
        return Scope(self, self.place_of(where), self.whose(where))

    def add(self, where: Where, tokens: int, usd: Decimal | None) -> Sequence[Reached]:
        """Add a call; gives the thresholds that it reached, lower ones first."""
        place, whose = self.place_of(where), self.whose(where)
        scopes = self._places.get(place)
        if scopes is None:
            scopes = self._places[place] = OrderedDict()
            if isinstance(place, int):
                self._latest = place if self._latest is None else max(self._latest, place)
        else:
            self._places.move_to_end(place)
        scope = scopes.get(whose)
        if scope is None:
            scope = scopes[whose] = Scope(self, place, whose)
            self.size += 1
            if self.size > self._most:
                self._make_room(place)
        else:
            scopes.move_to_end(whose)
        reached = scope.add(tokens, usd)
        self._lift(place, max(scope.share(limit) for limit in self.limits))
        return reached

    def _lift(self, place: Place, share: float) -> None:
        """Know that so much is used there."""
        if share > self._peaks.get(place, 0.0):
            self._peaks[place] = share
            self._show(place)

    def _show(self, place: Place) -> None:
        """Put a run among those of which the fullest is looked for."""
        if self.window_ns is not None or place not in self._peaks:
            return
        self._number -= 1  # of equal ones the newest first: it is there longest
        heapq.heappush(self._heap, (-self._peaks[place], self._number, place))
        for _ in range(2):  # with each one that comes, so that there is never much to do at once
            if not self._is_first_shown():
                heapq.heappop(self._heap)
        if len(self._heap) > 2 * len(self._peaks) + SPARE:
            self._sift()

    def _is_first_shown(self) -> bool:
        """Whether the first of the heap is still true: not surpassed, forgotten, or over for long; or there is none."""
        if not self._heap:
            return True
        share, _, place = self._heap[0]
        return self._peaks.get(place) == -share and not self._is_past(place)

    def _is_past(self, place: Place) -> bool:
        return self._now_ns - self._ended.get(place, self._now_ns) > LINGER_NS

    def _sift(self) -> None:
        """Keep nothing in the heap but what is true."""
        shown = ((place, peak) for place, peak in self._peaks.items() if not self._is_past(place))
        self._heap = [(-peak, -number, place) for number, (place, peak) in enumerate(shown)]
        heapq.heapify(self._heap)
        self._number = -len(self._heap)

    def end(self, root: str, at_ns: int) -> None:
        """A run is over: what was spent in it stays as long as there is room, because calls may be told late."""
        if self.window_ns is None:
            self._now_ns = at_ns
            was_over = root in self._ended
            self._ended[root] = at_ns
            if was_over:
                self._show(root)
            if len(self._ended) > self._most:
                gone, _ = self._ended.popitem(last=False)
                self.size -= len(self._places.pop(gone, ()))
                self._peaks.pop(gone, None)

    def revive(self, root: str) -> None:
        """The run goes on."""
        if self._ended.pop(root, None) is not None:
            self._show(root)

    def _lives(self, place: Place) -> bool:
        """Whether more is expected to be spent there."""
        return place not in self._ended if self.window_ns is None else place == self._latest

    def _make_room(self, used: Place) -> None:
        place = self._first_ended(used)
        if place is None:
            place = next(iter(self._places))
        if self._lives(place):
            self.dropped += 1
        scopes = self._places[place]
        scopes.popitem(last=False)
        self.size -= 1
        if not scopes:
            del self._places[place]
            self._peaks.pop(place, None)

    def _first_ended(self, used: Place) -> Place:
        """The run that has ended first, of those of which something is kept."""
        if used in self._ended:
            self._ended.move_to_end(used)
        while self._ended:
            place = next(iter(self._ended))
            if place == used:
                break
            if place in self._places:
                return place
            del self._ended[place]
        return None

    def used(self, now_ns: int) -> float:
        """The highest share in use now: of runs that have not ended, or only just, or in the window that is now.

        Metrics are collected now and then: a run that is over by then is to be seen, too.
        """
        length = self.window_ns
        if length is not None:
            return self._peaks.get(now_ns // length * length, 0.0)
        self._now_ns = now_ns
        for _ in range(SPARE):
            if self._is_first_shown():
                break
            heapq.heappop(self._heap)
        else:
            self._sift()
        return -self._heap[0][0] if self._heap else 0.0


def _moment(time_ns: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time_ns // 1_000)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{time_ns} ns"
