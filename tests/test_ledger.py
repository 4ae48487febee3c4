"""That each model call is entered once, whoever tells of it and however often, and that no two calls become one."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import tracemalloc
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_agentbus.events import AgentEnd, AgentStart, CacheHit, Event, LlmRequest, LlmResponse, ToolCall
from otel_agentbus.telemetry.accounts import NOTHING, Account, RunAccount
from otel_agentbus.telemetry.ledger import Ledger
from otel_agentbus.telemetry.recent import Recent
from otel_agentbus.telemetry.usage import Usage

SECOND = 1_000_000_000
RUN: dict[str, Any] = {"invocation_id": "run", "root_invocation_id": "run"}


class PerToken:
    """A token in costs a dollar, a token out two."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        if isinstance(event.model, str) and event.model == "unknown":
            return None, "unknown_model"
        return (usage.input or 0) + 2.0 * (usage.output or 0), "priced"

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        pass


class Failing:
    """A price list of the program's own that does not work."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        raise RuntimeError("no price")

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        raise RuntimeError("no price")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(PerToken())


def request(call_id: Any = None, **fields: Any) -> LlmRequest:
    given = {"model_provider": "openai", "model": "gpt-4o", "messages_count": 1, "call_id": call_id}
    return LlmRequest(**{**RUN, **given, **fields})


def response(call_id: Any = None, tokens: tuple[int, int] | None = (10, 5), **fields: Any) -> LlmResponse:
    counts = {} if tokens is None else {"input_tokens": tokens[0], "output_tokens": tokens[1]}
    given = {"model_provider": "openai", "model": "gpt-4o", "duration": 1.0, "success": True, "call_id": call_id}
    return LlmResponse(**{**RUN, **counts, **given, **fields})


def told(ledger: Ledger, *events: Event) -> list[Any]:
    """Why each response is a duplicate, None where it is not; of a completing one, with what it adds."""
    found: list[Any] = []
    for event in events:
        account = ledger.judge(event)
        if isinstance(event, LlmResponse):
            adds = account.usage[:2] if account.duplicate and account.usage != NOTHING else None
            found.append((account.duplicate, adds) if adds else account.duplicate)
    return found


def priced(tokens_in: int, tokens_out: int) -> Account:
    return Account(Usage(tokens_in, tokens_out, None, None, None), tokens_in + 2.0 * tokens_out, "priced")


def again(why: str) -> Account:
    return Account(NOTHING, None, "duplicate", duplicate=why)


# -- the same call, under the same name -------------------------------------------------------------------------------


def test_an_end_that_is_told_three_times_adds_once(ledger: Ledger) -> None:
    once = response("a")
    accounts = [ledger.judge(event) for event in (request("a"), once, once, response("a"))]
    assert accounts == [None, priced(10, 5), again("call_id"), again("call_id")]


def test_an_event_without_a_call_id_is_known_by_its_number(ledger: Ledger) -> None:
    first, second = response(source="s", seq=1), response(source="s", seq=2)
    assert told(ledger, first, first, second, response(source="other", seq=1)) == [None, "event", None, None]


def test_events_without_id_and_number_are_calls_of_their_own(ledger: Ledger) -> None:
    assert told(ledger, response(), response(), response(None)) == [None] * 3


@pytest.mark.parametrize(
    "other",
    [
        {"invocation_id": "other"},
        {"root_invocation_id": "other"},
        {"attempt": 2},
        {"invocation_id": None, "root_invocation_id": None},
        {"invocation_id": "other", "root_invocation_id": "other"},
    ],
    ids=str,
)
def test_the_same_call_id_elsewhere_is_another_call(ledger: Ledger, other: dict[str, Any]) -> None:
    assert told(ledger, response("a"), response("a", **other), response("a"), response("a", **other)) == [
        *(None, None),
        *("call_id", "call_id"),
    ]


class Sly(str):
    """A text that says that it equals every other one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "sly"


