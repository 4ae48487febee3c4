"""Any sequence of calls gives what a model says that keeps every call and adds them up anew each time."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.blocks import clock
from otel_agentbus.budgets import Budget, BudgetExceeded, Spent
from otel_agentbus.events import AgentEnd, LlmResponse

from .budgeting import Told, booked, call

HOUR = 3_600 * 10**9


class Call(NamedTuple):
    """One call, and whether its price is at hand and it is told again."""

    root: str
    agent: str | None
    model: str
    hour: int
    usd: float | None
    tokens: int
    cold: bool = False
    again: bool = False


class Settle(NamedTuple):
    """The pump comes round."""


class End(NamedTuple):
    """A run ends."""

    root: str


class Ask(NamedTuple):
    """A model call (or a tool call, without a model) is about to begin."""

    root: str
    agent: str | None
    model: str | None
    hour: int


roots, agents, models = st.sampled_from("rst"), st.sampled_from([None, "a", "b"]), st.sampled_from("mn")
hours = st.integers(0, 3)
prices = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 0.2, 0.3]), st.floats(0, 2, allow_nan=False))
steps = st.lists(
    st.one_of(
        st.builds(Call, roots, agents, models, hours, prices, st.integers(0, 60), st.booleans(), st.booleans()),
        st.builds(Settle),
        st.builds(End, roots),
        st.builds(Ask, roots, agents, st.one_of(st.none(), models), hours),
    ),
    max_size=40,
)
declared = st.builds(
    lambda usd, tokens, window, by, thresholds, asked: {
        "usd": usd,
        "tokens": tokens if usd is not None else tokens or 50,
        "window": window,
        "by": by,
        "thresholds": thresholds,
        "on_exceeded": asked,
    },
    st.sampled_from([None, 0.3, 1, 2.5]),
    st.sampled_from([None, 50, 100]),
    st.sampled_from([None, "1h", "2h"]),
    st.sampled_from([None, "agent", "model"]),
    st.sampled_from([(0.8, 1.0), (0.1, 0.5, 1, 2), ()]),
    st.sampled_from(["tell", "raise"]),
)


class Naive:
    """What was spent, found by going through every call that was ever counted."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.calls: list[Call] = []
        self.told: list[tuple[Any, ...]] = []

    def scope(self, step: Call | Ask) -> tuple[Any, ...]:
        window = {None: None, "1h": 1, "2h": 2}[self.budget.window]  # type: ignore[index]  # of those declared above
        place = step.root if window is None else f"1970-01-01T{step.hour // window * window:02}:00:00Z"
        return (place,) if self.budget.by is None else (place, getattr(step, self.budget.by))

    def spent(self, scope: tuple[Any, ...], unit: str) -> Fraction:
        here = [call for call in self.calls if self.scope(call) == scope]
        return sum((Fraction(repr(getattr(call, unit) or 0)) for call in here), Fraction(0))

    def shares(self, scope: tuple[Any, ...]) -> dict[str, Fraction]:
        limits = {"usd": self.budget.usd, "tokens": self.budget.tokens}
        return {unit: self.spent(scope, unit) / Fraction(repr(limit)) for unit, limit in limits.items() if limit}

    def count(self, call: Call) -> None:
        scope = self.scope(call)
        before = self.shares(scope)
        self.calls.append(call)
        after = self.shares(scope)
        self.told += [
            (self.budget.name, *scope, threshold, unit)
            for threshold in self.budget.thresholds
            for unit in after
            if before[unit] < Fraction(repr(threshold)) <= after[unit]
        ]

    def refuses(self, ask: Ask) -> bool:
        if self.budget.on_exceeded == "tell" or (self.budget.by == "model" and ask.model is None):
            return False
        return any(share >= 1 for share in self.shares(self.scope(ask)).values())


def block_of(ask: Ask) -> Any:
    run = SimpleNamespace(root_id=ask.root, agent=ask.agent, channel=None, conversation_id=None)
    kind = "tool" if ask.model is None else "llm"
    return SimpleNamespace(kind=kind, model=ask.model, provider="p", invocation=run)


def at(hour: int, asked: Callable[[], Any]) -> Any:
    """What it gives at that hour."""
    before, clock.time_ns = clock.time_ns, lambda: hour * HOUR + 1
    try:
        return asked()
    finally:
        clock.time_ns = before


def refused(budgets: Any, ask: Ask) -> str | None:
    try:
        if budgets.gate is not None:
            at(ask.hour, lambda: budgets.gate(block_of(ask)))
    except BudgetExceeded as error:
        return error.budget
    return None


class Side:
    """Budgets and models side by side, told the same."""

    def __init__(self, kinds: list[dict[str, Any]]) -> None:
        declared_budgets = [Budget(f"b{number}", **kind) for number, kind in enumerate(kinds)]
        self.naive = [Naive(budget) for budget in declared_budgets]
        self.waiting: list[Call] = []
        self.expected: list[tuple[Any, ...]] = []
        self.price = booked()
        self.seen = Told(*declared_budgets, account=self.account, price=self.price)

    def account(self, event: LlmResponse) -> Spent | None:
        return None if event.attributes.get("cold") else self.price(event)

    def count(self, step: Call) -> None:
        for model in self.naive:
            before = len(model.told)
            model.count(step)
            self.expected += model.told[before:]

    def settle(self) -> None:
        for step in self.waiting:
            self.count(step)
        self.waiting.clear()

    def tell(self, step: Call) -> None:
        attributes: Any = {"cold": True} if step.cold else {}
        time_ns = step.hour * HOUR + HOUR // 2
        fields = {"agent": step.agent, "model": step.model, "time_ns": time_ns, "attributes": attributes}
        event = call(step.usd, step.tokens, root=step.root, **fields)
        self.seen(event, *([event] if step.again else []))
        if step.cold:
            self.waiting.append(step)
        else:
            self.count(step)

    def ask(self, step: Ask) -> None:
        answer = refused(self.seen.budgets, step)
        if self.seen.budgets.gate is not None:
            self.settle()
        assert answer == next((model.budget.name for model in self.naive if model.refuses(step)), None)

    def take(self, step: Any) -> None:
        match step:
            case Call():
                self.tell(step)
            case Ask():
                self.ask(step)
            case End():
                self.seen(AgentEnd(invocation_id=step.root, root_invocation_id=step.root))
            case Settle():
                self.seen.budgets.settle()
                self.settle()

    def compare(self) -> None:
        published = [data for _, data in self.seen.published]
        assert self.expected == [
            (data["budget"], *data["scope"].values(), data["threshold"], data["unit"]) for data in published
        ]
        for model in self.naive:
            for step in model.calls:
                states = self.seen.budgets.check(
                    root_invocation_id=step.root, agent=step.agent, model=step.model, now_ns=step.hour * HOUR
                ).states
                found = {state.unit: state.spent for state in states if state.budget == model.budget.name}
                assert found == {
                    limit.unit: float(model.spent(model.scope(step), limit.unit)) for limit in model.budget.limits
                }


@given(st.lists(declared, min_size=1, max_size=3), steps)
def test_any_sequence_gives_what_the_naive_model_gives(kinds: list[dict[str, Any]], sequence: list[Any]) -> None:
    side = Side(kinds)
    for step in [*sequence, Settle()]:
        side.take(step)
    side.compare()
