"""Budgets: each call counted once and exactly, in the run or window where it is spent, and thresholds told once."""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any, Self

import pytest

from otel_agentbus import agent, budget_memory, budgets, metering, spending
from otel_agentbus.blocks import clock
from otel_agentbus.budgets import Budget, Budgets, Spent, checked_budgets
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import AgentEnd, AgentStart, LlmResponse

from .budgeting import DAY, MIDNIGHT, Told, booked, call, small_bus, told

A_TIME = 'set it to a time such as "90s", "15m", "1h" or "1d", or to a number of seconds above 0.'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"usd": 0}, "usd is 0: set it to a number of US dollars above 0, such as 0.5, or leave it out."),
        ({"usd": -1.5}, "usd is -1.5: set it to a number of US dollars above 0, such as 0.5, or leave it out."),
        ({"usd": float("nan")}, "usd is nan: set it to a number of US dollars above 0, such as 0.5, or leave it out."),
        ({"usd": float("inf")}, "usd is inf: set it to a number of US dollars above 0, such as 0.5, or leave it out."),
        ({"usd": True}, "usd is True: set it to a number of US dollars above 0, such as 0.5, or leave it out."),
        ({"usd": "1"}, "usd is '1': set it to a number of US dollars above 0, such as 0.5, or leave it out."),
        (
            {"tokens": 1.5},
            "tokens is 1.5: set it to a whole number of tokens above 0, such as 1000000, or leave it out.",
        ),
        ({"tokens": 0}, "tokens is 0: set it to a whole number of tokens above 0, such as 1000000, or leave it out."),
        ({}, "it has no limit: set usd to a number of US dollars, or tokens to a whole number, or both."),
        (
            {"usd": 1, "window": "1 day"},
            f"window is '1 day': {A_TIME}",
        ),
        (
            {"usd": 1, "window": "0s"},
            f"window is '0s': {A_TIME}",
        ),
        (
            {"usd": 1, "window": 1e300},
            f"window is 1e+300: {A_TIME}",
        ),
        ({"usd": 1, "by": "agnet"}, "by is 'agnet': set it to agent, model, provider, channel or conversation."),
        ({"usd": 1, "by": ["agent"]}, "by is ['agent']: set it to agent, model, provider, channel or conversation."),
        (
            {"usd": 1, "thresholds": (0.8, 0)},
            "thresholds is (0.8, 0): set it to shares of the limit above 0, such as 0.8 and 1.0.",
        ),
        (
            {"usd": 1, "thresholds": 0.8},
            "thresholds is 0.8: set it to shares of the limit above 0, such as 0.8 and 1.0.",
        ),
        ({"usd": 1, "on_exceeded": "stop"}, "on_exceeded is 'stop': set it to tell or raise."),
    ],
    ids=str,
)
def test_a_budget_that_cannot_be_is_refused_when_it_is_made(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Budget("daily", **arguments)
    assert str(refused.value) == f"Budget('daily'): {sentence}"


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_a_budget_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="give it a name, a text that is not empty"):
        Budget(name, usd=1)


def test_two_budgets_cannot_have_one_name() -> None:
    with pytest.raises(ConfigurationError, match=r"^Two budgets have the name 'b': give each a name of its own\.$"):
        Told(Budget("b", usd=1), Budget("a", usd=1), Budget("b", tokens=1))


@pytest.mark.parametrize(
    ("given", "beginning"),
    [
        (5, "budgets is 5"),
        (None, "budgets is None"),
        ("daily", "budgets is 'daily'"),
        ({"name": "x"}, "budgets is {'name': 'x'}"),
        (["x"], "One of budgets is 'x'"),
        ([Budget("b", usd=1), None], "One of budgets is None"),
        ([{"name": "x"}], "One of budgets is {'name': 'x'}"),
    ],
    ids=str,
)
def test_what_is_no_list_of_budgets_is_refused_in_one_sentence(given: Any, beginning: str) -> None:
    for make in (checked_budgets, lambda budgets: Budgets(budgets, account=told, publish=lambda *_: None)):
        with pytest.raises(ConfigurationError) as refused:
            make(given)
        remedy = 'give a list of Budget objects, such as [Budget("daily", usd=20, window="1d")].'
        assert str(refused.value) == f"{beginning}: {remedy}"


def test_any_number_of_budgets_may_be_given_or_one_alone() -> None:
    one, two = Budget("a", usd=1), Budget("b", usd=1)
    assert [checked_budgets(given) for given in (one, [one, two], iter([two]), ())] == [(one,), (one, two), (two,), ()]
    assert Budgets(one, account=told, publish=lambda *_: None).budgets == (one,)