HOSTILE_IDS: list[Any] = [
    *("a", "A", " a", "a\0", "1", "1.0", "True", "None", "\ud800", "x" * 10_000, "x" * 10_001, "\0int 1"),
    *(1, 1.0, True, 2**61, -1, -2, float("inf"), b"a", uuid.UUID(int=1), Sly("b"), Sly("c")),
]


@settings(max_examples=60)
@given(st.permutations(HOSTILE_IDS))
def test_calls_under_hostile_ids_are_never_taken_for_one_and_each_is_recognised(ids: list[Any]) -> None:
    ledger = Ledger(PerToken())
    assert told(ledger, *(response(call_id) for call_id in ids)) == [None] * len(ids)
    assert told(ledger, *(response(call_id) for call_id in ids)) == ["call_id"] * len(ids)


@pytest.mark.parametrize("nothing", ["", [], {}, object(), 10**5000], ids=["text", "list", "dict", "object", "int"])
def test_what_tells_nothing_apart_is_no_id(ledger: Ledger, nothing: Any) -> None:
    fields: dict[str, Any] = {"invocation_id": nothing, "root_invocation_id": nothing, "response_id": nothing}
    assert told(ledger, response(nothing, **fields), response(nothing, **fields)) == [None, None]
    assert ledger.failed == 0


def test_an_id_that_is_told_as_text_and_as_a_subclass_of_it_is_one(ledger: Ledger) -> None:
    assert told(ledger, response("b"), response(Sly("b"))) == [None, "call_id"]


# -- what a later telling knows more -----------------------------------------------------------------------------------


def test_a_second_telling_adds_the_usage_that_the_first_did_not_know_and_a_third_nothing(ledger: Ledger) -> None:
    accounts = [ledger.judge(response("a", tokens)) for tokens in (None, None, (10, 5), (10, 5))]
    assert accounts == [
        Account(NOTHING, None, "no_usage"),
        again("call_id"),
        priced(10, 5)._replace(duplicate="call_id"),
        again("call_id"),
    ]


def test_what_is_paid_already_is_not_paid_again_when_its_tokens_become_known(ledger: Ledger) -> None:
    first, second = ledger.judge(response("a", None, cost_usd=3.0)), ledger.judge(response("a"))
    assert first == Account(NOTHING, 3.0, "reported")
    assert second == Account(Usage(10, 5, None, None, None), None, "duplicate", duplicate="call_id")


def test_a_cost_that_becomes_known_later_is_added_without_the_tokens(ledger: Ledger) -> None:
    first, second, third = (ledger.judge(response("a", model="unknown", cost_usd=cost)) for cost in (None, 0.5, 0.5))
    assert first == Account(Usage(10, 5, None, None, None), None, "unknown_model")
    assert second == Account(NOTHING, 0.5, "reported", duplicate="call_id")
    assert third == again("call_id")


# -- by the response's id ----------------------------------------------------------------------------------------------


def side(call_id: str, start: float, end: float, **fields: Any) -> LlmResponse:
    return response(call_id, duration=end - start, time_ns=int(end * SECOND), response_id="r", **fields)


@pytest.mark.parametrize("order", [1, -1], ids=["framework first", "provider first"])
def test_a_framework_and_its_provider_side_by_side_are_known_by_the_response(ledger: Ledger, order: int) -> None:
    both = [side("framework", 1.0, 2.0), side("provider", 1.1, 1.9)][::order]
    assert told(ledger, *both, *both) == [None, "response_id", "call_id", "call_id"]


