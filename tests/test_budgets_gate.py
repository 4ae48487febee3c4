"""A budget that is to stop the agent: the next model or tool call where it is used up is refused, and nothing else."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from otel_agentbus import agent, carry, current, llm, stream, tool
from otel_agentbus.blocks import install
from otel_agentbus.budgets import Budget, BudgetExceeded, Spent
from otel_agentbus.errors import AgentBusError
from otel_agentbus.events import AgentEnd, LlmRequest, LlmResponse, ToolCallStart
from otel_agentbus.invocation import top

from .budgeting import MIDNIGHT, SmallBus, call, small_bus, told
from .observing import assert_balanced

STRICT = Budget("per-run", usd=0.50, on_exceeded="raise")


def spend(usd: float, tokens: int = 0, model: str = "m", **options: Any) -> None:
    """One model call of the run that is current."""
    with llm(model, **options) as block:
        block.record(cost_usd=usd, input_tokens=tokens)


def test_the_call_after_the_one_that_uses_it_up_is_refused_before_it_begins() -> None:
    with small_bus(STRICT) as bus, agent("planner") as run:
        spend(0.49)
        spend(0.02)
        before, frame = bus.kinds(), top()
        with pytest.raises(BudgetExceeded) as refused:
            spend(0.01)
        with pytest.raises(BudgetExceeded):
            tool("search").start()
        assert (bus.kinds(), top()) == (before, frame)
        error = refused.value
        assert (error.budget, error.scope, error.unit, error.spent, error.limit) == (
            "per-run",
            {"root_invocation_id": run.id},
            "usd",
            0.51,
            0.5,
        )
        assert str(error) == (f"The budget 'per-run' is used up: 0.51 of 0.5 USD spent (root_invocation_id {run.id}).")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.scope) == (BudgetExceeded, str(error), error.scope)
        assert isinstance(error, AgentBusError)


def test_a_budget_that_is_spent_to_the_last_cent_has_nothing_left() -> None:
    with small_bus(STRICT), agent("planner"):
        for _ in range(5):
            spend(0.1)
        with pytest.raises(BudgetExceeded):
            spend(0.0)


def test_the_error_ends_the_run_as_any_other_error_does() -> None:
    with small_bus(STRICT) as bus:
        with pytest.raises(BudgetExceeded), agent("planner"):
            spend(1.0)
            spend(1.0)
        (end,) = (event for event in bus.events if isinstance(event, AgentEnd))
    assert (end.outcome, end.error_type) == ("error", "otel_agentbus.errors.BudgetExceeded")
    assert str(end.error_message).startswith("The budget 'per-run' is used up: 1 of 0.5 USD")


def test_other_runs_and_agent_blocks_are_untouched() -> None:
    with small_bus(STRICT):
        with agent("planner"):
            spend(1.0)
            with agent("helper"), pytest.raises(BudgetExceeded):  # of the same run
                spend(0.1)
        with agent("planner"):
            spend(0.1)
        with pytest.raises(BudgetExceeded), agent("third"):
            spend(1.0)
            with tool("t"):
                pass
        spend(1.0)  # a call that stands alone is a run by itself
        spend(1.0)


def test_budgets_that_only_tell_never_raise_and_have_no_gate() -> None:
    with small_bus(Budget("per-run", usd=0.1), Budget("day", tokens=1, window="1d")) as bus, agent("planner"):
        assert bus.gate is None
        for _ in range(3):
            spend(1.0, 100)
        with tool("t"):
            pass
    assert Counter(hit.data["threshold"] for hit in bus.hits) == {0.8: 2, 1.0: 2}


def test_budgets_by_agent_and_model_refuse_that_agent_and_that_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_agentbus.blocks.clock.time_ns", lambda: MIDNIGHT)
    by_agent = Budget("agents", tokens=10, by="agent", window="1d", on_exceeded="raise")
    by_model = Budget("models", usd=1, by="model", on_exceeded="raise")
    with small_bus(by_agent, by_model):
        with agent("a", model="big"):
            spend(1.0, 5, model="big")
            for name in ("big", None):
                with pytest.raises(BudgetExceeded, match=r"^The budget 'models' .*, model big\)\.$"), llm(name):
                    pass
            with tool("t"):  # a tool has no model
                pass
            spend(0.1, 5, model="small")
            with pytest.raises(BudgetExceeded, match="window_start 2023-11-14T00:00:00Z, agent a"), tool("t"):
                pass
        with agent("b"):
            spend(0.1, 5, model="big")
        with agent("a"), pytest.raises(BudgetExceeded, match="agents"):  # another run, the same day
            spend(0.1, 5)
        monkeypatch.setattr("otel_agentbus.blocks.clock.time_ns", lambda: MIDNIGHT + 86_400 * 10**9)
        with agent("a"):
            spend(0.1, 5)


@pytest.mark.parametrize("by", ["model", "provider"])
def test_a_call_of_an_unknown_model_is_bound_by_no_budget_by_model(by: Any) -> None:
    with small_bus(Budget("b", tokens=10, by=by, on_exceeded="raise")) as bus, agent("planner"):
        for _ in range(3):
            with llm() as block:
                block.record(input_tokens=10)
        assert bus.budgets.check().states == ()
        with llm("m", provider="OpenAI") as block:
            block.record(input_tokens=10)
        with pytest.raises(BudgetExceeded, match=r", (model m|provider openai)\)\.$"), llm("m", provider="openai"):
            pass


def test_a_call_whose_price_was_not_at_hand_is_settled_before_the_next_one_begins() -> None:
    with small_bus(STRICT, account=lambda _: None, price=told), agent("planner"):
        spend(1.0)
        with pytest.raises(BudgetExceeded):
            spend(1.0)


# -- whatever way a block is used --------------------------------------------------------------------------------------


async def by_async_with() -> None:
    async with tool("t"):
        pass


async def by_async_decorator() -> None:
    @llm("m")
    async def work() -> None:
        pytest.fail("it has begun")

    await work()


async def by_decorator() -> None:
    @tool("t")
    def work() -> None:
        pytest.fail("it has begun")

    work()


async def by_decorated_generator() -> None:
    @llm("m")
    def chunks() -> Iterator[int]:
        pytest.fail("it has begun")
        yield 1

    next(chunks())


async def by_decorated_async_generator() -> None:
    @llm("m")
    async def chunks() -> AsyncIterator[int]:
        pytest.fail("it has begun")
        yield 1

    await anext(chunks())


async def by_stream() -> None:
    stream(iter("abc"), llm("m"))


async def by_stream_method() -> None:
    llm("m").stream(iter("abc"))


async def by_start() -> None:
    llm("m").start()


@pytest.mark.parametrize(
    "use",
    [
        by_async_with,
        by_async_decorator,
        by_decorator,
        by_decorated_generator,
        by_decorated_async_generator,
        by_stream,
        by_stream_method,
        by_start,
    ],
)
async def test_the_caller_gets_the_error_however_the_block_is_used(use: Callable[[], Awaitable[None]]) -> None:
    with small_bus(STRICT) as bus:
        with agent("planner") as run:
            spend(1.0)
            before = bus.kinds()
            with pytest.raises(BudgetExceeded):
                await use()
            assert (bus.kinds(), top(), current()) == (before, run, run.invocation)
        assert_balanced(bus)  # type: ignore[arg-type]  # it has events, as what was captured has


def test_a_generator_that_runs_already_is_refused_at_its_next_call_only() -> None:
    @agent("writer")
    def write() -> Iterator[str]:
        spend(1.0)
        yield "first"
        spend(1.0)
        yield "never"

    with small_bus(STRICT) as bus:
        chunks = write()
        assert next(chunks) == "first"
        with pytest.raises(BudgetExceeded):
            next(chunks)
        assert_balanced(bus)  # type: ignore[arg-type]  # it has events, as what was captured has
    assert current() is None


def test_a_refused_block_has_not_begun_and_may_be_started_where_there_is_something_left() -> None:
    with small_bus(STRICT) as bus:
        waiting, named = llm(provider="p"), tool("t", tool_call_id="mine")
        with agent("planner", model="big", provider="q"):
            spend(1.0)
            for block in (waiting, named):
                with pytest.raises(BudgetExceeded):
                    block.start()
                block.end()  # of what has not begun: without effect
            assert (waiting.id, waiting.model, waiting.provider, waiting.invocation.id) == ("", None, "p", "")
            assert (waiting.runtime, waiting.call, waiting.parent, named.id) == (None, None, None, "mine")
        with agent("other", model="small") as other, waiting, named:
            pass
        (request,) = (e for e in bus.events if isinstance(e, LlmRequest) and e.agent == "other")
        (start,) = (e for e in bus.events if isinstance(e, ToolCallStart))
        assert (request.model, request.model_provider, request.invocation_id) == ("small", "p", other.id)
        assert (start.tool_call_id, start.invocation_id, start.parent_call_id) == ("mine", other.id, waiting.call)


def test_a_method_of_a_run_is_refused_by_the_budget_of_that_run_wherever_it_is_called() -> None:
    with small_bus(STRICT):
        with agent("spent") as spent:
            spend(1.0)
        with agent("fresh") as fresh:
            fresh.llm("m").start().end()
            refused = spent.llm("m")
            for _ in range(2):  # refused again, as it is asked again
                with pytest.raises(BudgetExceeded):
                    refused.start()


def test_what_goes_wrong_in_asking_lets_the_call_pass(caplog: pytest.LogCaptureFixture) -> None:
    def broken(block: Any) -> None:
        raise RuntimeError("no answer")

    with small_bus() as bus, agent("planner"):
        bus.gate = broken
        spend(0.1)
    assert bus.kinds() == ["agent.start", "llm.request", "llm.response", "agent.end"]
    assert "RuntimeError: no answer" in caplog.text


def test_an_interrupt_while_asking_leaves_nothing_begun() -> None:
    def interrupted(block: Any) -> None:
        raise KeyboardInterrupt

    with small_bus() as bus, agent("planner"):
        bus.gate = interrupted
        block = llm("m")
        with pytest.raises(KeyboardInterrupt):
            block.start()
        bus.gate = None
        with block:
            pass
    assert bus.kinds() == ["agent.start", "llm.request", "llm.response", "agent.end"]


def test_a_runtime_without_a_gate_has_nothing_to_ask() -> None:
    bus = SmallBus()
    del bus.gate
    before = install(bus)
    try:
        with agent("planner"):
            spend(0.1)
    finally:
        install(before)
    assert bus.kinds() == ["agent.start", "llm.request", "llm.response", "agent.end"]


# -- parallel sub-agents -----------------------------------------------------------------------------------------------


def each_threshold_once(bus: SmallBus, root: str) -> bool:
    scope = {"root_invocation_id": root}
    return sorted((str(hit.data["threshold"]), str(hit.data["scope"])) for hit in bus.hits) == [
        ("0.8", str(scope)),
        ("1.0", str(scope)),
    ]


def calls_after_the_limit(bus: SmallBus, root: str, limit: float) -> int:
    """How many model calls of this root ended after its limit was reached."""
    spent, after = 0.0, 0
    for event in bus.events:
        if isinstance(event, LlmResponse) and event.root_invocation_id == root:
            after += spent >= limit
            spent = round(spent + (event.cost_usd or 0.0), 9)
    return after


async def test_three_sub_agents_in_tasks_cross_a_budget_once_and_stop_within_one_call() -> None:
    made: Counter[str] = Counter()

    async def work(name: str) -> None:
        async with agent(name):
            for _ in range(100):
                async with llm("m") as block:
                    made[name] += 1
                    await asyncio.sleep(0)
                    block.record(cost_usd=0.03)

    with small_bus(Budget("b", usd=1, on_exceeded="raise")) as bus:
        async with agent("boss") as boss:
            outcomes = await asyncio.gather(*(work(name) for name in "abc"), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BudgetExceeded] * 3
        assert each_threshold_once(bus, boss.id)
        assert sum(made.values()) <= 34 + 2  # the 34th call uses it up; the two others were under way
        assert calls_after_the_limit(bus, boss.id, 1.0) <= 2
        assert_balanced(bus)  # type: ignore[arg-type]  # it has events, as what was captured has
        async with agent("another run"):
            await asyncio.gather(*(asyncio.to_thread(spend, 0.1) for _ in range(3)))


def test_three_sub_agents_in_threads_cross_a_budget_once_and_stop_within_one_call() -> None:
    made: Counter[str] = Counter()
    refused: list[str] = []
    together = threading.Barrier(3)

    def work(name: str) -> None:
        with agent(name):
            together.wait(10)
            try:
                for _ in range(200):
                    with llm("m") as block:
                        block.record(cost_usd=0.01)
                    made[name] += 1
            except BudgetExceeded:
                refused.append(name)

    with small_bus(Budget("b", usd=1, on_exceeded="raise")) as bus:
        with agent("boss") as boss:
            threads = [threading.Thread(target=carry(work), args=(name,)) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(refused) == ["a", "b", "c"]
        assert each_threshold_once(bus, boss.id)
        assert 100 <= sum(made.values()) <= 102
        spent = bus.budgets.check(root_invocation_id=boss.id).states[0].spent
        assert spent == round(sum(made.values()) * 0.01, 2)
        assert_balanced(bus)  # type: ignore[arg-type]  # it has events, as what was captured has


@pytest.mark.parametrize("threads", [False, True])
async def test_three_sub_agents_of_a_budget_that_only_tells_run_to_their_ends(threads: bool) -> None:
    def work(name: str) -> None:
        with agent(name):
            for _ in range(50):
                spend(0.03)

    async def task(name: str) -> None:
        await asyncio.to_thread(work, name) if threads else work(name)

    with small_bus(Budget("b", usd=1)) as bus:
        async with agent("boss") as boss:
            await asyncio.gather(*(task(name) for name in "abc"))
        assert each_threshold_once(bus, boss.id)
        assert bus.budgets.check(root_invocation_id=boss.id).states[0].spent == 4.5


def test_a_call_told_by_wrapper_and_provider_stops_the_run_by_what_it_really_cost() -> None:
    def ledger(event: LlmResponse) -> Spent | None:
        return Spent(0, 0.0) if event.model == "wrapper" else told(event)

    with small_bus(STRICT, account=ledger), agent("planner"):
        with llm("wrapper") as outer:
            with llm("m") as inner:
                inner.record(cost_usd=0.3)
            outer.record(cost_usd=0.3)
        spend(0.1)


def test_foreign_calls_of_a_run_count_for_its_blocks() -> None:
    with small_bus(STRICT) as bus, agent("planner") as run:
        bus.emit(call(0.6, root=run.id, id="foreign"))
        with pytest.raises(BudgetExceeded):
            spend(0.1)