def test_a_budget_is_frozen_and_says_what_it_is() -> None:
    budget = Budget("daily", usd=20, tokens=1e6, window="1d", by="agent", thresholds=[1, 0.8, 1.0])  # type: ignore[arg-type]
    assert (budget.usd, budget.tokens, budget.thresholds) == (20.0, 1_000_000, (0.8, 1.0))
    assert isinstance(budget.tokens, int)
    with pytest.raises(AttributeError):
        budget.usd = 3  # type: ignore[misc]
    assert budget == Budget("daily", usd=20.0, tokens=1_000_000, window="1d", by="agent")
    lengths = [Budget("b", usd=1, window=window).window_ns for window in ("90s", "15m", "1h", "1.5D", "1w", 2, 0.5)]
    assert lengths == [90 * 10**9, 900 * 10**9, 3_600 * 10**9, DAY * 3 // 2, 7 * DAY, 2 * 10**9, 5 * 10**8]
    assert Budget("b", usd=1).window_ns is None


def test_each_threshold_is_told_once_with_everything_that_matters() -> None:
    seen = Told(Budget("per-run", usd=0.50))
    seen(call(0.39), call(0.02), call(None, 7), call(0.1), call(5.0))
    assert seen.published == [
        (
            "budget_threshold_hit",
            {
                "budget": "per-run",
                "scope": {"root_invocation_id": "r"},
                "threshold": 0.8,
                "unit": "usd",
                "spent": 0.41,
                "limit": 0.5,
                "unpriced_calls": 0,
            },
        ),
        (
            "budget_threshold_hit",
            {
                "budget": "per-run",
                "scope": {"root_invocation_id": "r"},
                "threshold": 1.0,
                "unit": "usd",
                "spent": 0.51,
                "limit": 0.5,
                "unpriced_calls": 1,
            },
        ),
    ]


def test_a_call_that_crosses_several_thresholds_tells_of_each_lower_ones_first() -> None:
    seen = Told(Budget("b", usd=1, tokens=100, thresholds=(2, 1, 0.5)), Budget("c", tokens=1000, thresholds=()))
    seen(call(1.0, 55), call(0.99, 45))
    assert [(data["unit"], data["threshold"], data["spent"]) for _, data in seen.published] == [
        ("usd", 0.5, 1.0),
        ("tokens", 0.5, 55),
        ("usd", 1.0, 1.0),
        ("tokens", 1.0, 100),
    ]


def test_money_is_added_as_it_is_written() -> None:
    seen = Told(Budget("b", usd=0.3, thresholds=(1.0,)), Budget("c", usd=0.7, thresholds=(0.1, 1.0)))
    seen(*(call(0.1) for _ in range(2)))
    assert seen.hits == [("c", "r", 0.1, 0.1)]
    seen(call(0.1))
    assert seen.hits[1:] == [("b", "r", 1.0, 0.3)]
    seen(*(call(0.1) for _ in range(4)))
    assert seen.hits[2:] == [("c", "r", 1.0, 0.7)]


def test_two_hundred_thousand_calls_are_summed_without_any_rounding() -> None:
    random = Random(3)
    prices = [random.choice((1e-9, 0.1, 3e-7, 1.1e-5, 7.77, 1e5)) * random.random() for _ in range(1000)]
    meter = metering.Meter(Budget("b", usd=1e15))
    where = spending.Where("r", 0, None, None, None, None, None)
    for _ in range(200):
        for price in prices:
            meter.add(where, 1, spending.money(price))
    scope = meter.look(where)
    assert scope is not None
    assert Fraction(scope.usd) == sum(Fraction(repr(price)) for price in prices) * 200
    assert scope.tokens == 200_000


def test_each_root_has_a_per_run_budget_of_its_own_sub_agents_included() -> None:
    seen = Told(Budget("b", tokens=100, thresholds=(1,)))
    seen(call(0, 60, root="r1"), call(0, 60, root="r2"), call(0, 30, root="r1", run="sub"))
    assert seen.hits == []
    seen(call(0, 10, root="r1", run="subsub"))
    assert seen.hits == [("b", "r1", 1.0, 100)]


def test_a_window_is_aligned_in_utc_and_takes_calls_by_their_own_time() -> None:
    seen = Told(Budget("b", tokens=100, window="1d", thresholds=(1,)))
    seen(call(0, 99, time_ns=MIDNIGHT - 1, root="r1"), call(0, 99, time_ns=MIDNIGHT, root="r2"))
    assert seen.hits == []
    seen(call(0, 1, time_ns=MIDNIGHT + DAY - 1), call(0, 1, time_ns=MIDNIGHT - DAY))
    assert seen.hits == [("b", "2023-11-14T00:00:00Z", 1.0, 100), ("b", "2023-11-13T00:00:00Z", 1.0, 100)]


@pytest.mark.parametrize(
    ("by", "fields"),
    [
        ("agent", {"agent": "x"}),
        ("model", {"model": "x"}),
        ("provider", {"provider": "x"}),
        ("channel", {"channel": "x"}),
        ("conversation", {"conversation_id": "x"}),
    ],
)
def test_a_budget_is_split_by_what_it_says(by: Any, fields: dict[str, Any]) -> None:
    seen = Told(Budget("b", tokens=10, by=by, thresholds=(1,)), Budget("w", tokens=20, by=by, window=60))
    seen(call(0, 9), call(0, 9, **fields))
    assert seen.hits == []
    seen(call(0, 1, **fields))
    assert seen.published[0][1]["scope"] == {"root_invocation_id": "r", by: "x"}
    seen(call(0, 6, root="other", **fields))
    assert seen.published[1][1]["scope"] == {"window_start": "2023-11-14T00:00:00Z", by: "x"}


def test_what_is_no_run_at_all_is_one_by_itself_or_lies_between_a_start_and_an_end_without_ids() -> None:
    seen = Told(Budget("b", tokens=10, thresholds=(1,)))

    def stray(number: int, tokens: int) -> LlmResponse:
        return call(0, tokens, root=None, source="s", seq=number)

    seen(stray(1, 6), stray(2, 6), stray(3, 10))
    assert seen.hits == [("b", "s:3", 1.0, 10)]
    seen(AgentStart(source="s", seq=4), stray(5, 6), stray(6, 6), AgentEnd(source="s", seq=7), stray(8, 6))
    assert seen.hits[1:] == [("b", "s:4", 1.0, 12)]


def nameless(*steps: str | int) -> list[LlmResponse | AgentStart | AgentEnd]:
    """What a producer without ids tells: "+a" where agent a starts, "-a" where it ends, and the tokens of a call."""
    made: list[LlmResponse | AgentStart | AgentEnd] = []
    for number, step in enumerate(steps):
        if isinstance(step, int):
            made.append(call(0, step, root=None, source="s", seq=number))
        else:
            kind = AgentStart if step[0] == "+" else AgentEnd
            made.append(kind(agent=step[1:] or None, source="s", seq=number))
    return made


@pytest.mark.parametrize(
    ("steps", "hits"),
    [
        (["+a", 90, "+b", 5, "-b", 5, 5, "-a"], [("b", "s:0", 1.0, 100)]),
        (["+", 90, "+", 5, "-", 5, 5, "-"], [("b", "s:0", 1.0, 100)]),
        (["+a", 90, "+b", "-b", "-a", 90, "+a", 10], []),
        (["+a", 90, "+b", 5, "+a", 10], []),  # cut off: a begins anew
        (["+a", 90, "+b", 5, "-a", 10], []),
        (["+a", 90, "-x", 10], []),
        (["-a", "+a", "-b", "-b", "+b", 99], []),
    ],
    ids=str,
)
def test_runs_without_ids_lie_one_in_the_other(steps: list[Any], hits: list[Any]) -> None:
    assert Told(Budget("b", tokens=100, thresholds=(1,)))(*nameless(*steps)).hits == hits


def test_a_run_without_ids_that_was_cut_off_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT)
    seen = Told(Budget("b", tokens=100))(*nameless("+a", 90, "+a", 10))
    assert seen.budgets.used() == {"b": 0.9}
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT + metering.LINGER_NS + 1)
    assert seen.budgets.used() == {"b": 0.1}


