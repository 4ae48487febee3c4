"""`otel-agentbus tree`: the tree of a run from a journal, at all widths, and which run it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from otel_agentbus.cli.kept import Kept
from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmResponse, ToolCall
from otel_agentbus.telemetry.outline import Outline, Row, root_of
from otel_agentbus.telemetry.shares import Part, Shares

from .bridging import at
from .looking import CLAUDE, PLANNER, looking_around, on_a_terminal, record, run, story

FINISHED = """\
Run run-7f3a, 2023-11-14 22:13:20, ok after 10.0s
✓ ok ✗ error ⊘ cancelled ◐ running        in out     cost  time share when
✓ agent planner                        1,500  60 $0.0125? 10.0s  100% ────────━━
├─ ✓ chat claude-sonnet-4-5            1,200  40  $0.0125 2.00s   20% ━━
├─ ✓ tool ask                                             6.00s   60%   ─────━
│  └─ ⊘ agent searcher  cancelled        300  20        ? 5.00s   50%   ─────
│     ├─ • cache.hit  prompt, 100 tokens saved
│     ├─ ✗ tool search  Unreachable: no answer  mirror=eu 5.00s   50%   ━━━━━
│     └─ ✓ chat qwen3:8b                 300  20        ? 0.50s    5%   ━
└─ • answer_found  score=87
Most of the time: tool search 50%, agent planner 20%, chat claude-sonnet-4-5 20%

agent     model              calls  err     in  cached  out      cost   time
planner   claude-sonnet-4-5      1       1,200     800   40   $0.0125  2.00s
searcher  qwen3:8b               1         300           20         ?  0.50s
total                            2       1,500     800   60  $0.0125?  2.50s

2 runs (1 cancelled), 2 model calls, 2 tool calls (1 failed), 100 tokens saved
"""
INTERRUPTED = """\
Run run-9c21, 2023-11-14 22:13:40, interrupted after 2.00s
✓ ok ✗ error ⊘ cancelled ◐ running            in out cost  time share when
! agent planner  interrupted                              2.00s  100% ──────────
├─ ! tool wait  interrupted                               2.00s  100% ━━━━━━━━━━
└─ ✗ chat claude-sonnet-4-5  RateLimited: 429             1.00s   50%      ━━━━━
Most of the time: tool wait 100%, chat claude-sonnet-4-5 50%

agent    model              calls  err  in  cached  out  cost   time
planner  claude-sonnet-4-5      1    1                         1.00s
total                           1    1                         1.00s

