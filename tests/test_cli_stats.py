"""`otel-agentbus stats`: the sums of a journal for people, spreadsheets and programs, equal to those of the bus."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from otel_agentbus import testing
from otel_agentbus.cli.scenario import QUESTION, Newsroom, operate
from otel_agentbus.cli.stats import KEYS, By, Stats
from otel_agentbus.events import ToolCall
from otel_agentbus.recording import read_events
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.summary import ROWS
from otel_agentbus.telemetry.tool_summary import ToolRow, ToolSummary

from .bridging import at
from .looking import looking_around, on_a_terminal, record, run, story
from .test_demo import LoopClock

SHOWN = """\
19 events, 2023-11-14 22:13:20 to 22:13:42

What was used, by agent and model
agent     model              calls  err     in  out  cached      cost  unpriced    p50    p95
planner   claude-sonnet-4-5      2    1  1,200   40     800   $0.0125            1.00s  2.00s
searcher  qwen3:8b               1         300   20                 ?         1  0.50s  0.50s
total                            3    1  1,500   60     800  $0.0125?         1  0.99s  2.00s

Which tools were called, by agent and tool
agent     tool    calls  err  cancelled    p50    p95
searcher  search      1    1             5.00s  5.00s
planner   ask         1                  6.00s  6.00s
total                 2    1             5.02s  6.00s

2 runs (1 cancelled), 2 tool calls (1 failed).
No price for 1 call (unknown_provider): `otel-agentbus prices MODEL` says what is known; AGENTBUS_PRICES may name a \
file of your own prices.
"""
BELOW = SHOWN[SHOWN.index("2 runs (") :]
ABOVE = SHOWN.splitlines()[0]
BY = {
    "agent": """
What was used, by agent
agent     calls  err     in  out  cached      cost  unpriced    p50    p95
planner       2    1  1,200   40     800   $0.0125            1.00s  2.00s
searcher      1         300   20                 ?         1  0.50s  0.50s
total         3    1  1,500   60     800  $0.0125?         1  0.99s  2.00s
""",
    "model": """
What was used, by model
model              calls  err     in  out  cached      cost  unpriced    p50    p95
claude-sonnet-4-5      2    1  1,200   40     800   $0.0125            1.00s  2.00s
qwen3:8b               1         300   20                 ?         1  0.50s  0.50s
total                  3    1  1,500   60     800  $0.0125?         1  0.99s  2.00s
""",
    "tool": """