def test_runs_without_ids_that_never_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_memory, "NESTED", 3)
    seen = Told(Budget("b", tokens=100, thresholds=(1,)))
    seen(*nameless(*"+" * 3, 99, "+", 99, "-", "-", 1))
    assert seen.hits == [("b", "s:1", 1.0, 100)]


@pytest.mark.parametrize(("by", "names"), [("provider", ["openai", "OpenAI", " openai "]), ("model", ["m", "m", "m"])])
def test_one_provider_is_one_however_it_is_written(by: Any, names: list[str]) -> None:
    seen = Told(Budget("b", tokens=10, by=by, thresholds=(1,)))

    def named(name: str) -> dict[str, Any]:
        return {by: name}

    seen(*(call(0, 5, **named(name)) for name in (*names, "", "M")))
    assert seen.published[0][1]["scope"] == {"root_invocation_id": "r", by: names[0]}
    states = [seen.budgets.check(root_invocation_id="r", **named(name)).states[0] for name in (*names, "M")]
    assert [state.spent for state in states] == [15, 15, 15, 5]


def test_a_call_that_is_told_again_counts_once() -> None:
    seen = Told(Budget("b", tokens=10, window=60, thresholds=(1,)))
    same = call(0, 5, id="c1")
    seen(same, same, call(0, 5, id="c1"))
    assert seen.budgets.check(now_ns=MIDNIGHT).states[0].spent == 5
    seen(call(0, 1, id="c1", attempt=2), call(0, 1, id="c1", root="other"), call(0, 1, id="c1", run="sub"))
    assert seen.budgets.check(now_ns=MIDNIGHT).states[0].spent == 8


