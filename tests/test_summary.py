"""What a process has used, by agent and model: as data, however many and however named they are."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    ToolCall,
)
from otel_agentbus.telemetry.accounts import NOTHING, Account
from otel_agentbus.telemetry.latencies import Latencies
from otel_agentbus.telemetry.ledger import Ledger
from otel_agentbus.telemetry.summary import ROWS, AgentRow, Summary, SummaryData, SummaryRow
from otel_agentbus.telemetry.usage import Usage

from .bridging import at

UNTOLD = Usage(None, None, None, None, None)


class Listed:
    """A price list: 2 USD for a million input tokens, 10 for a million output tokens, of one model."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        if event.model != "gpt-5":
            return None, "unknown_model"
        return ((usage.input or 0) * 2 + (usage.output or 0) * 10) / 1e6, "priced"

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        pass


def summary(*events: Event, prices: Any = None) -> Summary:
    """What a summary has after a ledger has entered these."""
    ledger, heard = Ledger(prices), Summary()
    for event in events:
        heard(ledger.enter(event))
    return heard


def call(agent: Any = "writer", model: Any = "gpt-5", *, account: Account | None = None, **fields: Any) -> LlmResponse:
    said = {"model_provider": "openai", "duration": 1.0, "success": fields.get("outcome", "ok") == "ok", **fields}
    event = LlmResponse(agent=agent, model=model, **said)
    if account is not None:
        event.account = account
    return event


def row(agent: str | None = "writer", model: str | None = "gpt-5", **fields: Any) -> SummaryRow:
    return SummaryRow(agent, fields.pop("provider", "openai"), model, **fields)


def total(**fields: Any) -> SummaryRow:
    return SummaryRow(None, None, None, **fields)


def test_a_summary_that_heard_nothing_is_empty() -> None:
    data = Summary().read()
    assert data == SummaryData((), (), total())
    assert data.is_empty


def test_a_small_program_is_summed_up_by_agent_and_model() -> None:
    run: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r", "agent": "writer"}
    heard = summary(
        HeartbeatTick(),
        AgentStart(time_ns=at(0), model_provider="openai", model="gpt-5", **run),
        LlmRequest(time_ns=at(0), call_id="1", model_provider="openai", model="gpt-5", messages_count=1, **run),
        call(
            time_ns=at(1),
            call_id="1",
            input_tokens=1000,
            output_tokens=200,
            cache_read_input_tokens=600,
            cache_write_input_tokens=100,
            reasoning_output_tokens=50,
            **run,
        ),
        call(time_ns=at(2), call_id="2", input_tokens=500, output_tokens=10, duration=3.0, **run),
        call(time_ns=at(3), call_id="3", outcome="error", duration=0.5, **run),
        call(time_ns=at(3), call_id="4", outcome="cancelled", cost_usd=0.1, duration=0.5, **run),
        call(time_ns=at(4), call_id="5", model="llama", input_tokens=7, output_tokens=1, **run),
        call(time_ns=at(4), call_id="5", model="llama", input_tokens=7, output_tokens=1, **run),
        CacheHit(time_ns=at(5), cache_type="response", tokens_saved=1_000_000, **run),
        ToolCall(time_ns=at(5), tool="search", duration=1.0, success=True, **run),
        ToolCall(time_ns=at(5), tool="search", duration=1.0, success=False, **run),
        AgentEnd(time_ns=at(6), **run),
        AgentEnd(time_ns=at(6), agent="reader", outcome="cancelled"),
        prices=Listed(),
    )
    assert heard.read() == SummaryData(
        rows=(
            row(
                calls=4,
                errors=1,
                cancelled=1,
                input=1500,
                output=210,
                cached=600,
                cache_write=100,
                reasoning=50,
                cost=0.1051,
                saved=2.0,
                p50=pytest.approx(0.5, rel=0.01),
                p95=3.0,
            ),
            row(
                model="llama", calls=1, input=7, output=1, reasons={"unknown_model": 1}, duplicates=1, p50=1.0, p95=1.0
            ),
        ),
        agents=(AgentRow("writer", {"ok": 1}, tools=2, tool_errors=1), AgentRow("reader", {"cancelled": 1})),
        total=total(
            calls=5,
            errors=1,
            cancelled=1,
            input=1507,
            output=211,
            cached=600,
            cache_write=100,
            reasoning=50,
            cost=0.1051,
            saved=2.0,
            reasons={"unknown_model": 1},
            duplicates=1,
            p50=pytest.approx(1.0, rel=0.01),
            p95=3.0,
        ),
    )
    assert [found.unpriced for found in heard.read().rows] == [0, 1]  # the call that failed has used nothing
    assert heard.read().total.unpriced == 1