Which tools were called
tool    calls  err  cancelled    p50    p95
search      1    1             5.00s  5.00s
ask         1                  6.00s  6.00s
total       2    1             5.02s  6.00s
""",
}


def row(**known: Any) -> dict[str, Any]:
    return {**dict.fromkeys(KEYS), "is_rest": False, **known}


PLANNED = row(
    kind="model",
    agent="planner",
    provider="anthropic",
    model="claude-sonnet-4-5",
    calls=2,
    errors=1,
    cancelled=0,
    input_tokens=1200,
    output_tokens=40,
    cache_read_input_tokens=800,
    cache_write_input_tokens=0,
    reasoning_output_tokens=0,
    cost_usd=0.0125,
    unpriced_calls=0,
    saved_usd=0.0,
    duplicates=0,
    p50_seconds=1.0,
    p95_seconds=2.0,
)
SEARCHED = {
    **PLANNED,
    "agent": "searcher",
    "provider": "ollama",
    "model": "qwen3:8b",
    "calls": 1,
    "errors": 0,
    "input_tokens": 300,
    "output_tokens": 20,
    "cache_read_input_tokens": 0,
    "cost_usd": None,
    "unpriced_calls": 1,
    "p50_seconds": 0.5,
    "p95_seconds": 0.5,
}
SEARCH = row(
    kind="tool",
    agent="searcher",
    tool="search",
    calls=1,
    errors=1,
    cancelled=0,
    p50_seconds=5.0,
    p95_seconds=5.0,
)
ASK = {**SEARCH, "agent": "planner", "tool": "ask", "errors": 0, "p50_seconds": 6.0, "p95_seconds": 6.0}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    with looking_around(tmp_path) as directory:
        yield directory


# -- for people --------------------------------------------------------------------------------------------------------


def test_the_sums_are_by_agent_and_model_and_by_tool_and_what_has_no_price_is_said(journal: Path) -> None:
    done = run("stats", journal, width=120)
    assert (done.exit_code, done.output) == (0, SHOWN)


@pytest.mark.parametrize("by", ["agent", "model", "tool"])
def test_one_of_them_can_be_chosen(journal: Path, by: str) -> None:
    done = run("stats", journal, "--by", by, width=120)
    assert (done.exit_code, done.output) == (0, f"{ABOVE}\n{BY[by]}\n{BELOW}")


def test_what_was_before_can_be_left_out(journal: Path) -> None:
    shown = run("stats", journal, "--since", "2023-11-14T22:13:40+00:00", width=120).output
    assert shown.splitlines() == [
        "4 events, 2023-11-14 22:13:40 to 22:13:42",
        "",
        "What was used, by agent and model",
        "agent    model              calls  err  in  out  cached  cost  unpriced    p50    p95",
        "planner  claude-sonnet-4-5      1    1                                   1.00s  1.00s",
        "total                           1    1                                   1.00s  1.00s",
        "",
        "0 runs, 0 tool calls.",
    ]


def test_where_nothing_was_since_then_a_sentence_says_so(journal: Path) -> None:
    done = run("stats", journal, "--since", "1h")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        f"The journal {journal} holds no events from then on.\n",
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_on_a_terminal_nothing_is_wider_than_it_and_no_number_is_broken(journal: Path, width: int) -> None:
    shown = on_a_terminal("stats", journal, width=width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(cell_len, plain.splitlines())) <= width
    words = plain.split()
    assert {"$0.0125", "$0.0125?", "?", "2.00s", "5.00s", "6.00s", "searcher", "claude-sonnet-4-5"} <= set(words)
    assert "\x1b[1m" in shown
    assert ("cached" in words) == (width > 40)


# -- for programs ------------------------------------------------------------------------------------------------------


def test_json_has_the_exact_numbers_under_stable_keys(journal: Path) -> None:
    done = run("stats", journal, "--json")
    total = {**PLANNED, "kind": "total", "agent": None, "provider": None, "model": None, "calls": 3, "errors": 1}
    total |= {"input_tokens": 1500, "output_tokens": 60, "unpriced_calls": 1}
    said = json.loads(done.output)
    assert 0.99 <= said["total"].pop("p50_seconds") <= 1.01  # of several that differ, right to 1 %
    total.pop("p50_seconds")
    assert 4.95 <= said["tools_total"].pop("p50_seconds") <= 5.05
    tools = {**SEARCH, "agent": None, "tool": None, "calls": 2, "p95_seconds": 6.0}
    tools.pop("p50_seconds")
    assert said == {
        "events": 19,
        "first": "2023-11-14T22:13:20+00:00",
        "last": "2023-11-14T22:13:42+00:00",
        "rows": [PLANNED, SEARCHED, SEARCH, ASK],
        "total": total,
        "tools_total": tools,
        "unpriced_reasons": {"unknown_provider": 1},
        "runs": [
            {"agent": "searcher", "outcomes": {"cancelled": 1}, "is_rest": False},
            {"agent": "planner", "outcomes": {"ok": 1}, "is_rest": False},
        ],
    }


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        (
            By.agent,
            [
                {**PLANNED, "kind": "agent", "provider": None, "model": None},
                {**SEARCHED, "kind": "agent", "provider": None, "model": None},
            ],
        ),
        (By.model, [{**PLANNED, "agent": None}, {**SEARCHED, "agent": None}]),
        (By.tool, [{**SEARCH, "agent": None}, {**ASK, "agent": None}]),
    ],
)
def test_the_rows_of_json_and_csv_are_the_same_and_summed_up_as_asked(
    journal: Path, by: By, rows: list[dict[str, Any]]
) -> None:
    assert json.loads(run("stats", journal, "--json", "--by", by.value).output)["rows"] == rows
    printed = run("stats", journal, "--csv", "--by", by.value).output
    header, *lines = csv.reader(io.StringIO(printed))
    assert tuple(header) == KEYS
    assert lines == [["" if v is None else str(v).lower() if v is False else str(v) for v in r.values()] for r in rows]


def test_csv_is_printed_to_the_last_digit(journal: Path) -> None:
    assert run("stats", journal, "--csv").output.splitlines() == [
        ",".join(KEYS),
        "model,planner,anthropic,claude-sonnet-4-5,,2,1,0,1200,40,800,0,0,0.0125,0,0.0,0,1.0,2.0,false",
        "model,searcher,ollama,qwen3:8b,,1,0,0,300,20,0,0,0,,1,0.0,0,0.5,0.5,false",
        "tool,searcher,,,search,1,1,0,,,,,,,,,,5.0,5.0,false",
        "tool,planner,,,ask,1,0,0,,,,,,,,,,6.0,6.0,false",
    ]


def test_only_one_format_at_a_time(journal: Path) -> None:
    done = run("stats", journal, "--json", "--csv")
    assert done.exit_code == 2
    assert "choose one of --json and --csv" in done.stderr


# -- the same as the bus -----------------------------------------------------------------------------------------------


def test_the_sums_of_a_journal_are_those_of_the_bus_that_wrote_it(tmp_path: Path) -> None:
    clock = LoopClock()
    with asyncio.Runner(loop_factory=clock.make_loop) as runner, testing.capture(fake_clock=clock) as seen:
        seen.bus.accounting.prices.load()
        runner.run(Newsroom(seen.bus).answer(QUESTION))
        operate(seen.bus)
        record(tmp_path, seen.events, seen.bus.source).close()
        of_bus = seen.bus.summary()
    prices = PriceBook()
    prices.load()
    found = Stats(prices)
    found.hear(read_events(tmp_path))
    assert found.summary.read() == of_bus
    assert (of_bus.total.calls, found.events) == (7, len(seen.events))


def test_a_call_that_is_told_twice_is_counted_once(tmp_path: Path) -> None:
    record(tmp_path, [*story(), *story()]).close()
    found = Stats()
    found.hear(read_events(tmp_path))
    assert (found.summary.read().total.calls, found.summary.read().total.duplicates) == (3, 3)
    assert [(row.tool, row.calls) for row in found.tools.read()] == [("search", 1), ("ask", 1)]
    assert found.summary.read().total.cost == 0.0125


# -- tools -------------------------------------------------------------------------------------------------------------


def call(tool: str, duration: float, agent: str | None = None, **fields: Any) -> ToolCall:
    return ToolCall(**{"time_ns": at(0), "tool": tool, "duration": duration, "agent": agent, "success": True, **fields})


def test_tools_are_counted_by_agent_and_name_and_by_name_alone() -> None:
    heard = ToolSummary()
    for event in (
        call("search", 1.0, "a"),
        call("search", 3.0, "b", success=False),
        call("search", 3.0, "b", outcome="cancelled"),
        call("read", 0.5, "b"),
        call("read", 0.5),
    ):
        heard(event)
    assert heard.read() == (
        ToolRow("a", "search", 1, 0, 0, 1.0, 1.0),
        ToolRow("b", "search", 2, 1, 1, 3.0, 3.0),
        ToolRow("b", "read", 1, 0, 0, 0.5, 0.5),
        ToolRow(None, "read", 1, 0, 0, 0.5, 0.5),
    )
    assert heard.read_by_tool() == (
        ToolRow(None, "search", 3, 1, 1, 3.0, 3.0),
        ToolRow(None, "read", 2, 0, 0, 0.5, 0.5),
    )
    assert (heard.total.calls, heard.total.errors, heard.total.cancelled) == (5, 1, 1)


def test_what_comes_after_too_many_names_is_summed_up() -> None:
    heard = ToolSummary()
    for number in range(2 * ROWS):
        heard(call(f"t{number}", 1.0))
    rows = heard.read()
    assert (len(rows), rows[-1]) == (ROWS, ToolRow("other", "other", ROWS + 1, 0, 0, 1.0, 1.0, folded=True))
    assert heard.total == ToolRow(None, None, 2 * ROWS, 0, 0, 1.0, 1.0)