def test_a_telling_that_has_lost_its_run_is_recognised_by_the_response(ledger: Ledger) -> None:
    lost = {"invocation_id": None, "root_invocation_id": None}
    assert told(ledger, side("framework", 1, 2), side("provider", 1, 2, **lost)) == [None, "response_id"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (side("a", 1, 2), side("b", 2, 3)),
        (side("a", 1, 2), side("b", 1, 2, model="gpt-4o-mini")),
        (side("a", 1, 2), side("b", 1, 2, tokens=(10, 6))),
        (side("a", 1, 2), side("b", 1, 2, tokens=(11, 5))),
        (side("a", 1, 2), side("b", 1, 2, attempt=2)),
        (side("a", 1, 2), side("b", 1, 2, invocation_id="other")),
        (side("a", 1, 1), side("b", 2, 2)),
    ],
    ids=["later", "model", "output", "input", "attempt", "run", "later moment"],
)
def test_an_id_that_a_test_double_gives_to_every_response_says_nothing(
    ledger: Ledger, first: LlmResponse, second: LlmResponse
) -> None:
    third = dataclasses.replace(first, call_id="c")
    assert told(ledger, first, second, third) == [None, None, None]


def test_what_was_cached_or_thought_may_be_counted_apart(ledger: Ledger) -> None:
    whole = side("a", 1, 2, tokens=(110, 25), cache_read_input_tokens=100, reasoning_output_tokens=20)
    assert told(ledger, whole, side("b", 1, 2, tokens=(10, 5))) == [None, "response_id"]


def test_calls_one_after_the_other_are_told_apart_by_their_requests_where_the_clock_stands_still(
    ledger: Ledger,
) -> None:
    events = [event for call in "abc" for event in (request(call), side(call, 1, 1))]
    assert told(ledger, *events) == [None] * 3


def test_calls_that_are_answered_in_turn_are_told_apart(ledger: Ledger) -> None:
    requests = [request(call) for call in "abc"]
    assert told(ledger, *requests, *(side(call, 1, 2) for call in "abc")) == [None] * 3


def test_blocks_of_which_none_encloses_the_other_are_calls_of_their_own(ledger: Ledger) -> None:
    requests = [request(call) for call in "abc"]
    for event in requests:
        event.origin = "a block"
    assert told(ledger, *requests, *(side(call, 1, 2) for call in "cba")) == [None] * 3


# -- by the place ------------------------------------------------------------------------------------------------------


def inside(call_id: str, tokens: tuple[int, int] | None = (10, 5), within: str = "outer", **fields: Any) -> LlmResponse:
    return response(call_id, tokens, parent_call_id=f"llm:{within}", **fields)


def test_a_provider_inside_of_its_framework_is_the_same_call(ledger: Ledger) -> None:
    events = [request("outer"), request("inner", parent_call_id="llm:outer"), inside("inner"), response("outer")]
    assert told(ledger, *events, inside("inner"), response("outer")) == [None, "enclosing", "call_id", "call_id"]


def test_a_provider_that_ends_after_its_framework_is_the_same_call_and_the_next_is_not(ledger: Ledger) -> None:
    events = [request("outer"), response("outer"), inside("inner"), inside("other")]
    assert told(ledger, *events, inside("inner")) == [None, "enclosing", None, "call_id"]


def test_wrappers_upon_wrappers_are_one_call_whichever_of_them_knows_the_usage(ledger: Ledger) -> None:
    for number, known in enumerate(itertools.product([None, (10, 5)], repeat=3)):
        run = {"invocation_id": f"{number}", "root_invocation_id": f"{number}"}
        names = ["leaf", "middle", "outer", None]
        within = {
            name: {"parent_call_id": f"llm:{above}"} if above else {} for name, above in itertools.pairwise(names)
        }
        asked = [request(name, **run, **within[name]) for name in reversed(names[:-1])]
        ends = [response(name, tokens, **run, **within[name]) for name, tokens in zip(names, known, strict=False)]
        accounts = [account for event in (*asked, *ends, *ends) if (account := ledger.judge(event)) is not None]
        assert sum(account.duplicate is None for account in accounts) == 1
        assert sum(account.usage.input or 0 for account in accounts) == (10 if any(known) else 0)
        assert sum(account.cost_usd or 0 for account in accounts) == (20 if any(known) else 0)