def test_a_cost_that_nobody_knows_is_none_and_one_of_nothing_is_0() -> None:
    cached = Account(NOTHING, 0.0, "cached", 0.25)
    found = summary(call("a"), call("b", account=None, cost_usd=0.0)).read().rows
    assert [each.cost for each in found] == [None, 0.0]
    heard = Summary()
    heard(call(account=cached))
    assert heard.read().rows == (row(calls=1, cost=0.0, saved=0.25, p50=1.0, p95=1.0),)


def test_money_is_added_up_as_it_is_written() -> None:
    heard = Summary()
    for _ in range(10):
        heard(call(account=Account(UNTOLD, 0.1, "priced", 0.2)))
    heard(call(account=Account(UNTOLD, 1e-12, "priced")))
    found = heard.read().total
    assert (found.cost, found.saved) == (1.000000000001, 2.0)


def test_a_call_that_was_told_without_tokens_first_is_completed_by_its_second_telling() -> None:
    ids: dict[str, Any] = {"call_id": "1", "invocation_id": "r", "root_invocation_id": "r"}
    events = [call(**ids), call(**ids, input_tokens=1000, output_tokens=0, duration=9.0), call(**ids)]
    assert summary(*events[:1], prices=Listed()).read().total.reasons == {"no_usage": 1}
    assert summary(*events, prices=Listed()).read().rows == (
        row(calls=1, input=1000, cost=0.002, duplicates=2, p50=1.0, p95=1.0),
    )


TOKENS = {"input_tokens": 10, "output_tokens": 1}
COST = {"cost_usd": 0.5}


@pytest.mark.parametrize(
    ("model", "first", "second", "cost", "reasons"),
    [
        ("llama", {}, TOKENS, None, {"unknown_model": 1}),
        ("llama", TOKENS, COST, 0.5, {}),
        ("gpt-5", {}, COST, 0.5, {}),
        ("gpt-5", {}, TOKENS | COST, 0.5, {}),
        ("gpt-5", COST, TOKENS, 0.5, {}),
        ("gpt-5", TOKENS, TOKENS, 0.00003, {}),
        ("gpt-5", {}, {}, None, {"no_usage": 1}),
    ],
)
def test_what_two_tellings_know_of_one_call_is_put_together(
    model: str, first: dict[str, Any], second: dict[str, Any], cost: float | None, reasons: dict[str, int]
) -> None:
    ids: dict[str, Any] = {"call_id": "1", "invocation_id": "r", "root_invocation_id": "r", "model": model}
    used = {"input": 10, "output": 1} if "input_tokens" in first | second else {}
    heard = summary(call(**ids, **first), call(**ids, **second), prices=Listed())
    assert heard.read().total == total(calls=1, **used, cost=cost, reasons=reasons, duplicates=1, p50=1.0, p95=1.0)


def test_the_model_that_answered_is_the_one_that_is_shown() -> None:
    heard = summary(call(response_model="gpt-5-2025-08-07"), call(response_model=""), call(model_provider="OpenAI"))
    assert [(found.provider, found.model, found.calls) for found in heard.read().rows] == [
        ("openai", "gpt-5-2025-08-07", 1),
        ("openai", "gpt-5", 2),
    ]


def test_an_answer_before_any_call_saves_one_to_the_model_of_its_run() -> None:
    run: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r"}
    heard = summary(
        AgentStart(agent="writer", model_provider="openai", model="gpt-5", **run),
        CacheHit(cache_type="response", tokens_saved=1000, **run),
        AgentEnd(**run),
        prices=Listed(),
    )
    assert heard.read() == SummaryData((row(saved=0.002),), (AgentRow("writer", {"ok": 1}),), total(saved=0.002))


def test_what_was_read_does_not_change_any_more() -> None:
    heard = summary(call(), AgentEnd(agent="writer"))
    before = heard.read()
    written = json.dumps(dataclasses.asdict(before))
    heard(call())
    heard(AgentEnd(agent="writer"))
    assert json.dumps(dataclasses.asdict(before)) == written
    assert heard.read().total.calls == 2


