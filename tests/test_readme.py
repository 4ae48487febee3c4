"""The README tells the truth of today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import otel_agentbus as agentbus
from otel_agentbus import testing
from otel_agentbus.telemetry.spool import spools

from .readme import ADAPTERS_PAGE, README, ROOT, made
from .receivers import closed_port

TEXT = README.read_text("utf-8")


def block(after: str, language: str) -> str:
    """The first code block of that language after a heading or sentence."""
    found = re.search(rf"```{language}\n(.*?)```", TEXT[TEXT.index(after) :], re.DOTALL)
    assert found is not None, f"there is no {language} block after {after!r}"
    return found[1]


def test_the_made_parts_are_renewed() -> None:
    assert made(TEXT) == TEXT, "run: python -m tests.readme"
    page = ADAPTERS_PAGE.read_text("utf-8")
    assert made(page, "") == page, "run: python -m tests.readme"


def test_the_ten_lines_run_and_make_the_tree_that_is_shown() -> None:
    with testing.capture() as seen:
        exec(block("## Ten lines", "python"), {})
        assert seen.tree() == block("They make this trace", "text").strip()
        assert seen.metric("agentbus.llm.calls") == {
            (
                ("agentbus.outcome", "ok"),
                ("gen_ai.agent.name", "planner"),
                ("gen_ai.provider.name", "openai"),
                ("gen_ai.request.model", "gpt-5-mini"),
            ): 1
        }


def test_the_ten_lines_run_in_a_process_where_nothing_is_set() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "AGENTBUS_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", block("## Ten lines", "python")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_the_spool_of_any_opentelemetry_program_is_made_as_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = block("The spool works in any OpenTelemetry program", "python")
    made: dict[str, Any] = {}
    with closed_port() as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        exec(shown.replace("/var/spool/my-service", str(tmp_path / "spool")), made)
        made["provider"].get_tracer("test").start_span("kept").end()
        made["provider"].shutdown()
    assert [found.waiting for found in spools(tmp_path / "spool")] == [1]


def test_the_lines_on_other_threads_and_processes_run_and_make_one_tree() -> None:
    begun: list[str] = []

    def work(job: str) -> None:
        with agentbus.agent("helper"):
            begun.append(job)

    with testing.capture() as seen, ThreadPoolExecutor(1) as pool:
        exec(block("## Across threads, queues and machines", "python"), {"pool": pool, "work": work, "job": "it"})
        pool.shutdown()
        root, *children = seen.tree().splitlines()
        assert (root, sorted(child[3:] for child in children)) == (
            "invoke_agent planner",
            ["invoke_agent helper", "invoke_agent researcher"],
        )
    assert begun == ["it"]


def test_the_lines_on_an_event_bus_of_ones_own_run() -> None:
    heard: list[str] = []

    class Crm:
        def publish_event(self, type: str, data: dict[str, Any]) -> None:
            heard.append(type)

    def work() -> None:
        with agentbus.agent("clerk") as run, run.tool("look_up"):
            pass

    shown = block("**An event bus of your own**", "python").replace("    ...", "    work()")
    with closed_port() as port:
        exec(shown.replace("localhost:6379", f"127.0.0.1:{port}"), {"agentbus": agentbus, "crm": Crm(), "work": work})
    assert heard == ["llm_tool_call", "llm_tool_result", "llm_complete"]


def test_the_streaming_lines_run() -> None:
    program = block("`agent`, `llm` and `tool` are", "python") + textwrap.dedent("""
        import asyncio

        async def ask_the_model(topic):
            yield "a"
            yield "b"

        async def main():
            async for chunk in write("otters"):
                break

        asyncio.run(main())
    """)
    with testing.capture() as seen:
        exec(program, {})
    assert seen.tree() == "invoke_agent writer\n└─ chat claude-sonnet-4-5"
    assert {(span.attributes or {})["agentbus.outcome"] for span in seen.spans} == {"cancelled"}


def test_the_budget_lines_run_and_stop_the_run_that_is_over() -> None:
    program = block("Budgets hold for each run", "python") + textwrap.dedent("""
        with agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:
            for _ in range(10):
                try:
                    with run.llm() as call:
                        call.record(input_tokens=10, output_tokens=125_000)
                except agentbus.BudgetExceeded as refused:
                    print(refused.budget, "is over")
                    break
        bus.close()
        """)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "AGENTBUS_"))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "per-run 0.500005 of 0.5",
        "per-run 0.500005 of 0.5",
        "per-run is over",
    ]


def test_the_price_file_gives_local_models_the_price_that_it_says(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(block("Prices of your own", "toml"), "utf-8")
    with testing.capture(prices=str(file)) as seen, agentbus.llm("llama-3", provider="ollama") as call:
        call.record(input_tokens=1000, output_tokens=1000)
    attributes = dict(seen.span("chat llama-3").attributes or {})
    assert (attributes["agentbus.cost.usd"], attributes["agentbus.cost.status"]) == (0.0, "override")


def rows(text: str) -> list[str]:
    """What a shown tree says apart from its numbers."""
    return [
        re.sub(r"[\d.,$]+s?", "", line).split("  ")[0].rstrip()
        for line in text.splitlines()
        if re.match(r"[│├└✓✗]", line)
    ]


def test_the_demo_shows_what_the_readme_shows() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "AGENTBUS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "otel_agentbus", "demo", "--fast"],
        cwd=ROOT,
        env=environment | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    shown = block("<!-- demo -->", "text")
    assert rows(shown) == rows(done.stdout)
    assert len(rows(shown)) > 15