def test_attempts_inside_of_a_framework_are_calls_and_the_framework_is_none(ledger: Ledger) -> None:
    failed = inside("first", None, success=False)
    events = [request("outer"), failed, inside("second"), inside("third", (7, 3)), response("outer", (17, 8))]
    assert told(ledger, *events) == [None, None, None, "enclosing"]


def test_a_framework_that_goes_elsewhere_after_a_failure_inside_is_a_call_of_its_own(ledger: Ledger) -> None:
    assert told(ledger, request("outer"), inside("a", None, success=False), response("outer")) == [None, None]
    failed = [request("b"), inside("c", None, "b", success=False), response("b", None, success=False)]
    assert told(ledger, *failed) == [None, "enclosing"]


def test_of_several_calls_inside_the_one_that_knew_nothing_gets_what_is_left(ledger: Ledger) -> None:
    events = [request("outer"), inside("a"), inside("b", None), response("outer", (30, 15))]
    accounts = [ledger.judge(event) for event in events]
    assert accounts[1:] == [priced(10, 5), again("enclosing"), Account(Usage(20, 10, None, None, None), 40.0, "priced")]


def test_several_calls_inside_that_knew_nothing_are_as_many_calls(ledger: Ledger) -> None:
    events = [request("outer"), inside("a", None), inside("b", None), inside("c", None), response("outer", (30, 15))]
    accounts = [ledger.judge(event) for event in events]
    unknown = Account(NOTHING, None, "no_usage")
    assert accounts[1:] == [again("enclosing"), unknown, unknown, priced(30, 15)]


@pytest.mark.parametrize(
    "guard",
    [
        inside("guard", model="gpt-4o-mini"),
        inside("guard", (400, 1)),
        response("guard", parent_call_id="outer"),
        inside("guard", invocation_id="sub-agent"),
        inside("guard", attempt=2),
    ],
    ids=["model", "counts", "tool", "run", "attempt"],
)
@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
def test_another_call_inside_of_a_call_is_another_call(ledger: Ledger, guard: LlmResponse, order: int) -> None:
    assert told(ledger, request("outer"), *[guard, response("outer", (100, 20))][::order]) == [None, None]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("openai/gpt-4o", "gpt-4o-2024-08-06"),
        ("us.anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet-20241022"),
        ("GPT-4o", "gpt-4o"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro-latest"),
        ("", "gpt-4o"),
    ],
)
def test_a_model_may_have_several_names(ledger: Ledger, one: str, other: str) -> None:
    assert told(ledger, inside("a", model=one), response("outer", model=other)) == [None, "enclosing"]


def test_a_response_id_and_a_place_together_are_one_call(ledger: Ledger) -> None:
    ids: dict[str, Any] = {"response_id": "r", "time_ns": SECOND}
    events = [request("outer"), inside("inner", None, **ids), response("beside", **ids), response("outer", **ids)]
    assert told(ledger, *events) == ["enclosing", None, "enclosing"]


# -- answers from the application's own cache --------------------------------------------------------------------------


def hit(saved: Any = 15, **fields: Any) -> CacheHit:
    return CacheHit(**{**RUN, "cache_type": "response", "tokens_saved": saved, **fields})


CACHED = Account(NOTHING, 0.0, "cached")