def test_a_call_without_an_id_is_known_by_the_number_of_its_event() -> None:
    seen = Told(Budget("b", tokens=10, window=60))
    for number in (1, 2, 1, 1, 2):
        event = call(0, 1, source="s", seq=number)
        event.call_id = None
        seen(event)
    assert seen.budgets.check(now_ns=MIDNIGHT).states[0].spent == 2
    event = call(0, 1)
    event.call_id = None
    seen(event, event)  # without any identity there is no way to tell
    assert seen.budgets.check(now_ns=MIDNIGHT).states[0].spent == 4


def test_what_a_call_used_may_be_told_after_the_call_itself() -> None:
    seen = Told(Budget("b", usd=1, tokens=100, thresholds=(1,)))
    without = call(None, id="c1")
    without.input_tokens = None
    seen(without, call(None, 60, id="c1"), call(None, 60, id="c1"))
    states = seen.budgets.check(root_invocation_id="r").states
    assert [(state.spent, state.unpriced_calls) for state in states] == [(0.0, 1), (60, 1)]
    seen(call(1.0, id="c1"), call(1.0, 60, id="c1"))
    assert seen.hits == [("b", "r", 1.0, 1.0)]
    states = seen.budgets.check(root_invocation_id="r").states
    assert [(state.spent, state.unpriced_calls) for state in states] == [(1.0, 0), (60, 0)]


@pytest.mark.parametrize(("cost", "unpriced"), [(0.5, [0, 1]), (0, [0, 1]), (None, [1, 1]), ("free", [1, 1])])
def test_a_price_that_is_told_later_prices_the_call_where_it_was_counted(cost: Any, unpriced: list[int]) -> None:
    seen = Told(Budget("run", usd=1), Budget("day", usd=1, window="1d"))
    seen(call(None, 5, id="c1"), call(None, 5, id="c2", time_ns=MIDNIGHT + DAY))
    seen(call(cost, 5, id="c1", time_ns=MIDNIGHT + DAY))  # told late: the next day
    days = [seen.budgets.check(root_invocation_id="x", now_ns=MIDNIGHT + day * DAY).states[1] for day in (0, 1)]
    assert [day.unpriced_calls for day in days] == unpriced
    assert seen.budgets.check(root_invocation_id="r").states[0].unpriced_calls == sum(unpriced)


def test_calls_whose_price_is_not_known_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_memory, "REMEMBERED", 2)
    seen = Told(Budget("b", usd=10))
    seen(*(call(None, 5, id=f"c{number}") for number in range(3)), *(call(1.0, 5, id=f"c{n}") for n in range(3)))
    state = seen.budgets.check(root_invocation_id="r").states[0]
    assert (state.spent, state.unpriced_calls) == (3.0, 1)


def test_what_the_ledger_has_counted_as_another_call_adds_nothing() -> None:
    def ledger(event: LlmResponse) -> Spent:
        return Spent(0, 0.0) if event.model == "wrapper" else Spent(10, 0.5)

    seen = Told(Budget("b", usd=1, tokens=100), account=ledger)
    seen(call(), call(model="wrapper"))
    states = seen.budgets.check(root_invocation_id="r").states
    assert [(state.spent, state.unpriced_calls) for state in states] == [(0.5, 0), (10, 0)]


@pytest.mark.parametrize("price", [None, float("nan"), float("inf"), -0.5])
def test_a_call_without_a_price_counts_its_tokens_and_itself(price: float | None) -> None:
    seen = Told(Budget("b", usd=1, tokens=100))
    seen(call(price, 60), call(0.25, 20))
    states = seen.budgets.check(root_invocation_id="r").states
    assert [(state.unit, state.spent, state.unpriced_calls) for state in states] == [
        ("usd", 0.25, 1),
        ("tokens", 80, 1),
    ]


# -- prices that are not at hand --------------------------------------------------------------------------------------


class Cold:
    """A list of prices that has yet to be loaded."""

    def __init__(self) -> None:
        self.loaded = False
        self.warm: set[str] = set()
        self.priced: list[str | None] = []
        self._booked = booked()

    def account(self, event: LlmResponse) -> Spent | None:
        return self._booked(event) if event.model in self.warm else None

    def price(self, event: LlmResponse) -> Spent | None:
        self.priced.append(event.call_id)
        return self._booked(event) if self.loaded else None


