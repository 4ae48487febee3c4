"""One budget: how it is declared, and the exact arithmetic of what was spent of it, by run or by window."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Literal, NamedTuple, get_args

from .errors import ConfigurationError
from .values import quoted

By = Literal["agent", "model", "provider", "channel", "conversation"]
OnExceeded = Literal["tell", "raise"]
Unit = Literal["usd", "tokens"]

#: So many scopes of one budget are kept; beyond it those that are over go first, then those idle longest.
SCOPES = 10_000
#: How long a run that is over is still shown.
LINGER_NS = 300_000_000_000

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WINDOW = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Digits enough that no sum of prices is ever rounded: money is added as it is written, not as it is stored.
_EXACT = Context(prec=80)


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent: so many US dollars, so many tokens (input and output), or both, whichever is used up first.

    Without a window it is for each run at the root of a tree by itself, sub-agents included; with one it is for the
    whole process, in windows that are aligned to midnight of 1 January 1970 UTC ("1d" is a day of UTC). `by` splits
    either further. At each threshold (a share of the limit) a `budget_threshold_hit` is published, once per scope.
    With `on_exceeded="raise"` the next `llm` or `tool` block inside a scope that is used up raises `BudgetExceeded`.

    Args:
        name: the name by which events, metrics and errors call it.
        usd: the limit in US dollars.
        tokens: the limit in tokens.
        window: "90s", "15m", "1h", "1d", "1w", or a number of seconds.
        by: "agent", "model", "provider", "channel" or "conversation": one limit for each of them.
        thresholds: the shares at which it is told.
        on_exceeded: "tell", or "raise" to stop.

    Raises:
        ConfigurationError: one of these is not what it may be.

    """

    name: str
    _: KW_ONLY
    usd: float | None = None
    tokens: int | None = None
    window: str | float | None = None
    by: By | None = None
    thresholds: tuple[float, ...] = (0.8, 1.0)
    on_exceeded: OnExceeded = "tell"

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        problem = problem_of(given)
        if problem is not None:
            raise ConfigurationError(f"Budget({quoted('name', self.name)}): {problem}.")
        if self.usd is not None:
            object.__setattr__(self, "usd", float(self.usd))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", int(self.tokens))
        object.__setattr__(self, "thresholds", tuple(sorted({float(share) for share in self.thresholds})))

    @property
    def window_ns(self) -> int | None:
        """The length of a window in nanoseconds; None where the budget is for each run."""
        return None if self.window is None else _nanoseconds(self.window)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Its limits, one for each unit that has one."""
        both: tuple[tuple[Unit, float | None], ...] = (("usd", self.usd), ("tokens", self.tokens))
        return tuple(Limit.of(unit, amount, self.thresholds) for unit, amount in both if amount is not None)


def problem_of(given: Mapping[str, Any]) -> str | None:
    """What is wrong with the fields of a budget: the key, its value and the remedy; None where all is well."""
    for key, (fits, remedy) in _RULES.items():
        value = given.get(key)
        if (value is not None or key in {"name", "thresholds", "on_exceeded"}) and not fits(value):
            return f"{key} is {quoted(key, value)}: {remedy}"
    if given.get("usd") is None and given.get("tokens") is None:
        return "it has no limit: set usd to a number of US dollars, or tokens to a whole number, or both"
    return None


def _is_positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return False
    try:
        return 0 < float(value) < math.inf
    except (OverflowError, ValueError):  # an int without bounds, a signalling NaN
        return False


def _is_whole(value: Any) -> bool:
    return _is_positive(value) and value == int(value)


def _is_window(value: Any) -> bool:
    if isinstance(value, str):
        return _WINDOW.fullmatch(value.strip().lower()) is not None and 0 < _nanoseconds(value) < 2**63
    return _is_positive(value) and value < 2**33 and _nanoseconds(value) > 0


def _nanoseconds(window: str | float) -> int:
    if isinstance(window, str):
        found = _WINDOW.fullmatch(window.strip().lower())
        assert found is not None  # checked when the budget was made
        return int(Decimal(found[1]) * _SECONDS[found[2]] * 1_000_000_000)
    return round(window * 1_000_000_000)


def _are_shares(value: object) -> bool:
    return isinstance(value, (tuple, list)) and all(_is_positive(share) for share in value)


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda name: isinstance(name, str) and bool(name.strip()), "give it a name, a text that is not empty"),
    "usd": (_is_positive, "set it to a number of US dollars above 0, such as 0.5, or leave it out"),
    "tokens": (_is_whole, "set it to a whole number of tokens above 0, such as 1000000, or leave it out"),
    "window": (_is_window, 'set it to a time such as "90s", "15m", "1h" or "1d", or to a number of seconds above 0'),
    "by": (lambda by: by in get_args(By), f"set it to {', '.join(get_args(By)[:-1])} or {get_args(By)[-1]}"),
    "thresholds": (_are_shares, "set it to shares of the limit above 0, such as 0.8 and 1.0"),
    "on_exceeded": (lambda asked: asked in get_args(OnExceeded), "set it to tell or raise"),
}


class Spent(NamedTuple):
    """What one model call used: its tokens, input and output, and US dollars where its cost is known."""

    tokens: int
    usd: float | None


class Where(NamedTuple):
    """Where something is spent, or is about to be; `root` is the invocation at the root of its tree."""

    root: str | None
    time_ns: int
    agent: str | None
    model: str | None
    provider: str | None
    channel: str | None
    conversation: str | None


class Limit(NamedTuple):
    """How much may be spent, and the amounts at which that is told, as exact numbers."""

    unit: Unit
    amount: float
    bound: Decimal
    steps: tuple[tuple[float, Decimal], ...]

    @classmethod
    def of(cls, unit: Unit, amount: float, thresholds: tuple[float, ...]) -> Limit:
        """The limit with its thresholds."""
        bound = exact(amount)
        return cls(unit, amount, bound, tuple((share, _EXACT.multiply(bound, exact(share))) for share in thresholds))


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
        after = _EXACT.add(self.usd, exact(usd)) if limit.unit == "usd" else self.tokens + tokens
        return not self.is_over(limit) and after <= limit.bound

    def add(self, tokens: int, usd: Decimal | None) -> Sequence[Reached]:
        """Add a call; gives the thresholds that it reached, lower ones first."""
        if usd is None:
            self.unpriced += 1
        else:
            self.usd = _EXACT.add(self.usd, usd)
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


def money(usd: float | None) -> Decimal | None:
    """A price that can be added; what cannot be one is not known."""
    return exact(usd) if usd is not None and 0 <= usd < math.inf else None


def exact(number: float) -> Decimal:
    """A number as it is written: 0.1 is a tenth."""
    return Decimal(number) if isinstance(number, int) else Decimal(repr(float(number)))


def _moment(time_ns: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time_ns // 1_000)).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return f"{time_ns} ns"


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

    def place_of(self, where: Where) -> Place:
        """The run or the window."""
        length = self.window_ns
        return where.root if length is None else where.time_ns // length * length

    def whose(self, where: Where) -> str | None:
        """The agent (say) that it is split by."""
        by = self.budget.by
        return None if by is None else getattr(where, by)

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
        return scope.add(tokens, usd)

    def end(self, root: str, at_ns: int) -> None:
        """A run is over: what was spent in it stays as long as there is room, because calls may be told late."""
        if self.window_ns is None:
            self._ended[root] = at_ns
            if len(self._ended) > self._most:
                gone, _ = self._ended.popitem(last=False)
                self.size -= len(self._places.pop(gone, ()))

    def revive(self, root: str) -> None:
        """The run goes on."""
        self._ended.pop(root, None)

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

    def _first_ended(self, used: Place) -> Place:
        """The run that has ended first, of those of which something is kept."""
        if used in self._ended:
            self._ended.move_to_end(used)
        for place in list(self._ended):
            if place == used:
                break
            if place in self._places:
                return place
            del self._ended[place]
        return None

    def living(self, now_ns: int) -> list[Scope]:
        """The scopes in use now: those of runs that have not ended, or only just, or of the window that is now.

        Metrics are collected now and then: a run that is over by then is to be seen, too.
        """
        length = self.window_ns
        if length is not None:
            return list(self._places.get(now_ns // length * length, {}).values())
        over = {place for place, at_ns in self._ended.items() if now_ns - at_ns > LINGER_NS}
        return [scope for place in self._places.keys() - over for scope in self._places[place].values()]
