"""Programs that tell of the same model calls twice, as frameworks and their providers do: everything counts once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_agentbus import agent, llm
from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse
from otel_agentbus.testing import Captured, FakeClock, capture

#: A dollar per million tokens in, two per million out.
PRICES = """
[[price]]
provider = "openai"
model = "gpt-4o"
input = 1.0
output = 2.0
"""
USED = {"input_tokens": 20, "output_tokens": 10}
COST = 40e-6


@dataclasses.dataclass(frozen=True)
class Counted:
    """What metrics and spans say, summed up."""

    calls: int = 1
    input: int = 20
    output: int = 10
    cost: float = COST
    duplicates: tuple[tuple[str, int], ...] = ()
    mismatches: tuple[tuple[str, int], ...] = ()


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Captured]:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    with capture(prices=str(prices), conventions="both", grace=0) as captured:
        yield captured


def counted(seen: Captured) -> Counted:
    """What the metrics say, after a look whether the spans say the same."""
    tokens: dict[str, float] = {"input": 0, "output": 0}
    for key, amount in seen.metric("agentbus.tokens.used").items():
        tokens[dict(key)["gen_ai.token.type"]] += amount
    cost = sum(seen.metric("agentbus.cost.spent").values())
    histogram: dict[str, float] = {"input": 0, "output": 0}
    for key, (_, total) in seen.metric("gen_ai.client.token.usage").items():
        histogram[dict(key)["gen_ai.token.type"]] += total
    assert histogram == tokens
    chats = [dict(span.attributes or {}) for span in seen.spans if span.name.startswith("chat")]
    for kind in tokens:
        assert sum(_number(chat, f"gen_ai.usage.{kind}_tokens") for chat in chats) == tokens[kind]
        assert sum(seen.metric(f"gen_ai.client.inference.usage.{kind}_tokens").values()) == tokens[kind]
    assert sum(_number(chat, "agentbus.cost.usd") for chat in chats) == pytest.approx(cost, abs=1e-12)
    calls = sum(seen.metric("agentbus.llm.calls").values())
    assert sum(count for count, _ in seen.metric("gen_ai.client.operation.duration").values()) == calls
    return Counted(
        calls,
        int(tokens["input"]),
        int(tokens["output"]),
        round(cost, 12),
        _by_reason(seen, "agentbus.calls.duplicate"),
        _by_reason(seen, "agentbus.usage.mismatch"),
    )


def _number(attributes: dict[str, Any], name: str) -> float:
    value = attributes.get(name, 0)
    assert isinstance(value, (int, float))
    return value


def _by_reason(seen: Captured, name: str) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((dict(key)["agentbus.reason"], value) for key, value in seen.metric(name).items()))


def totals(seen: Captured, name: str) -> dict[str, Any]:
    """The totals on an agent's span, which has no usage of its own."""
    attributes = dict(seen.span(f"invoke_agent {name}").attributes or {})
    assert not [key for key in attributes if key.startswith("gen_ai.usage")]
    return {
        key.removeprefix("agentbus.usage."): value
        for key, value in attributes.items()
        if key in ("agentbus.usage.input_tokens", "agentbus.usage.output_tokens", "agentbus.usage.llm_calls")
    }


ONE_CALL = {"input_tokens": 20, "output_tokens": 10, "llm_calls": 1}


def model(**fields: Any) -> Any:
    return llm("gpt-4o", provider="openai", **fields)


def response(**fields: Any) -> LlmResponse:
    given = {"model_provider": "openai", "model": "gpt-4o", "duration": 0.5, "success": True}
    return LlmResponse(**{**given, **USED, **fields})


# -- a framework and its provider --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [{}, {"response_id": "r"}], ids=["without response ids", "with response ids"])
def test_a_framework_around_its_provider(seen: Captured, ids: dict[str, str]) -> None:
    with agent("planner"), model() as framework:
        with model() as provider:
            provider.record(**USED, **ids)
        framework.record(**USED, **ids)
    assert counted(seen) == Counted(duplicates=(("enclosing", 1),))
    assert totals(seen, "planner") == ONE_CALL