@pytest.mark.parametrize(
    ("event", "answer", "account"),
    [
        (hit(), response("a"), CACHED._replace(saved_usd=20.0)),
        (hit(), response("a", None), CACHED._replace(saved_usd=15.0)),
        (hit("many"), response("a", None), CACHED),
        (hit(), response("a", model="unknown"), CACHED),
        (hit(), response("a", cost_usd=0.0), CACHED._replace(saved_usd=20.0)),
        (hit(), response("a", cost_usd=0.5), Account(Usage(10, 5, None, None, None), 0.5, "reported")),
        (hit(cache_type="Prompt_Cache"), response("a"), priced(10, 5)),
        (hit(cache_type=["?"]), response("a"), CACHED._replace(saved_usd=20.0)),
    ],
    ids=["usage", "no usage", "unknown", "unpriced", "free", "paid", "provider's", "hostile"],
)
def test_a_hit_inside_of_a_call_makes_its_answer_a_cached_one(
    ledger: Ledger, event: CacheHit, answer: LlmResponse, account: Account
) -> None:
    event.parent_call_id = "llm:a"
    assert [ledger.judge(each) for each in (request("a"), event, event, answer, answer)][3:] == [
        account,
        again("call_id"),
    ]


def test_a_hit_inside_of_the_provider_is_one_of_its_framework_too(ledger: Ledger) -> None:
    events = [request("outer"), request("inner", parent_call_id="llm:outer"), hit(parent_call_id="llm:inner")]
    accounts = [ledger.judge(event) for event in (*events, inside("inner", None), response("outer"))]
    assert accounts[3:] == [CACHED._replace(saved_usd=15.0), again("enclosing")]


def test_a_hit_before_any_call_saves_one_of_the_runs_model_once(ledger: Ledger) -> None:
    ledger.judge(AgentStart(**RUN, model_provider="openai", model="gpt-4o"))
    event = hit(source="s", seq=4)
    assert [ledger.judge(each) for each in (event, event, hit(), hit(-1), hit(invocation_id="other"))] == [
        *(15.0, None, 15.0),
        *(None, None),
    ]


# -- runs --------------------------------------------------------------------------------------------------------------


def end(**fields: Any) -> AgentEnd:
    return AgentEnd(**{**RUN, **fields})


def test_a_run_has_the_sums_of_its_sub_agents_and_its_own_calls_are_counted_apart(ledger: Ledger) -> None:
    sub: dict[str, Any] = {"invocation_id": "sub", "root_invocation_id": "run", "parent_invocation_id": "run"}
    events = [AgentStart(**RUN), response("a"), AgentStart(**sub), response("b", **sub), AgentEnd(**sub)]
    late = [response("late", **sub), ToolCall(tool="t", duration=0.1, success=True, **RUN)]
    for event in (*events, *late):
        ledger.judge(event)
    totals = {"input_tokens": 30, "output_tokens": 15}
    assert ledger.judge(end(tokens_used=totals, cost_usd=60.0)) == RunAccount(1, 1, ())
    assert ledger.judge(end(tokens_used=totals)) is None


@pytest.mark.parametrize(
    ("totals", "differing"),
    [
        ({"tokens_used": 15, "cost_usd": 20.0}, ()),
        ({"tokens_used": 16}, ("tokens",)),
        ({"tokens_used": {"input_tokens": 9, "output_tokens": 5}, "cost_usd": 20.01}, ("input_tokens", "cost_usd")),
        ({"tokens_used": -1, "cost_usd": float("nan")}, ()),
        ({"tokens_used": {"total_tokens": 16, "prompt_tokens": 10}}, ("tokens",)),
        ({}, ()),
    ],
)
def test_the_producers_totals_are_compared(ledger: Ledger, totals: dict[str, Any], differing: tuple[str, ...]) -> None:
    for event in (AgentStart(**RUN), response("a"), response("a")):
        ledger.judge(event)
    assert ledger.judge(end(**totals)) == RunAccount(1, 0, differing)


def test_a_start_that_is_told_again_keeps_the_sums_and_another_attempt_begins_anew(ledger: Ledger) -> None:
    for event in (AgentStart(**RUN), response("a"), AgentStart(**RUN)):
        ledger.judge(event)
    assert ledger.judge(end(tokens_used=15)) == RunAccount(1, 0, ())
    for event in (AgentStart(**RUN, attempt=2), response("a", attempt=2), response("a", attempt=2)):
        ledger.judge(event)
    assert ledger.judge(end(tokens_used=15)) is None
    assert ledger.judge(end(tokens_used=15, attempt=2)) == RunAccount(1, 0, ())


