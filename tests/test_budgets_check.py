"""Asking before spending: how the budgets stand here, and whether so much more stays within them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from otel_agentbus import agent, llm
from otel_agentbus.budgets import Budget, BudgetCheck, BudgetCheckResult, BudgetState

from .budgeting import DAY, MIDNIGHT, Told, call, small_bus


def state(budget: str, scope: dict[str, Any], spent: float, limit: float, **fields: Any) -> BudgetState:
    found = {
        "unit": "usd",
        "remaining": limit - spent,
        "share": spent / limit,
        "exceeded": spent >= limit,
        "unpriced_calls": 0,
        **fields,
    }
    return BudgetState(budget=budget, scope=scope, spent=spent, limit=limit, **found)


def test_a_check_says_how_every_budget_stands_that_binds() -> None:
    seen = Told(
        Budget("run", usd=0.5, tokens=1000),
        Budget("day", usd=20, window="1d", by="agent"),
        Budget("model", usd=1, by="model"),
    )
    seen(call(0.25, 600, agent="a"), call(None, 600, agent="a"), call(4.0, agent="b", root="other"))
    day = {"window_start": "2023-11-14T00:00:00Z", "agent": "a"}
    result = seen.budgets.check(root_invocation_id="r", agent="a", now_ns=MIDNIGHT + 5)
    assert result == BudgetCheckResult(
        allowed=False,
        states=(
            state("run", {"root_invocation_id": "r"}, 0.25, 0.5, unpriced_calls=1),
            state("run", {"root_invocation_id": "r"}, 1200, 1000, unit="tokens", remaining=0, unpriced_calls=1),
            state("day", day, 0.25, 20.0, unpriced_calls=1),
        ),
    )
    assert seen.budgets.check(agent="a", model="m", root_invocation_id="r").states[-1].budget == "model"


@pytest.mark.parametrize(
    ("usd", "tokens", "allowed"),
    [(0.0, 0, True), (0.1, 500, True), (0.11, 0, False), (0.1, 501, False), (1e-12, 0, True), (0.1 + 1e-12, 0, False)],
)
def test_what_fits_to_the_last_bit_is_allowed_and_no_more(usd: float, tokens: int, allowed: bool) -> None:
    seen = Told(Budget("run", usd=0.3, tokens=1000))(call(0.1, 250), call(0.1, 250))
    assert seen.budgets.check(usd=usd, tokens=tokens, root_invocation_id="r").allowed is allowed
    assert seen.budgets.check(root_invocation_id="r").states[0].spent == 0.2  # asking spends nothing


def test_where_nothing_is_left_nothing_more_is_allowed() -> None:
    seen = Told(Budget("run", usd=0.3))(call(0.3))
    assert seen.budgets.check(root_invocation_id="r").allowed is False


def test_a_run_that_has_not_begun_has_all_of_its_budget() -> None:
    seen = Told(Budget("run", usd=0.3), Budget("day", usd=1, window="1d"))(call(0.9))
    result = seen.budgets.check(usd=0.2, now_ns=MIDNIGHT + DAY)
    assert result.allowed
    assert [(found.scope, found.spent) for found in result.states] == [
        ({"root_invocation_id": None}, 0.0),
        ({"window_start": "2023-11-15T00:00:00Z"}, 0.0),
    ]
    assert not seen.budgets.check(usd=0.4, now_ns=MIDNIGHT + DAY).allowed
    assert not seen.budgets.check(usd=0.2, now_ns=MIDNIGHT).allowed


@pytest.mark.parametrize(
    "amounts",
    [
        {"usd": -0.1},
        {"usd": float("nan")},
        {"tokens": -1},
        {"usd": float("inf")},
        {"usd": None},
        {"usd": "1"},
        {"usd": True},
        {"usd": Decimal("sNaN")},
        {"tokens": "x"},
        {"tokens": None},
    ],
    ids=str,
)
def test_an_amount_that_cannot_be_spent_is_refused(amounts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        Told(Budget("run", usd=1)).budgets.check(**amounts)
    with pytest.raises(ValueError, match="must be 0 or more"):
        BudgetCheck(**amounts)


def test_without_budgets_everything_is_allowed() -> None:
    assert Told().budgets.check(usd=1e9) == BudgetCheckResult(allowed=True, states=())


async def test_what_is_not_said_is_that_of_the_run_that_asks() -> None:
    budgets = [
        Budget("run", usd=1),
        *(Budget(by, usd=1, by=by) for by in ("agent", "model", "provider", "channel", "conversation")),
    ]
    with small_bus(*budgets) as bus:
        bus.router.answer(BudgetCheck)(bus.budgets.answer)
        async with agent("boss", model="big", provider="p", channel="web", conversation_id="talk") as boss:
            async with llm() as block:
                block.record(cost_usd=0.25)
            result = await bus.router.ask(BudgetCheck(usd=0.75))
            assert isinstance(result, BudgetCheckResult)
            assert result.allowed
            root = {"root_invocation_id": boss.id}
            assert result.states == (
                state("run", root, 0.25, 1.0),
                state("agent", {**root, "agent": "boss"}, 0.25, 1.0),
                state("model", {**root, "model": "big"}, 0.25, 1.0),
                state("provider", {**root, "provider": "p"}, 0.25, 1.0),
                state("channel", {**root, "channel": "web"}, 0.25, 1.0),
                state("conversation", {**root, "conversation": "talk"}, 0.25, 1.0),
            )
            assert not (await bus.router.ask(BudgetCheck(usd=0.76))).allowed
            async with agent("helper"):  # of the same run: what it spent is the run's, too
                inner = await asyncio.gather(
                    bus.router.ask(BudgetCheck(usd=0.75)), bus.router.ask(BudgetCheck(usd=0.8))
                )
            assert [result.allowed for result in inner] == [True, False]
            assert [found.spent for found in inner[0].states] == [0.25, 0.0, 0.25, 0.25]
            assert (await bus.router.ask(BudgetCheck(agent="x", model="y"))).states[1:3] == (
                state("agent", {**root, "agent": "x"}, 0.0, 1.0),
                state("model", {**root, "model": "y"}, 0.0, 1.0),
            )
        outside = await bus.router.ask(BudgetCheck(usd=0.8, root_invocation_id=boss.id))
        assert not outside.allowed


def test_a_check_inside_a_call_that_stands_alone_is_that_calls() -> None:
    with small_bus(Budget("run", usd=1)) as bus, llm("m", call_id="c9"):
        assert bus.budgets.check().states[0].scope == {"root_invocation_id": "c9"}