def test_a_call_whose_price_is_not_at_hand_waits_and_is_neither_lost_nor_counted_twice() -> None:
    cold = Cold()
    seen = Told(Budget("b", tokens=10, thresholds=(0.1, 0.5, 1)), account=cold.account, price=cold.price)
    first, second = call(0, 4, id="c1"), call(0, 5, id="c2")
    seen(first, second, first)
    seen.budgets.settle()
    assert (seen.hits, cold.priced, seen.budgets.health()["unsettled"]) == ([], ["c1"], 3)
    cold.loaded = True
    cold.warm.add("m")
    seen(call(0, 1, id="c3"))
    assert seen.hits == [("b", "r", 0.1, 1)]
    seen.budgets.settle()
    seen.budgets.settle()
    seen(first, second)
    assert seen.hits == [("b", "r", 0.1, 1), ("b", "r", 0.5, 5), ("b", "r", 1.0, 10)]
    assert cold.priced == ["c1", "c1", "c2", "c1"]
    assert seen.budgets.health()["unsettled"] == 0


def test_a_check_says_how_many_calls_wait_for_the_price_list() -> None:
    cold = Cold()
    seen = Told(Budget("b", usd=1), account=cold.account, price=cold.price)
    seen(call(0.75), call(0.75), call(0.75, root="other"))
    result = seen.budgets.check(root_invocation_id="r")
    assert result.allowed  # as far as is known
    assert (result.states[0].spent, result.states[0].unpriced_calls, result.states[0].unsettled_calls) == (0.0, 0, 3)
    cold.loaded = True
    result = seen.budgets.check(root_invocation_id="r")
    assert not result.allowed
    assert (result.states[0].spent, result.states[0].unpriced_calls, result.states[0].unsettled_calls) == (1.5, 0, 0)


def test_what_waits_for_its_price_holds_no_content() -> None:
    cold = Cold()
    seen = Told(Budget("b", tokens=10), account=cold.account, price=cold.price)
    event = call(0, 4, error_message="it said: swordfish")
    event.messages = [{"role": "assistant", "content": "swordfish"}]
    seen(event)
    assert "swordfish" not in repr(vars(seen.budgets))
    assert event.messages == [{"role": "assistant", "content": "swordfish"}]


def test_where_no_more_calls_can_wait_the_oldest_counts_without_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "UNSETTLED", 3)
    cold = Cold()
    seen = Told(Budget("b", usd=10, tokens=100), account=cold.account, price=cold.price)
    calls = [call(1.0, 10, output_tokens=1) for _ in range(5)]
    seen(*calls)
    assert seen.budgets.health() == {"scopes": 1, "dropped_scopes": 0, "unsettled": 3, "overflowed": 2}
    usd, tokens = seen.budgets.check(root_invocation_id="r").states
    assert (usd.spent, usd.unpriced_calls, tokens.spent) == (0.0, 2, 22)
    cold.loaded = True
    usd, tokens = seen.budgets.check(root_invocation_id="r").states
    assert (usd.spent, usd.unpriced_calls, tokens.spent) == (3.0, 2, 55)
    seen(*calls)  # all of it again
    usd, tokens = seen.budgets.check(root_invocation_id="r").states
    assert (usd.spent, usd.unpriced_calls, tokens.spent) == (3.0, 2, 55)


def test_a_price_that_cannot_be_found_out_is_not_known() -> None:
    def broken(event: LlmResponse) -> Spent:
        raise RuntimeError("no such list")

    seen = Told(Budget("b", usd=1, tokens=100), account=broken)
    told_twice = call(0.5, 60, output_tokens=20)
    seen(told_twice, told_twice)
    usd, tokens = seen.budgets.check(root_invocation_id="r").states
    assert (usd.spent, usd.unpriced_calls, tokens.spent) == (0, 1, 80)


def test_whoever_checks_while_another_thread_settles_waits_for_it() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(event: LlmResponse) -> Spent:
        asked.set()
        assert go_on.wait(10)
        return Spent(7, 0.0)

    seen = Told(Budget("b", tokens=10), account=lambda _: None, price=slow)
    seen(call())
    pump = threading.Thread(target=seen.budgets.settle)
    pump.start()
    assert asked.wait(10)
    found: list[float] = []
    checker = threading.Thread(target=lambda: found.append(seen.budgets.check(root_invocation_id="r").states[0].spent))
    checker.start()
    go_on.set()
    pump.join(10)
    checker.join(10)
    assert found == [7]


# -- who hears of it --------------------------------------------------------------------------------------------------


def test_a_threshold_is_an_event_of_the_run_that_has_reached_it_whoever_settles() -> None:
    cold = Cold()
    with small_bus(Budget("b", tokens=10), account=cold.account, price=cold.price) as bus:
        with agent("planner", conversation_id="talk") as run, run.llm("m") as block:
            block.record(input_tokens=8)
        cold.loaded = True
        bus.budgets.settle()
        cold.warm.add("m")
        with agent("planner") as direct, direct.llm("m") as block:
            block.record(input_tokens=9)
    assert [(hit.invocation_id, hit.agent, hit.conversation_id) for hit in bus.hits] == [
        (run.id, "planner", "talk"),
        (direct.id, "planner", None),
    ]


