"""What one model call adds to the sums, and how a producer's totals are compared with them."""

from __future__ import annotations

from collections import UserDict
from decimal import Decimal
from typing import Any

import pytest

from otel_agentbus.events import AgentEnd, LlmResponse
from otel_agentbus.telemetry.accounts import (
    NOTHING,
    Account,
    account_of,
    known_of,
    mismatch,
    reported,
    totals_reported,
    unpriced,
    usage_totals,
    used_by,
)
from otel_agentbus.telemetry.usage import Usage


def response(**fields: Any) -> LlmResponse:
    return LlmResponse(model_provider="openai", model="gpt-4o", duration=1.0, success=True, **fields)


class Cheap(Decimal):
    """An amount of a class of the provider's own."""


WRONG: list[Any] = [
    *(-0.01, float("nan"), float("inf"), 1e7, 10**400, True, "0.1", [], {}),
    *(Decimal("sNaN"), Decimal("1e400"), Decimal("-Infinity")),
]


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        (None, None),
        (0, (0.0, "reported")),
        (0.25, (0.25, "reported")),
        (Decimal("0.25"), (0.25, "reported")),
        (Cheap("0.25"), (0.25, "reported")),
        (10**6, (1e6, "reported")),
        *((wrong, (None, "invalid_usage")) for wrong in WRONG),
    ],
    ids=repr,
)
def test_a_reported_cost_is_an_amount_of_money_or_invalid(cost: Any, said: tuple[float | None, str] | None) -> None:
    assert reported(response(cost_usd=cost)) == said


@pytest.mark.parametrize(
    ("fields", "account"),
    [
        ({}, Account(NOTHING, None, "no_usage")),
        ({"input_tokens": 3}, Account(Usage(3, None, None, None, None), None, "no_price_source")),
        ({"input_tokens": -3}, Account(NOTHING._replace(invalid=1), None, "invalid_usage")),
        ({"input_tokens": 3, "cost_usd": 0.5}, Account(Usage(3, None, None, None, None), 0.5, "reported")),
        ({"input_tokens": 3, "cost_usd": -1}, Account(Usage(3, None, None, None, None), None, "invalid_usage")),
        ({"cost_usd": 0.5}, Account(NOTHING, 0.5, "reported")),
    ],
    ids=str,
)
def test_what_no_ledger_has_seen_says_itself_what_it_knows(fields: dict[str, Any], account: Account) -> None:
    event = response(**fields)
    assert (account_of(event), unpriced(event)) == (account, account)
    event.account = Account(NOTHING, 1.0, "priced")
    assert account_of(event) == Account(NOTHING, 1.0, "priced")


def test_a_usage_with_one_count_may_have_a_price() -> None:
    assert known_of(Usage(0, None, None, None, None)) is None
    assert known_of(Usage(None, 0, 1, None, None)) is None
    assert known_of(Usage(None, None, 1, None, None)) == "no_usage"
    assert known_of(Usage(1, 1, None, None, None, invalid=1)) == "invalid_usage"


def test_what_is_unknown_adds_nothing_and_what_is_zero_adds_zero() -> None:
    everything = Account(Usage(5, 4, 3, 2, 1), 0.5, "priced")
    assert used_by(everything) == {
        "calls": 1,
        "input_tokens": 5,
        "output_tokens": 4,
        "cache_read_input_tokens": 3,
        "cache_write_input_tokens": 2,
        "reasoning_output_tokens": 1,
        "cost_usd": 0.5,
    }
    assert used_by(Account(NOTHING, None, "no_usage")) == {"calls": 1}
    assert used_by(Account(Usage(0, None, None, None, None), 0.0, "priced")) == {
        "calls": 1,
        "input_tokens": 0,
        "cost_usd": 0.0,
    }
    assert used_by(Account(NOTHING, None, "duplicate", duplicate="call_id")) == {}
    completing = Account(Usage(5, None, None, None, None), 0.5, "priced", duplicate="call_id")
    assert used_by(completing) == {"input_tokens": 5, "cost_usd": 0.5}


def test_totals_stand_under_our_own_names() -> None:
    assert usage_totals({"calls": 2, "input_tokens": 7, "cost_usd": 0.5, "else": 1}) == {
        "agentbus.usage.llm_calls": 2,
        "agentbus.usage.input_tokens": 7,
        "agentbus.usage.cost_usd": 0.5,
    }
    assert usage_totals({}) == {}


@pytest.mark.parametrize(
    ("used", "found"),
    [
        (None, {}),
        (15, {"tokens": 15}),
        (-1, {}),
        (True, {}),
        (10**400, {}),
        ("15", {}),
        ([15], {}),
        ({"input_tokens": 10, "output_tokens": 5}, {"input_tokens": 10, "output_tokens": 5}),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
         {"input_tokens": 10, "output_tokens": 5, "tokens": 15}),
        ({"input_tokens": -1, "prompt_tokens": 10}, {"input_tokens": 10}),
        ({"tokens": None, 5: 5}, {}),
        (UserDict({"tokens": 15}), {"tokens": 15}),
    ],
    ids=repr,
)  # fmt: skip
def test_totals_of_a_producer_are_taken_as_far_as_they_can_be_true(used: Any, found: dict[str, float]) -> None:
    assert totals_reported(AgentEnd(tokens_used=used)) == found


@pytest.mark.parametrize("cost", [-1, float("nan"), "1", True, 10**400, Decimal("sNaN")], ids=repr)
def test_a_total_cost_that_cannot_be_is_not_compared(cost: Any) -> None:
    assert mismatch(AgentEnd(cost_usd=cost), {"cost_usd": 5.0}) == ()


def test_totals_are_compared_to_the_last_token_and_money_to_the_last_digit_of_a_float() -> None:
    totals = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.1 + 0.2}
    assert mismatch(AgentEnd(tokens_used=15, cost_usd=0.3), totals) == ()
    assert mismatch(AgentEnd(tokens_used=16, cost_usd=0.30001), totals) == ("tokens", "cost_usd")
    assert mismatch(AgentEnd(tokens_used=15, cost_usd=0.3), {}) == ("tokens", "cost_usd")
    assert mismatch(AgentEnd(), totals) == ()


def test_sums_of_many_costs_are_compared_as_far_as_floats_reach() -> None:
    total = 0.0
    for _ in range(100_000):
        total += 0.1
    assert mismatch(AgentEnd(cost_usd=10_000.0), {"cost_usd": total}) == ()
