"""What is asked about budgets before something is spent, and what is answered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .blocks import clock, surrounding
from .calls import run_of
from .invocation import Boundary
from .metering import Scope
from .spending import Limit, Unit, Where


@dataclass(frozen=True, slots=True)
class BudgetState:
    """How much of one limit is spent in one scope. `share` is 1.0 where all is spent; `remaining` is never negative.

    Calls whose price is not known are in `unpriced_calls` and not in `spent`. Calls that wait for the price list are in
    neither yet, but in `unsettled_calls`: those of all scopes together, as what is told of each tells no more.
    """

    budget: str
    scope: dict[str, Any]
    unit: Unit
    spent: float
    limit: float
    remaining: float
    share: float
    exceeded: bool
    unpriced_calls: int
    unsettled_calls: int = 0


@dataclass(frozen=True, slots=True)
class BudgetCheckResult:
    """Whether so much more may be spent, as far as is known now, and how every budget stands that binds it."""

    allowed: bool
    states: tuple[BudgetState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCheck:
    """The request `await router.ask(BudgetCheck(usd=0.10))`: may so much more be spent here?

    What is left out is taken from the run in which it is asked. The answer is a `BudgetCheckResult`.

    Raises:
        ValueError: an amount is negative, or no number.

    """

    usd: float = 0.0
    tokens: int = 0
    agent: str | None = None
    model: str | None = None
    provider: str | None = None
    channel: str | None = None
    conversation_id: str | None = None
    root_invocation_id: str | None = None

    def __post_init__(self) -> None:
        refuse_wrong(self.usd, self.tokens)


def refuse_wrong(usd: object, tokens: object) -> None:
    """Raise `ValueError` where this is nothing that can be spent."""
    if not (_is_amount(usd) and _is_amount(tokens)):
        raise ValueError(f"what is to be spent must be 0 or more: usd={usd!r}, tokens={tokens!r}")


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return False
    try:
        return 0 <= value < math.inf
    except ArithmeticError:  # a signalling NaN
        return False


def state_of(scope: Scope, limit: Limit, unsettled_calls: int = 0) -> BudgetState:
    """How this scope stands to that limit."""
    spent = scope.spent(limit)
    return BudgetState(
        budget=scope.meter.budget.name,
        scope=scope.told(),
        unit=limit.unit,
        spent=spent,
        limit=limit.amount,
        remaining=max(limit.amount - spent, 0),
        share=scope.share(limit),
        exceeded=scope.is_over(limit),
        unpriced_calls=scope.unpriced,
        unsettled_calls=unsettled_calls,
    )


def here() -> Where:
    """Where something would be spent that begins now."""
    frame = surrounding()
    if frame is None or isinstance(frame, Boundary):
        return Where(None, clock.time_ns(), None, None, None, None, None)
    run, block = frame.invocation, run_of(frame)
    model, provider = (None, None) if block is None else (block.model, block.provider)
    return Where(run.root_id or None, clock.time_ns(), run.agent, model, provider, run.channel, run.conversation_id)