def test_a_framework_that_alone_knows_the_usage(seen: Captured) -> None:
    with agent("planner"), model() as framework:
        with model():
            pass
        framework.record(**USED)
    assert counted(seen) == Counted(duplicates=(("enclosing", 1),))
    assert totals(seen, "planner") == ONE_CALL
    assert seen.metric("agentbus.cost.unpriced_calls") == {}


def test_a_provider_that_ends_after_its_framework(seen: Captured) -> None:
    with agent("planner"):
        framework = model().start()
        provider = model().start()
        framework.record(**USED).end()
        provider.record(**USED).end()
    assert counted(seen) == Counted(duplicates=(("enclosing", 1),))
    assert totals(seen, "planner") == ONE_CALL


@pytest.mark.parametrize("first", ["framework", "provider"])
def test_a_framework_beside_its_provider(seen: Captured, first: str) -> None:
    second = {"framework": "provider", "provider": "framework"}[first]
    with agent("planner"):
        for teller in (first, second):
            seen.bus.emit(response(call_id=teller, response_id="r", agent="planner"))
    assert counted(seen) == Counted(duplicates=(("response_id", 1),))
    assert totals(seen, "planner") == ONE_CALL


def test_a_provider_that_is_told_of_inside_of_its_frameworks_block(seen: Captured) -> None:
    with agent("planner"), model() as framework:
        seen.bus.emit(response(call_id="provider"))
        framework.record(**USED)
    assert counted(seen) == Counted(duplicates=(("enclosing", 1),))
    assert totals(seen, "planner") == ONE_CALL


def test_an_attempt_that_failed_inside_is_a_call_too(seen: Captured) -> None:
    with agent("planner"), model() as framework:
        for attempt in range(2):
            with model() as provider:
                provider.record(**(USED if attempt else {"error_type": "Timeout"}))
        framework.record(**USED)
    assert counted(seen) == Counted(calls=2, duplicates=(("enclosing", 1),))
    assert totals(seen, "planner") == {**ONE_CALL, "llm_calls": 2}


# -- ends that are told again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True], ids=["the same object", "a fresh object"])
def test_an_end_that_is_told_three_times(seen: Captured, fresh: bool) -> None:
    with agent("planner"):
        seen.bus.emit(LlmRequest(model_provider="openai", model="gpt-4o", messages_count=1, call_id="c"))
        once = response(call_id="c")
        for _ in range(3):
            seen.bus.emit(response(call_id="c") if fresh else once)
    assert counted(seen) == Counted(duplicates=(("call_id", 2),))
    assert totals(seen, "planner") == ONE_CALL


def test_an_end_without_ids_whose_object_is_told_three_times(seen: Captured) -> None:
    with agent("planner"):
        once = response()
        for _ in range(3):
            seen.bus.emit(once)
    assert counted(seen) == Counted(duplicates=(("event", 2),))
    assert totals(seen, "planner") == ONE_CALL


def test_three_ends_through_wrappers_like_those_of_llamaindex(seen: Captured) -> None:
    with agent("planner"), model() as structured, model() as function_calling:
        with model() as chat:
            chat.record(**USED)
        function_calling.record(**USED)
        structured.record(**USED)
    assert counted(seen) == Counted(duplicates=(("enclosing", 2),))
    assert totals(seen, "planner") == ONE_CALL


# -- totals of producers -----------------------------------------------------------------------------------------------


def test_a_run_that_reports_its_totals_like_strands(seen: Captured) -> None:
    """Adding `invoke_agent` to its chats would make 60 tokens of 30."""
    with agent("planner") as run:
        with model() as call:
            call.record(**USED)
        run.record(tokens_used={**USED, "tokens": 30}, cost_usd=COST)
    assert counted(seen) == Counted()
    assert totals(seen, "planner") == ONE_CALL


