"""Budgets through the bus: wired once, and exact whatever is on or off."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetCheck, BudgetExceeded, Settings, testing
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import DomainEvent, LlmResponse
from tests.receivers import HttpReceiver, forget_environment


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def spend(tokens: int = 1_000_000) -> None:
    with agentbus.agent("a"), agentbus.llm("gpt-5-mini", provider="openai") as call:
        call.record(input_tokens=tokens, output_tokens=1)


@pytest.mark.parametrize("disabled", ["true", "false"])
def test_what_ended_before_the_prices_were_loaded_is_counted(monkeypatch: pytest.MonkeyPatch, disabled: str) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
    told = threading.Event()
    with agentbus.connect(budgets=[Budget("b", usd=0.0001, window="7d", thresholds=(1.0,))]) as bus:
        bus.subscribe(lambda _event: told.set(), "budget_threshold_hit")
        spend()
        assert told.wait(30)
        assert not bus.check_budget().allowed


def test_a_wrong_file_leaves_nothing_behind(tmp_path: Path) -> None:
    wrong = tmp_path / "budgets.toml"
    wrong.write_text('[[budget]]\nname = "daily"\n')
    with HttpReceiver() as receiver:
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(ConfigurationError, match="daily"):
                agentbus.connect(settings=Settings(endpoint=receiver.url, budgets=str(wrong)))
        assert threading.active_count() == before


def test_arguments_beat_the_file(tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text('[[budget]]\nname = "of the file"\nusd = 1\n')
    settings = Settings(budgets=str(file))
    with agentbus.connect(settings=settings) as bus:
        assert list(bus.health()["budgets"]["used"]) == ["of the file"]
    with agentbus.connect(settings=settings, budgets=[Budget("mine", usd=1)]) as bus:
        assert list(bus.health()["budgets"]["used"]) == ["mine"]


def test_other_budgets_than_those_of_this_process_are_refused() -> None:
    mine = Budget("mine", usd=1)
    with agentbus.connect(budgets=[mine]) as bus:
        with agentbus.connect(budgets=(mine,)) as again:
            assert again is bus
        with pytest.raises(ConfigurationError, match="other arguments"):
            agentbus.connect(budgets=[Budget("mine", usd=2)])


async def test_an_agent_asks_before_it_spends() -> None:
    with testing.capture(budgets=[Budget("b", tokens=100)]) as seen, agentbus.agent("a") as run:
        assert (await seen.bus.router.ask(BudgetCheck(tokens=100))).allowed
        with run.llm("gpt-5-mini", provider="openai") as call:
            call.record(input_tokens=60, output_tokens=1)
        asked = await seen.bus.router.ask(BudgetCheck(tokens=40))
        assert (asked.allowed, asked.states[0].remaining) == (False, 39)
        assert seen.bus.check_budget(tokens=39).allowed


def test_thresholds_are_told_in_the_run_that_reached_them_and_counted() -> None:
    with testing.capture(budgets=[Budget("b", tokens=100)]) as seen:
        spend(85)
        hits = [event for event in seen.events if isinstance(event, DomainEvent)]
        [root] = {event.root_invocation_id for event in seen.events}
        assert [(hit.name, hit.data["threshold"], hit.root_invocation_id) for hit in hits] == [
            ("budget_threshold_hit", 0.8, root)
        ]
        assert seen.metric("agentbus.budget.thresholds") == {
            (("agentbus.budget.name", "b"), ("agentbus.budget.threshold", "0.8")): 1
        }
        assert seen.metric("agentbus.budget.used") == {(("agentbus.budget.name", "b"),): 0.86}


def test_the_demo_stops_where_the_users_budget_says_so(tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text('[[budget]]\nname = "small"\nusd = 0.001\non_exceeded = "raise"\n')
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "AGENTBUS_"))}
    command = [sys.executable, "-m", "otel_agentbus", "demo", "--fast"]
    environment = clean | {"AGENTBUS_BUDGETS": str(file)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "Stopped: " in done.stdout
    assert "small" in done.stdout


def test_a_refused_call_is_no_call() -> None:
    with testing.capture(budgets=[Budget("b", tokens=10, on_exceeded="raise")]) as seen:
        with agentbus.agent("a") as run:
            with run.llm("m") as call:
                call.record(input_tokens=10, output_tokens=0)
            with pytest.raises(BudgetExceeded), run.tool("t"):
                pytest.fail("it was to be refused")
        assert seen.tree() == "invoke_agent a\n└─ chat m"


@pytest.mark.parametrize(("asked", "ran"), [("raise", 5), ("tell", 15)])
async def test_three_sub_agents_at_once_cross_a_budget_once(asked: Any, ran: int) -> None:
    price = 100 * 0.25e-6 + 100 * 2e-6  # of each call; the fifth of them crosses the limit

    async def sub_agent(name: str) -> None:
        with agentbus.agent(name, provider="openai", model="gpt-5-mini"):
            for _ in range(5):
                with agentbus.llm() as call:
                    call.record(input_tokens=100, output_tokens=100)
                await asyncio.sleep(0)

    with testing.capture(budgets=[Budget("run", usd=4.5 * price, on_exceeded=asked)]) as seen:
        with agentbus.agent("root"):
            ends = await asyncio.gather(*map(sub_agent, "abc"), return_exceptions=True)
        calls = [event for event in seen.events if isinstance(event, LlmResponse)]
        hits = [event.data for event in seen.events if isinstance(event, DomainEvent)]
    assert len(calls) == ran
    assert {type(end) for end in ends} == ({BudgetExceeded} if asked == "raise" else {type(None)})
    assert [hit["threshold"] for hit in hits] == [0.8, 1.0]
    assert [hit["spent"] for hit in hits] == pytest.approx([4 * price, 5 * price])
