"""One budget as it is declared, and what its limits and the calls that use it come to in exact numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from decimal import Context, Decimal
from typing import Any, Literal, NamedTuple, get_args

from .errors import ConfigurationError
from .values import quoted

By = Literal["agent", "model", "provider", "channel", "conversation"]
OnExceeded = Literal["tell", "raise"]
Unit = Literal["usd", "tokens"]

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WINDOW = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")
#: Digits enough that no sum of prices is ever rounded: money is added as it is written, not as it is stored.
EXACT = Context(prec=80)


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
        return cls(unit, amount, bound, tuple((share, EXACT.multiply(bound, exact(share))) for share in thresholds))


def money(usd: float | None) -> Decimal | None:
    """A price that can be added; what cannot be one is not known."""
    return exact(usd) if usd is not None and 0 <= usd < math.inf else None


def exact(number: float) -> Decimal:
    """A number as it is written: 0.1 is a tenth."""
    return Decimal(number) if isinstance(number, int) else Decimal(repr(float(number)))