def test_usage_on_three_levels_like_that_of_the_openai_agents(seen: Captured) -> None:
    """Adding tasks, turns and generations would make 110 tokens of 30."""
    with agent("task") as task:
        for turn_used in ((6, 4), (14, 6)):
            with agent("turn") as turn:
                with model() as generation:
                    generation.record(input_tokens=turn_used[0], output_tokens=turn_used[1])
                turn.record(tokens_used=sum(turn_used))
        task.record(tokens_used=30)
    assert counted(seen) == Counted(calls=2)
    assert totals(seen, "task") == {**ONE_CALL, "llm_calls": 2}


def test_totals_that_differ_are_told_and_not_added(seen: Captured) -> None:
    with agent("planner") as run:
        with model() as call:
            call.record(**USED)
        run.record(tokens_used={"input_tokens": 20, "output_tokens": 11}, cost_usd=1.0)
    assert counted(seen) == Counted(mismatches=(("cost_usd", 1), ("output_tokens", 1)))
    assert totals(seen, "planner") == ONE_CALL


def test_the_end_of_a_run_that_is_told_three_times(seen: Captured) -> None:
    ids: dict[str, Any] = {"invocation_id": "r", "agent": "planner"}
    seen.bus.emit(AgentStart(**ids))
    seen.bus.emit(response(call_id="c", **ids))
    once: Event = AgentEnd(**ids, tokens_used=31)
    for event in (once, once, AgentEnd(**ids, tokens_used=31)):
        seen.bus.emit(event)
    assert counted(seen) == Counted(mismatches=(("tokens", 1),))
    assert totals(seen, "planner") == ONE_CALL
    assert sum(seen.metric("agentbus.agent.runs").values()) == 1


# -- calls that only look alike ----------------------------------------------------------------------------------------


async def fake(turns: int) -> None:
    """A call of a test double that is answered after so many turns of the loop."""
    async with model() as call:
        for _ in range(turns):
            await asyncio.sleep(0)
        call.record(**USED, response_id="chatcmpl-fake")


async def test_a_test_double_gives_every_response_the_same_id_while_the_clock_stands_still(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    with capture(prices=str(prices), conventions="both", fake_clock=FakeClock()) as seen:
        with agent("planner"):
            for _ in range(3):
                with model() as call:
                    call.record(**USED, response_id="chatcmpl-fake")
            await asyncio.gather(*(fake(turns) for turns in (1, 3, 2)))
        assert counted(seen) == Counted(calls=6, input=120, output=60, cost=240e-6)


def test_a_guard_inside_of_a_call_is_a_call(seen: Captured) -> None:
    with agent("planner"), model() as call:
        with llm("llama-guard", provider="openai") as guard:
            guard.record(input_tokens=7, output_tokens=1)
        call.record(**USED)
    assert counted(seen) == Counted(calls=2, input=27, output=11)


def test_the_same_call_ids_in_two_runs_are_two_calls(seen: Captured) -> None:
    for name in ("a", "b"):
        with agent(name), model(call_id="call-1") as call:
            call.record(**USED)
    assert counted(seen) == Counted(calls=2, input=40, output=20, cost=2 * COST)
    assert totals(seen, "a") == totals(seen, "b") == ONE_CALL


def test_a_sub_agents_calls_are_in_the_totals_of_its_caller_once(seen: Captured) -> None:
    with agent("planner") as run:
        with agent("sub") as sub:
            with model() as framework:
                with model() as provider:
                    provider.record(**USED)
                framework.record(**USED)
            sub.record(tokens_used=30)
        run.record(tokens_used=30)
    assert counted(seen) == Counted(duplicates=(("enclosing", 1),))
    assert totals(seen, "planner") == totals(seen, "sub") == ONE_CALL