def test_a_threshold_that_cannot_be_told_costs_no_other() -> None:
    heard: list[float] = []

    def publish(name: str, data: dict[str, Any]) -> None:
        heard.append(data["threshold"])
        raise RuntimeError("nobody listens")

    Budgets([Budget("b", tokens=10)], account=told, publish=publish)(call(0, 10))
    assert heard == [0.8, 1.0]


def test_a_handler_of_a_threshold_may_spend_more() -> None:
    with small_bus(Budget("b", tokens=10)) as bus:

        def spend_more(event: Any) -> None:
            if event.data["threshold"] == 0.8:
                bus.emit(call(0, 5, root="r"))

        bus.router.subscribe(spend_more, "budget_threshold_hit")
        bus.emit(call(0, 8, root="r"))
        assert bus.budgets.check(root_invocation_id="r").states[0].spent == 13
    assert sorted(str(hit.data["threshold"]) for hit in bus.hits) == ["0.8", "1.0"]


def test_what_a_finaliser_tells_in_the_middle_of_our_own_work_is_counted_too() -> None:
    with small_bus(Budget("b", tokens=10**9, by="model")) as bus:

        class Dropped:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                bus.emit(call(0, 1, root="r", model="late"))

        before = gc.get_threshold()
        gc.set_threshold(5, 1, 1)
        try:
            for number in range(300):
                Dropped()
                bus.emit(call(0, 1, root="r", model=f"m{number % 7}"))
        finally:
            gc.set_threshold(*before)
        gc.collect()
        spent = [bus.budgets.check(root_invocation_id="r", model=f"m{n}").states[0].spent for n in range(7)]
        assert (sum(spent), bus.budgets.check(root_invocation_id="r", model="late").states[0].spent) == (300, 300)


# -- exact under threads ----------------------------------------------------------------------------------------------


def test_eight_threads_of_a_thousand_calls_are_counted_to_the_last_token_and_each_threshold_once() -> None:
    shares = tuple(n / 100 for n in range(1, 101))
    seen = Told(
        Budget("run", usd=800, thresholds=shares),
        Budget("day", tokens=8_000 * 7, window="1d", thresholds=shares),
        Budget("agents", usd=100, by="agent", thresholds=(0.5, 1.0)),
    )
    calls = [[call(0.1, 7, agent=f"a{thread}") for _ in range(1000)] for thread in range(8)]
    begin = threading.Barrier(8)

    def work(mine: list[LlmResponse]) -> None:
        begin.wait()
        seen(*mine)
        seen(*mine)  # all of it told twice

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(mine,)) for mine in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted((budget, share) for budget, _, share, *_ in seen.hits if budget != "agents") == sorted(
        (budget, share) for budget in ("run", "day") for share in shares
    )
    assert sorted((scope, share) for budget, _, scope, share, *_ in [h for h in seen.hits if h[0] == "agents"]) == [
        (f"a{thread}", share) for thread in range(8) for share in (0.5, 1.0)
    ]
    run, day, agents = seen.budgets.check(root_invocation_id="r", now_ns=MIDNIGHT, agent="a3").states
    assert (run.spent, day.spent, agents.spent) == (800.0, 56_000, 100.0)


class Hook(str):
    """A name that does something when it is looked up the n-th time: in the middle of the arithmetic."""

    then: Callable[[], object]
    left: int

    def __new__(cls, name: str, then: Callable[[], object], left: int = 1) -> Self:
        made = super().__new__(cls, name)
        made.then, made.left = then, left
        return made

    def __hash__(self) -> int:
        self.left -= 1
        if self.left == 0:
            self.then()
        return str.__hash__(self)

    __eq__ = str.__eq__


def test_a_call_is_counted_when_its_emit_returns_even_while_another_thread_is_counting() -> None:
    seen = Told(Budget("b", tokens=100, by="agent"))
    inside, go_on, returned = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(10)

    def tell_another() -> None:
        seen(call(0, 2, agent="a"))
        returned.set()

    first = threading.Thread(target=lambda: seen(call(0, 1, agent=Hook("a", wait))))
    second = threading.Thread(target=tell_another)
    first.start()
    assert inside.wait(10)
    second.start()
    assert not returned.wait(0.1)  # it cannot, however long it takes
    go_on.set()
    first.join()
    second.join()
    assert seen.budgets.check(root_invocation_id="r", agent="a").states[0].spent == 3