def test_a_circle_of_callers_adds_to_each_of_them_once(ledger: Ledger) -> None:
    runs: list[dict[str, Any]] = [
        {"invocation_id": a, "parent_invocation_id": b, "root_invocation_id": "r"} for a, b in ("ab", "bc", "ca")
    ]
    for run in runs:
        ledger.judge(AgentStart(**run))
    ledger.judge(response("x", **runs[0]))
    assert [ledger.judge(AgentEnd(**run, tokens_used=15)).mismatch for run in runs] == [()] * 3


def test_a_producer_without_ids_has_the_sums_of_its_run(ledger: Ledger) -> None:
    none: dict[str, Any] = {"invocation_id": None, "root_invocation_id": None, "source": "s"}
    for _ in range(2):
        ledger.judge(AgentStart(source="s"))
        ledger.judge(response(**none))
        ledger.judge(response(**none))
        assert ledger.judge(AgentEnd(source="s", tokens_used=30)) == RunAccount(2, 0, ())


def test_the_same_run_in_two_trees_has_two_sums(ledger: Ledger) -> None:
    trees: list[dict[str, Any]] = [{"invocation_id": "run", "root_invocation_id": root} for root in "ab"]
    for tree in trees:
        ledger.judge(AgentStart(**tree))
        ledger.judge(response("x", **tree))
    assert [ledger.judge(AgentEnd(**tree, tokens_used=15)) for tree in trees] == [RunAccount(1, 0, ())] * 2


def test_a_tool_call_that_is_told_again_is_one(ledger: Ledger) -> None:
    tool = ToolCall(tool="t", tool_call_id="t1", duration=0.1, success=True, **RUN)
    for event in (AgentStart(**RUN), tool, tool, dataclasses.replace(tool, tool_call_id="t2")):
        ledger.judge(event)
    assert ledger.judge(end()) == RunAccount(0, 2, ())


# -- passages ----------------------------------------------------------------------------------------------------------


def test_an_event_that_passes_twice_keeps_what_it_was_given_first(ledger: Ledger) -> None:
    event = response("a")
    first, second = ledger.enter(event), ledger.enter(event)
    assert (first is event, second is event) == (True, False)
    assert (first.account, second.account) == (priced(10, 5), again("call_id"))


def test_the_end_of_a_run_that_passes_twice_has_an_account_once(ledger: Ledger) -> None:
    ledger.enter(AgentStart(**RUN))
    event = end(tokens_used=7)
    first, second = ledger.enter(event), ledger.enter(event)
    assert (first.account, second.account) == (RunAccount(0, 0, ("tokens",)), None)


def test_a_price_list_that_fails_costs_the_price_and_not_the_call() -> None:
    ledger = Ledger(Failing())
    accounts = [ledger.enter(event).account for event in (response("a"), response("a"))]
    assert accounts[0] == Account(Usage(10, 5, None, None, None), None, "no_price_source")
    assert accounts[1] == again("call_id")
    ledger.enter(request("b"))
    assert ledger.failed == 3


class Broken:
    """Nothing about it works."""

    def __bool__(self) -> bool:
        raise RuntimeError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]  # nor that


def test_a_call_whose_counts_cannot_be_read_is_a_call_with_invalid_ones(ledger: Ledger) -> None:
    event = response("a", usage=Broken())
    assert ledger.enter(event).account == Account(NOTHING._replace(invalid=1), None, "invalid_usage")
    assert ledger.enter(response("a")).account == priced(10, 5)._replace(duplicate="call_id")