def test_a_child_of_a_fork_starts_from_nothing() -> None:
    heard = summary(call(), AgentEnd(agent="writer"))
    heard._lock.acquire()  # by a thread of the parent that the child does not have
    heard.forget()
    assert heard.read().is_empty
    thread = threading.Thread(target=heard, args=(call(),))
    thread.start()
    thread.join(5)
    assert heard.read().total.calls == 1


# -- bounds -----------------------------------------------------------------------------------------------------------
def test_what_finds_no_row_is_summed_up_in_one_that_says_so() -> None:
    heard = Summary()
    for number in range(2000):
        heard(call(f"agent-{number}", account=Account(Usage(1, 2, None, None, None), 0.001, "priced")))
        heard(ToolCall(agent=f"agent-{number}", tool="t", duration=1.0, success=True))
    data = heard.read()
    assert (len(data.rows), len(data.agents)) == (ROWS, ROWS)
    left = 2000 - ROWS + 1
    assert data.rows[0] == row("agent-0", calls=1, input=1, output=2, cost=0.001, p50=1.0, p95=1.0)
    assert data.rows[-1] == SummaryRow(
        *("other", "other", "other"),
        calls=left,
        input=left,
        output=2 * left,
        cost=left / 1000,
        p50=1.0,
        p95=1.0,
        folded=True,
    )
    assert data.agents[-1] == AgentRow("other", {}, tools=left, folded=True)
    assert (data.total.calls, data.total.cost) == (2000, 2.0)