1 run (1 interrupted), 1 model call (1 failed), 1 tool call (1 interrupted)
"""
LAST = "\nThe last of 2 runs. `otel-agentbus tree ROOT_ID` draws another one.\n"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    with looking_around(tmp_path) as directory:
        yield directory


def test_a_run_is_drawn_as_its_spans_would_be_with_where_its_time_went(journal: Path) -> None:
    done = run("tree", "run-7f3a", "--journal", journal)
    assert (done.exit_code, done.output) == (0, FINISHED)


def test_without_an_id_it_is_the_last_run_and_what_was_open_when_its_process_died_is_interrupted(
    journal: Path,
) -> None:
    done = run("tree", AGENTBUS_JOURNAL=str(journal))
    assert (done.exit_code, done.output) == (0, INTERRUPTED + LAST)


def test_the_last_runs_come_in_the_order_of_their_beginnings(journal: Path) -> None:
    assert run("tree", "--last", "5", "--journal", journal).output == FINISHED + "\n" + INTERRUPTED


def test_what_goes_on_in_a_process_that_lives_is_running(tmp_path: Path) -> None:
    with looking_around(tmp_path):
        recorder = record(tmp_path / "live", story())
        shown = run("tree", "--journal", tmp_path / "live").output
        recorder.close()
    head, _, agent, tool, call, *_ = shown.splitlines()
    assert re.fullmatch(r"Run run-9c21, 2023-11-14 22:13:40, running for \d+h\d\dm", head)
    assert (agent[:24].rstrip(), tool[:24].rstrip(), call[:28]) == (
        "◐ agent planner  running",
        "├─ ◐ tool wait  running",
        "└─ ✗ chat claude-sonnet-4-5 ",
    )
    assert "1 run (1 running), 1 model call (1 failed), 1 tool call (1 running)" in shown


# -- which run it is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["run-7f3a", "run-7", "7f3a", "n-7f3a"])
def test_a_part_of_an_id_is_enough_at_its_beginning_or_its_end(journal: Path, given: str) -> None:
    assert run("tree", given, "--journal", journal).output == FINISHED


def test_an_id_that_is_the_beginning_of_another_one_is_that_run(tmp_path: Path) -> None:
    with looking_around(tmp_path) as journal:
        others = [AgentStart(time_ns=at(1), invocation_id=f"run-7f3a{n}", agent="x") for n in range(40)]
        record(journal, others, "source-2").close()
        assert run("tree", "run-7f3a", "--journal", journal).output == FINISHED


def test_several_runs_of_one_beginning_are_named(journal: Path) -> None:
    done = run("tree", "run-", "--journal", journal)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "2 runs have an id like 'run-': run-7f3a, run-9c21.\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run-7e3a", "No run has the id 'run-7e3a'. Did you mean run-7f3a?\n"),
        ("n-9c", "No run has the id 'n-9c'. Did you mean run-9c21?\n"),
        ("zzz", "No run has the id 'zzz'. The last ones are run-7f3a, run-9c21.\n"),
    ],
)
def test_of_an_id_that_there_is_not_the_close_ones_are_named(journal: Path, given: str, said: str) -> None:
    done = run("tree", given, "--journal", journal)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", said)


def test_a_journal_without_any_run_says_so(tmp_path: Path) -> None:
    with looking_around(tmp_path):
        record(tmp_path / "none", [event for event in story() if not root_of(event)]).close()
        done = run("tree", "--journal", tmp_path / "none")
    assert (done.exit_code, done.stderr) == (2, "The journal holds no runs: nothing in it has an invocation id.\n")


def test_a_run_that_several_processes_tell_of_is_one_tree_whichever_tells_first(tmp_path: Path) -> None:
    with looking_around(tmp_path):
        of_searcher = [event for event in story() if event.agent == "searcher"]
        others = [event for event in story() if event.agent != "searcher"]
        for event in of_searcher:
            event.source = "source-0"
        record(tmp_path / "two", of_searcher, "source-0").close()
        record(tmp_path / "two", others).close()
        assert run("tree", "run-7f3a", "--journal", tmp_path / "two").output == FINISHED


def test_of_a_long_journal_no_more_is_kept_than_is_shown() -> None:
    kept = Kept(None, 2)
    for number in range(1_000):
        ids: dict[str, Any] = {"invocation_id": f"r{number}", "root_invocation_id": f"r{number}", "agent": "a"}
        kept(AgentStart(time_ns=at(number), seq=2 * number, **ids))
        kept(LlmResponse(time_ns=at(number), duration=0.0, success=True, messages=["x"], **ids, **CLAUDE))
    for number in range(1_000):  # late: of runs that are not shown, and of the last one
        kept(AgentEnd(time_ns=at(1_000), invocation_id=f"r{number}", root_invocation_id=f"r{number}"))
    assert [(run.root, len(run.events)) for run in kept.chosen()] == [("r998", 3), ("r999", 3)]
    assert len(kept._runs) <= 18
    assert {getattr(event, "messages", None) for event in kept.chosen()[0].events} == {None}
    assert kept.latest(2) == ["r998", "r999"]


def test_of_an_endless_run_the_beginning_is_drawn_and_the_rest_is_counted(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otel_agentbus.cli.kept.EVENTS", 3)
    shown = run("tree", "run-7f3a", "--journal", journal).output
    assert "├─ ✓ chat" not in shown
    assert "└─ ✓ chat claude-sonnet-4-5 " in shown
    assert shown.endswith("\n11 further events of this run are not shown.\n")


def test_the_events_of_all_runs_that_are_kept_are_bounded_and_the_ones_asked_for_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("otel_agentbus.cli.kept.ALL_EVENTS", 12)
    kept = Kept(None, 2)
    ids: dict[str, Any] = {}
    for number in range(10):
        ids = {"invocation_id": f"r{number}", "root_invocation_id": f"r{number}", "agent": "a"}
        kept(AgentStart(time_ns=at(number), **ids))
        kept(AgentStart(time_ns=at(number), **ids))
        kept(AgentStart(time_ns=at(number), **ids))
    assert sum(len(run.events) for run in kept._runs.values()) <= 12
    assert [(run.root, len(run.events), run.further) for run in kept.chosen()] == [("r8", 3, 0), ("r9", 3, 0)]
    for _ in range(20):
        kept(AgentStart(time_ns=at(20), **ids))
    assert sum(len(run.events) for run in kept._runs.values()) <= 12
    assert [(run.root, len(run.events), run.further) for run in kept.chosen()] == [("r8", 3, 0), ("r9", 9, 14)]


def test_runs_of_agents_come_before_calls_that_stand_alone() -> None:
    kept = Kept(None, 1)
    kept(AgentStart(time_ns=at(0), **PLANNER))
    for number in range(100):
        kept(ToolCall(time_ns=at(number), tool="t", duration=0.0, success=True, invocation_id=f"alone-{number}"))
    assert [run.root for run in kept.chosen()] == ["run-7f3a"]


# -- how it looks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_on_a_terminal_nothing_is_wider_than_it_and_every_row_has_one_line(journal: Path, width: int) -> None:
    shown = on_a_terminal("tree", "run-7f3a", "--journal", journal, width=width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    lines = plain.splitlines()
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if line.startswith(("✓ agent", "├─", "│ ", "└─"))]
    assert len(rows) == 8
    shares = [line for line in rows if "%" in line]
    assert len(shares) == 6
    assert "\x1b[1m" in shown
    if width == 80:
        assert plain.splitlines()[:18] == FINISHED.splitlines()[:18]


def test_a_narrow_terminal_leaves_out_the_bars_then_the_tokens(journal: Path) -> None:
    shown = run("tree", "run-7f3a", "--journal", journal, width=60).output.splitlines()[1:5]
    assert shown == [
        "✓ ok ✗ error ⊘ cancelled ◐ r…    in out     cost  time share",
        "✓ agent planner               1,500  60 $0.0125? 10.0s  100%",
        "├─✓ chat claude-sonnet-4-5    1,200  40  $0.0125 2.00s   20%",
        "├─✓ tool ask                                     6.00s   60%",
    ]
    shown = run("tree", "run-7f3a", "--journal", journal, width=40).output.splitlines()[1:5]
    assert shown == [
        "✓ ok ✗ error ⊘ can…     cost  time share",
        "✓ agent planner     $0.0125? 10.0s  100%",
        "├─✓ chat claude-so…  $0.0125 2.00s   20%",
        "├─✓ tool ask                 6.00s   60%",
    ]


def test_where_there_is_no_unicode_it_is_drawn_in_ascii(journal: Path) -> None:
    shown = on_a_terminal("tree", "run-7f3a", "--journal", journal, width=80, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain.isascii()
    assert plain.splitlines()[1:4] == [
        "+ ok x error - cancelled > running        in out     cost  time share when",
        "+ agent planner                        1,500  60 $0.0125? 10.0s  100% --------==",
        "|-- + chat claude-sonnet-4-5           1,200  40  $0.0125 2.00s   20% ==",
    ]


# -- where the time went -----------------------------------------------------------------------------------------------


def shares_of(*events: Event, now: float = 10.0) -> tuple[Outline, Shares]:
    outline = Outline()
    for event in events:
        outline(event)
    return outline, Shares(outline.roots[0], at(now))


def tool(start: float, end: float, name: str) -> ToolCall:
    ids: dict[str, Any] = {"tool_call_id": f"{name}{start}", **PLANNER}
    return ToolCall(time_ns=at(end), tool=name, duration=end - start, success=True, **ids)


def test_what_goes_on_at_once_counts_once_and_what_is_inside_of_nothing_is_the_runs_own() -> None:
    outline, shares = shares_of(
        AgentStart(time_ns=at(0), **PLANNER),
        tool(1, 4, "a"),
        tool(2, 5, "a"),
        tool(3, 6, "b"),
        tool(9, 12, "late"),
        AgentEnd(time_ns=at(10), duration=10.0, **PLANNER),
    )
    assert shares.largest(9) == [
        Part("agent planner", 1, 0.4),
        Part("tool a", 2, 0.4),
        Part("tool b", 1, 0.3),
        Part("tool late", 1, 0.1),
    ]
    [root] = outline.roots
    rows = [root, *root.children]
    assert [shares.of(row) for row in rows] == [1.0, 0.3, 0.3, 0.3, 0.1]
    assert [shares.bar(row, 10, "=", "-") for row in rows] == [
        "=-----===-",
        " ===",
        "  ===",
        "   ===",
        "         =",
    ]


def test_a_run_that_took_no_time_has_no_shares() -> None:
    outline, shares = shares_of(
        AgentStart(time_ns=at(0), **PLANNER), tool(0, 0, "a"), AgentEnd(time_ns=at(0), duration=0.0, **PLANNER)
    )
    [root] = outline.roots
    assert (shares.of(root), shares.bar(root, 10, "=", "-"), shares.largest(3)) == (None, "", [])


# -- what an outline keeps ---------------------------------------------------------------------------------------------


def test_an_outline_keeps_the_last_trees_and_the_totals_of_all() -> None:
    outline = Outline(trees=2)
    for number in range(5):
        ids: dict[str, Any] = {"invocation_id": f"r{number}", "root_invocation_id": f"r{number}", "agent": "a"}
        outline(AgentStart(time_ns=at(number), **ids))
        outline(LlmResponse(time_ns=at(number), duration=1.0, success=True, cost_usd=0.5, **ids, **CLAUDE))
    for number in range(5):  # the ends of those that are left out are counted, and bring none of them back
        outline(AgentEnd(time_ns=at(9), invocation_id=f"r{number}", root_invocation_id=f"r{number}"))
    assert [(root.started_ns, root.outcome) for root in outline.roots] == [(at(3), "ok"), (at(4), "ok")]
    assert (outline.totals.llm.calls, outline.totals.runs.calls) == (5, 5)
    assert len(outline._rows) == 4


def test_an_outline_that_nobody_reads_does_not_let_events_pile_up() -> None:
    outline = Outline(trees=10)
    for number in range(25_000):
        outline(ToolCall(time_ns=at(number), tool="t", duration=0.0, success=True))
    assert len(outline._heard) <= 10_001
    assert len(outline.roots) == 10
    assert outline.totals.tools.calls == 25_000


def test_rows_that_are_told_before_what_is_above_them_find_their_place() -> None:
    events = [event for event in story() if event.root_invocation_id == "run-7f3a"]
    in_order, late = Outline(), Outline()
    for event in events:
        in_order(event)
    for event in sorted(events, key=lambda event: event.agent != "searcher"):
        late(event)
    [told], [heard] = in_order.roots, late.roots
    assert shape_of(heard) == shape_of(told)
    assert (heard.spent.input, heard.spent.output, heard.spent.calls) == (1500, 60, 2)


def shape_of(row: Row) -> tuple[Any, ...]:
    return (row.kind, row.name, row.outcome, [shape_of(child) for child in row.children])