ANYTHING = st.sampled_from([
    *(None, True, -1, 0, 1.5, float("nan"), float("inf"), 10**400, "", "a", "llm:a", "llm:", "x" * 5000),
    *([], {}, {"a": []}, b"", object(), Broken(), Sly("a"), -0.0, 2**63),
])  # fmt: skip
KINDS: list[Event] = [
    request("a"),
    inside("a"),
    response("a"),
    AgentStart(**RUN),
    end(tokens_used=1),
    hit(),
    ToolCall(tool="t", duration=0.1, success=True),
]


NAMES = sorted({field.name for kind in KINDS for field in dataclasses.fields(kind) if field.init})


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), ANYTHING)), max_size=6))
def test_whatever_stands_in_an_event_entering_it_does_not_raise(given: list[tuple[Event, dict[str, Any]]]) -> None:
    ledger = Ledger(PerToken())
    for kind, fields in given:
        event = dataclasses.replace(kind)
        for name, value in fields.items():
            if hasattr(event, name):
                setattr(event, name, value)
        entered = ledger.enter(event)
        assert not isinstance(entered, LlmResponse) or isinstance(entered.account, Account)
    assert ledger.failed == 0


# -- any program -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Program:
    """Events, and what they truly come to."""

    events: list[Event] = dataclasses.field(default_factory=list)
    calls: int = 0
    tellings: int = 0
    tokens: int = 0
    runs: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


HOW = ["alone", "nested", "deep", "beside", "beside last", "late", "completed", "attempts"]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Agents, sub-agents and calls, each told by up to three tellers, with ends repeated and producers' totals."""
    program, numbers = Program(), itertools.count(1)
    clock = itertools.count(10 * SECOND, 10 * SECOND)

    def call(run: dict[str, Any]) -> tuple[int, int]:
        number, now = next(numbers), next(clock)
        tokens = (number * 100 + draw(st.integers(0, 9)), draw(st.integers(1, 50)))
        unique = {"response_id": f"r{number}", "time_ns": now, **run}
        how = draw(st.sampled_from(HOW))
        outer, inner = f"f{number}", {**unique, "parent_call_id": f"llm:f{number}"}
        leaf = response(f"p{number}", tokens, **inner)
        tellings: dict[str, list[Event]] = {
            "alone": [request(outer, **run), response(outer, tokens, **unique)],
            "nested": [request(outer, **run), leaf, response(outer, tokens, **unique)],
            "deep": [
                *(request(outer, **run), request(f"m{number}", **run, parent_call_id=f"llm:{outer}")),
                response(f"p{number}", tokens, **{**run, "parent_call_id": f"llm:m{number}"}),
                *(response(f"m{number}", tokens, **inner), response(outer, tokens, **run)),
            ],
            "beside": [response(f"p{number}", tokens, **unique), response(outer, tokens, **unique)],
            "beside last": [request(outer, **run), response(outer, tokens, **unique), response(None, tokens, **unique)],
            "late": [request(outer, **run), response(outer, tokens, **run), leaf],
            "completed": [request(outer, **run), response(outer, None, **run), response(outer, tokens, **run)],
            "attempts": [
                *(request(outer, **run), response(f"e{number}", None, **inner, success=False)),
                *(response(f"p{number}", tokens, **{**run, "parent_call_id": f"llm:{outer}"}),),
                response(outer, tokens, **run),
            ],
        }
        told = tellings[how]
        for event in list(told):
            if isinstance(event, LlmResponse) and event.call_id:
                told += [dataclasses.replace(event)] * draw(st.integers(0, 2))
        program.events += told
        program.tellings += sum(isinstance(event, LlmResponse) for event in told)
        calls = 2 if how == "attempts" else 1
        program.calls += calls
        program.tokens += sum(tokens)
        return calls, sum(tokens)

    def agent(parent: str | None, depth: int) -> int:
        name = f"run{next(numbers)}"
        run: dict[str, Any] = {"invocation_id": name, "parent_invocation_id": parent, "root_invocation_id": "root"}
        program.events.append(AgentStart(**run))
        own = total = 0
        for _ in range(draw(st.integers(0, 3))):
            if depth and draw(st.booleans()):
                total += agent(name, depth - 1)
            else:
                calls, tokens = call(run)
                own, total = own + calls, total + tokens
        program.runs[name] = own, total
        program.events += [AgentEnd(**run, tokens_used=total)] * draw(st.integers(1, 3))
        return total

    agent(None, 3)
    return program


