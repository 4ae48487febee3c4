"""What is asked about budgets before something is spent, and what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .blocks import clock, surrounding
from .calls import run_of
from .invocation import Boundary
from .spending import Limit, Scope, Unit, Where


@dataclass(frozen=True, slots=True)
class BudgetState:
    """How much of one limit is spent in one scope. `share` is 1.0 where all is spent; `remaining` is never negative.

    Calls whose price is not known are in `unpriced_calls` and not in `spent`.
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


@dataclass(frozen=True, slots=True)
class BudgetCheckResult:
    """Whether so much more may be spent, and how every budget stands that binds it."""

    allowed: bool
    states: tuple[BudgetState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCheck:
    """The request `await router.ask(BudgetCheck(usd=0.10))`: may so much more be spent here?

    What is left out is taken from the run in which it is asked. The answer is a `BudgetCheckResult`.
    """

    usd: float = 0.0
    tokens: int = 0
    agent: str | None = None
    model: str | None = None
    provider: str | None = None
    channel: str | None = None
    conversation_id: str | None = None
    root_invocation_id: str | None = None


def state_of(scope: Scope, limit: Limit) -> BudgetState:
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
    )


def here() -> Where:
    """Where something would be spent that begins now."""
    frame = surrounding()
    if frame is None or isinstance(frame, Boundary):
        return Where(None, clock.time_ns(), None, None, None, None, None)
    run, block = frame.invocation, run_of(frame)
    model, provider = (None, None) if block is None else (block.model, block.provider)
    return Where(run.root_id or None, clock.time_ns(), run.agent, model, provider, run.channel, run.conversation_id)