@pytest.mark.parametrize("lookup", range(1, 6))
def test_what_is_told_in_the_middle_of_the_arithmetic_is_counted_after_it(lookup: int) -> None:
    seen = Told(Budget("b", tokens=100, by="agent", thresholds=(0.03,)))
    name = Hook("a", lambda: seen(call(0, 2, agent="a")), lookup)
    seen(call(0, 1, agent=name), call(0, 10, agent="b"), call(0, 1, agent=name), call(0, 1, agent=name))
    assert seen.budgets.check(root_invocation_id="r", agent="a").states[0].spent == 5
    assert [hit[2] for hit in seen.hits].count("a") == 1


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_calls_that_are_told_after_the_end_of_their_run_still_count() -> None:
    seen = Told(Budget("b", tokens=10, thresholds=(0.5, 1)))
    end = AgentEnd(invocation_id="r", root_invocation_id="r")
    seen(call(0, 5), end, call(0, 4), end, call(0, 1))
    assert seen.hits == [("b", "r", 0.5, 5), ("b", "r", 1.0, 10)]


def test_scopes_are_bounded_runs_that_are_over_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "SCOPES", 3)
    seen = Told(Budget("b", tokens=10, thresholds=(1,)))
    seen(call(0, 9, root="r1"), call(0, 9, root="r2"), call(0, 9, root="r3"))
    seen(AgentEnd(invocation_id="sub", parent_invocation_id="r1", root_invocation_id="r1"))
    seen(AgentEnd(invocation_id="r2", root_invocation_id="r2"), call(0, 9, root="r4"))
    assert seen.budgets.health() == {"scopes": 3, "dropped_scopes": 0, "unsettled": 0, "overflowed": 0}
    spent = [seen.budgets.check(root_invocation_id=root).states[0].spent for root in ("r1", "r2", "r3", "r4")]
    assert spent == [9, 0, 9, 9]
    seen(call(0, 1, root="r1"), call(0, 1, root="r5"))  # r3 has been idle longest
    assert seen.budgets.health()["dropped_scopes"] == 1
    spent = [seen.budgets.check(root_invocation_id=root).states[0].spent for root in ("r1", "r3", "r4", "r5")]
    assert spent == [10, 0, 9, 1]
    for number in range(100):
        seen(
            call(0, 1, root=f"n{number}", agent="a"),
            AgentEnd(invocation_id=f"n{number}", root_invocation_id=f"n{number}"),
        )
    assert seen.budgets.health()["scopes"] == 3


def test_one_window_with_more_agents_than_there_is_room_for_forgets_the_one_idle_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "SCOPES", 2)
    seen = Told(Budget("b", tokens=10, by="agent", window="1d", thresholds=(1,)))
    seen(call(0, 5, agent="x"), call(0, 5, agent="y"), call(0, 4, agent="x"), call(0, 5, agent="z"))
    spent = [seen.budgets.check(agent=name, now_ns=MIDNIGHT).states[0].spent for name in "xyz"]
    assert (spent, seen.budgets.health()["dropped_scopes"]) == ([9, 0, 5], 1)
    seen(call(0, 5, agent="x", time_ns=MIDNIGHT + DAY), call(0, 5, agent="y", time_ns=MIDNIGHT + DAY))
    assert seen.budgets.health() == {"scopes": 2, "dropped_scopes": 1, "unsettled": 0, "overflowed": 0}


def test_hostile_names_and_times_are_counted_like_others() -> None:
    seen = Told(Budget("b", tokens=10, by="agent", window="1d"), Budget("r", tokens=10, by="model"))
    hostile: list[Any] = [["a"], {}, 3, "", "\ud800", "x" * 10_000]
    for value in hostile:
        seen(call(0, 10, agent=value, model=value, time_ns=10**30))
        seen(call(0, 10, agent="a", model=value, root=value or "r0", time_ns="yesterday"))  # type: ignore[arg-type]
    assert len(seen.hits) == 6 * 6 + 2  # agent "a" has used up its budget with its first call
    event = call(0, 10, id=["c"])  # type: ignore[arg-type]
    seen(event, event)
    assert len(seen.hits) == 38 + 4


# -- gauge and fork ---------------------------------------------------------------------------------------------------


def test_used_is_the_fullest_scope_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Told(Budget("run", usd=2, tokens=100), Budget("day", tokens=100, window="1d", by="agent"))
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT)
    assert seen.budgets.used() == {"run": 0.0, "day": 0.0}
    seen(call(0.5, 10, root="r1", agent="x"), call(1.0, 40, root="r2", agent="y"), call(1.0, 90, agent="x", time_ns=0))
    assert seen.budgets.used() == {"run": 0.9, "day": 0.4}
    seen(AgentEnd(invocation_id="r", root_invocation_id="r"))
    assert seen.budgets.used() == {"run": 0.9, "day": 0.4}  # whoever looks now and then is to see it, too
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT + metering.LINGER_NS + 1)
    assert seen.budgets.used() == {"run": 0.5, "day": 0.4}
    seen(AgentStart(invocation_id="r", root_invocation_id="r", attempt=2))
    assert seen.budgets.used() == {"run": 0.9, "day": 0.4}
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT + DAY)
    assert seen.budgets.used() == {"run": 0.9, "day": 0.0}