class Nameless:
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Hashless(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise RuntimeError("no")


HOSTILE = ["", "x" * 10_000, "\ud800", "名" * 200, 7, 2**70, True, None, [], {}, Nameless(), Hashless("h"), b"b", 1.5]


@pytest.mark.parametrize("field", ["agent", "model", "model_provider", "response_model"])
def test_hostile_names_cost_no_call(field: str) -> None:
    heard = Summary()
    for name in HOSTILE:
        heard(call(**{field: name}, account=Account(NOTHING, 1.0, "priced")))
    heard(AgentEnd(agent=HOSTILE[-4], outcome="odd"))  # type: ignore[arg-type]
    data = heard.read()
    assert (heard.failed, data.total.calls, data.total.cost) == (0, len(HOSTILE), float(len(HOSTILE)))
    names = [name for found in data.rows for name in (found.agent, found.provider, found.model)]
    assert all(name is None or len(name.encode()) <= 3 * 128 for name in names)
    assert data.agents == (AgentRow(None, {"other": 1}),)


@pytest.mark.parametrize("duration", [None, -1.0, math.nan, math.inf, 1e12, "1", 10**400])
def test_a_duration_that_cannot_be_true_costs_no_call(duration: Any) -> None:
    heard = summary(call(duration=duration))
    assert (heard.read().total.calls, heard.read().total.p50) == (1, None)


def test_threads_lose_nothing_and_may_read_meanwhile() -> None:
    heard = Summary()
    account = Account(Usage(1, 2, None, None, None), 0.001, "priced")

    def tell(agent: str) -> None:
        for _ in range(3000):
            heard(call(agent, account=account))

    threads = [threading.Thread(target=tell, args=(agent,)) for agent in ("a", "b")]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        found = heard.read().total
        seen.append((found.input == found.calls, found.output == 2 * found.calls))
    assert set(seen) <= {(True, True)}
    assert heard.read() == SummaryData(
        rows=tuple(
            row(each.agent, calls=3000, input=3000, output=6000, cost=3.0, p50=1.0, p95=1.0)
            for each in heard.read().rows
        ),
        agents=(),
        total=total(calls=6000, input=6000, output=12_000, cost=6.0, p50=1.0, p95=1.0),
    )
    assert {each.agent for each in heard.read().rows} == {"a", "b"}


# -- against a naive model --------------------------------------------------------------------------------------------
counts = st.none() | st.integers(0, 10**9)
usages = st.builds(Usage, counts, counts, counts, counts, counts, st.just(0))
costs = st.floats(0, 1e6, allow_nan=False)
reasons = st.sampled_from(["no_usage", "invalid_usage", "unknown_model", "no_price_source"])
why = st.sampled_from([None, None, "call_id", "enclosing"])
known = st.builds(Account, usages, costs, st.sampled_from(["priced", "reported"]), costs, why)
unknown = st.builds(Account, usages, st.none(), reasons, st.just(0.0), why)
again = st.builds(Account, usages | st.just(NOTHING), st.none(), st.just("duplicate"), st.just(0.0), st.just("call_id"))
names = st.sampled_from(["a", "b", None])
Telling = tuple[str | None, str | None, Account, str]
tellings: st.SearchStrategy[list[Telling]] = st.lists(
    st.tuples(names, names, known | unknown | again, st.sampled_from(["ok", "error", "cancelled"]))
)


@given(tellings)
def test_any_sequence_of_accounts_gives_its_sums(told: list[Telling]) -> None:
    heard = Summary()
    for agent, model, account, outcome in told:
        heard(call(agent, model, account=account, outcome=outcome))
    data = heard.read()
    groups: dict[tuple[str | None, str | None], list[Telling]] = {}
    for telling in told:
        groups.setdefault(telling[:2], []).append(telling)
    assert data.rows == tuple(row(*names, **naive(group)) for names, group in groups.items())
    left = sum((Counter(unpriced(group)) for group in groups.values()), Counter())
    assert data.total == total(**naive(told) | {"reasons": left})


def naive(told: list[Telling]) -> dict[str, Any]:
    accounts = [account for _, _, account, _ in told]
    outcomes = [outcome for _, _, account, outcome in told if account.duplicate is None]
    spent = [Fraction(repr(account.cost_usd)) for account in accounts if account.cost_usd is not None]
    saved = sum(Fraction(repr(account.saved_usd)) for account in accounts)

    def tokens(part: str) -> int:
        return sum(getattr(account.usage, part) or 0 for account in accounts)

    return {
        "calls": len(outcomes),
        "errors": outcomes.count("error"),
        "cancelled": outcomes.count("cancelled"),
        "input": tokens("input"),
        "output": tokens("output"),
        "cached": tokens("cache_read"),
        "cache_write": tokens("cache_write"),
        "reasoning": tokens("reasoning"),
        "cost": pytest.approx(float(sum(spent)), rel=1e-15, abs=0) if spent else None,
        "saved": pytest.approx(float(saved), rel=1e-15, abs=0),
        "reasons": unpriced(told),
        "duplicates": len(told) - len(outcomes),
        "p50": 1.0 if outcomes else None,
        "p95": 1.0 if outcomes else None,
    }


def unpriced(told: list[Telling]) -> dict[str, int]:
    """The reasons of the calls; a later telling that knows more puts its own, or none, in the place of one of them."""
    found: list[str] = []
    for _, _, account, outcome in told:
        if account.duplicate is None and account.cost_status == "no_usage" and outcome == "error":
            continue  # it failed before it used anything
        if account.duplicate is not None:
            untold = [reason for reason in ("no_usage", "invalid_usage") if reason in found]
            others = [] if account.usage[:2] != (None, None) else sorted({*found} - {*untold})
            if account.cost_status == "duplicate" or not (others or untold):
                continue
            found.remove([*others, *untold][0])
        if account.cost_usd is None:
            found.append(account.cost_status)
    return dict(Counter(found))


durations = st.lists(st.floats(1e-6, 3e7), min_size=1)


@given(durations, durations, st.sampled_from([50, 95]))
def test_quantiles_are_right_to_a_hundredth(first: list[float], second: list[float], percent: int) -> None:
    one, other = Latencies(), Latencies()
    for duration in first:
        one.add(duration)
    for duration in second:
        other.add(duration)
    assert one.quantile(percent) == pytest.approx(exact(first, percent), rel=0.01)
    one.merge(other)
    assert one.quantile(percent) == pytest.approx(exact(first + second, percent), rel=0.01)


def exact(durations: list[float], percent: int) -> float:
    return sorted(durations)[-(-percent * len(durations) // 100) - 1]


def test_calls_that_took_no_time_took_none() -> None:
    took = Latencies()
    for duration in (0.0, 0.0, 1e-9, 2.0):
        took.add(duration)
    assert (took.quantile(50), took.quantile(95)) == (0.0, 2.0)


def test_however_different_durations_are_they_need_bounded_room() -> None:
    took = Latencies()
    for step in range(-80_000, 80_000, 10):
        took.add(10 ** (step / 10_000))
    assert 1500 < len(took._buckets) <= 1600


def test_an_end_that_is_told_again_is_one_run_and_one_tool_call() -> None:
    ids: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r", "agent": "a", "source": "s"}
    events: list[Event] = []
    for number in range(3):
        events.append(ToolCall(tool="t", tool_call_id="c", duration=1.0, success=False, seq=2 * number, **ids))
        events.append(AgentEnd(seq=2 * number + 1, **ids))
    assert summary(*events).read().agents == (AgentRow("a", {"ok": 1}, tools=1, tool_errors=1),)