@settings(max_examples=200)
@given(programs())
def test_the_sums_over_any_program_are_those_of_its_calls(program: Program) -> None:
    ledger = Ledger(PerToken())
    entered = [ledger.enter(event) for event in program.events]
    accounts = [event.account for event in entered if isinstance(event, LlmResponse)]
    assert sum((account.usage.input or 0) + (account.usage.output or 0) for account in accounts) == program.tokens
    assert sum(account.duplicate is None for account in accounts) == program.calls
    assert sum(account.duplicate is not None for account in accounts) == program.tellings - program.calls
    ends = {e.invocation_id: a for e in entered if isinstance(e, AgentEnd) and (a := e.account) is not None}
    assert ends == {name: RunAccount(own, 0, ()) for name, (own, _) in program.runs.items()}


# -- bounds, threads, forks --------------------------------------------------------------------------------------------


def many(numbers: Iterator[int]) -> Iterator[Event]:
    for number in numbers:
        run = {"invocation_id": f"run {number // 10:030}", "root_invocation_id": f"run {number // 10:030}"}
        fields: dict[str, Any] = {"time_ns": number * SECOND, "response_id": f"response {number:030}"}
        yield request(f"call {number:030}", **run)
        yield response(f"call {number:030}", (1000 + number, 500 + number), **run, **fields)


def test_a_remembered_call_takes_little_room_and_they_are_bounded() -> None:
    ledger = Ledger(PerToken())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for event in many(iter(range(4000))):
            ledger.judge(event)
        per_call = (tracemalloc.get_traced_memory()[0] - before) / 4000
        for event in many(iter(range(4000, 30_000))):
            ledger.judge(event)
        bound = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert per_call < 800
    assert bound < 16_384 * 800
    again = list(many(iter(range(25_000, 30_000))))
    assert {account.duplicate for event in again if (account := ledger.judge(event))} == {"call_id"}


def test_what_is_asked_for_is_remembered_longer_and_the_rest_is_bounded() -> None:
    recent: Recent[int, str] = Recent(4)
    recent.put(0, "kept")
    for number in range(1, 100):
        recent.put(number, "new")
        assert recent.get(0) == "kept"
        assert len(recent) <= 4
    assert [number for number in range(100) if recent.get(number)] == [0, 98, 99]
    assert (recent.pop(0), recent.pop(0), recent.get(0)) == ("kept", None, None)


def test_a_call_that_is_open_for_long_is_not_forgotten_for_those_inside_of_it(ledger: Ledger) -> None:
    ledger.judge(request("outer"))
    for number in range(20_000):
        ledger.judge(inside(f"{number}", (1, 1)))
    assert told(ledger, response("outer", (20_000, 20_000))) == ["enclosing"]


def test_threads_that_tell_of_the_same_calls_count_each_once(ledger: Ledger) -> None:
    events = [event for number in range(500) for event in (request(f"{number}"), response(f"{number}"))]
    found: list[Account] = []
    barrier = threading.Barrier(4)

    def tell() -> None:
        barrier.wait()
        found.extend(ledger.judge(event) for event in events if isinstance(event, LlmResponse))

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(account.duplicate is None for account in found) == 500
    assert sum(account.usage.input or 0 for account in found) == 5000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_starts_from_nothing_though_a_thread_held_the_lock(ledger: Ledger) -> None:
    ledger.judge(response("a"))
    holding, release = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger._lock:
            holding.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    ledger.forget()
    assert told(ledger, response("a")) == [None]
    release.set()
    thread.join()