def test_a_run_whose_calls_are_settled_after_its_end_is_not_in_use_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT)
    cold = Cold()
    seen = Told(Budget("b", tokens=10), account=cold.account, price=cold.price)
    seen(call(0, 9), AgentEnd(invocation_id="r", root_invocation_id="r"))
    cold.loaded = True
    seen.budgets.settle()
    assert seen.budgets.used() == {"b": 0.9}
    monkeypatch.setattr(clock, "time_ns", lambda: MIDNIGHT + metering.LINGER_NS + 1)
    assert seen.budgets.used() == {"b": 0.0}


def test_used_is_what_a_walk_over_all_runs_would_find(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(5)
    now = [0]
    monkeypatch.setattr(clock, "time_ns", lambda: now[0])
    monkeypatch.setattr(metering, "SPARE", 5)
    seen = Told(Budget("b", tokens=1000, by="agent"))
    spent: dict[tuple[str, str], int] = {}
    over: dict[str, int] = {}
    for _ in range(3000):
        now[0] += random.randrange(metering.LINGER_NS // 20)
        root, name = f"r{random.randrange(40)}", random.choice("ab")
        match random.randrange(10):
            case 0 | 1 | 2:
                seen(AgentEnd(invocation_id=root, root_invocation_id=root))
                over[root] = now[0]
            case 3:
                seen(AgentStart(invocation_id=root, root_invocation_id=root))
                over.pop(root, None)
            case 4 | 5:
                living = [n for (r, _), n in spent.items() if now[0] - over.get(r, now[0]) <= metering.LINGER_NS]
                assert seen.budgets.used() == {"b": max(living, default=0) / 1000}
            case _:
                tokens = random.randrange(20)
                seen(call(0, tokens, root=root, agent=name))
                spent[root, name] = spent.get((root, name), 0) + tokens


def test_what_a_call_of_a_new_run_takes_does_not_grow_with_the_runs_that_are_over() -> None:
    meter = metering.Meter(Budget("b", tokens=10**12), 10_000)

    def run(number: int) -> None:
        meter.add(spending.Where(f"r{number}", 1, None, None, None, None, None), 1, None)
        meter.end(f"r{number}", 1)

    for number in range(10_100):
        run(number)
    tracemalloc.start()
    try:
        for number in range(10_100, 10_110):
            run(number)
        assert tracemalloc.get_traced_memory()[1] < 40_000  # a list of all runs takes twice as much
    finally:
        tracemalloc.stop()


def test_what_had_to_make_room_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "SCOPES", 2)
    seen = Told(Budget("b", tokens=10))
    seen(call(0, 9, root="r1"), call(0, 8, root="r2"))
    assert seen.budgets.used() == {"b": 0.9}
    seen(AgentEnd(invocation_id="r2", root_invocation_id="r2"), call(0, 1, root="r3"))
    assert seen.budgets.used() == {"b": 0.9}
    seen(call(0, 1, root="r3"), call(0, 1, root="r4"))
    assert seen.budgets.used() == {"b": 0.2}


def test_the_shares_that_were_surpassed_are_kept_within_bounds() -> None:
    meter = metering.Meter(Budget("b", tokens=10**6), 20)
    for number in range(5_000):
        meter.add(spending.Where(f"r{number % 30}", 1, None, None, None, None, None), number % 7, None)
        assert len(meter._heap) <= 2 * 20 + metering.SPARE
    assert meter.size == 20


def test_what_is_used_is_not_looked_for_in_the_middle_of_the_arithmetic() -> None:
    seen = Told(Budget("b", tokens=10, by="agent"))
    found: list[dict[str, float]] = []
    seen(call(0, 1), call(0, 5, agent=Hook("a", lambda: found.append(seen.budgets.used()))))
    assert (found, seen.budgets.used()) == ([{"b": 0.0}], {"b": 0.5})  # then what was found last, now what is


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_child_of_a_fork_begins_with_nothing_spent_and_no_lock_held() -> None:
    seen = Told(Budget("b", tokens=10), account=lambda e: told(e) if e.model == "m" else None)
    seen(call(0, 9), call(0, 9, model="cold"))
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with seen.budgets._lock, seen.budgets._settling:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    child = os.fork()
    if child == 0:
        try:
            seen.budgets.after_fork()
            fresh = seen.budgets.check(root_invocation_id="r").states[0].spent == 0
            seen.published.clear()
            seen(call(0, 10))
            os._exit(0 if fresh and len(seen.hits) == 2 and not seen.budgets.health()["unsettled"] else 1)
        finally:
            os._exit(2)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
