"""The outline of what happened, and how it looks on terminals of all sizes."""

from __future__ import annotations

import io
import subprocess
import sys
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DeploymentStarted,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
)
from otel_agentbus.telemetry.console import View, dollars, seconds
from otel_agentbus.telemetry.outline import Outline, Row, Spent, Totals

from .bridging import T0, at


def console(width: int = 80, *, encoding: str = "utf-8", height: int = 25, terminal: bool = False) -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    environment = {"TERM": "xterm"}
    return Console(
        file=file, width=width, height=height, force_terminal=terminal, highlight=False, _environ=environment
    )


def printed(shown: Console) -> str:
    file: Any = shown.file
    return str(file.buffer.getvalue().decode(file.encoding))


def outline(*events: Event) -> Outline:
    heard = Outline()
    for event in events:
        heard(event)
    return heard


def drawn(heard: Outline, width: int = 60, now: float = 10.0, **options: Any) -> str:
    """The tree without its first line, which is the same everywhere."""
    view = View(heard, console(width, **options), clock=lambda: at(now))
    return view.tree().plain.partition("\n")[2]


def start(seconds_: float = 0.0, run: str = "r", **fields: Any) -> AgentStart:
    return AgentStart(time_ns=at(seconds_), invocation_id=run, root_invocation_id="r", agent=run, **fields)


def end(seconds_: float, duration: float | None = None, run: str = "r", **fields: Any) -> AgentEnd:
    return AgentEnd(
        time_ns=at(seconds_), invocation_id=run, root_invocation_id="r", agent=run, duration=duration, **fields
    )


def request(seconds_: float, call_id: str | None = None, run: str | None = "r", **fields: Any) -> LlmRequest:
    chosen = {"model_provider": "p", "model": "m", "messages_count": 1, **fields}
    return LlmRequest(time_ns=at(seconds_), invocation_id=run, root_invocation_id="r", call_id=call_id, **chosen)


def response(
    seconds_: float, duration: float, call_id: str | None = None, run: str | None = "r", **fields: Any
) -> LlmResponse:
    chosen = {"model_provider": "p", "model": "m", "success": True, "agent": run, **fields}
    return LlmResponse(
        time_ns=at(seconds_),
        invocation_id=run,
        root_invocation_id="r",
        call_id=call_id,
        duration=duration,
        **chosen,
    )


def tool_start(seconds_: float, tool: str, tool_call_id: str | None = None, **fields: Any) -> ToolCallStart:
    return ToolCallStart(
        time_ns=at(seconds_), invocation_id="r", root_invocation_id="r", tool=tool, tool_call_id=tool_call_id, **fields
    )


def tool_end(seconds_: float, tool: str, duration: float, tool_call_id: str | None = None, **fields: Any) -> ToolCall:
    chosen = {"success": True, **fields}
    return ToolCall(
        time_ns=at(seconds_),
        invocation_id="r",
        root_invocation_id="r",
        tool=tool,
        tool_call_id=tool_call_id,
        duration=duration,
        **chosen,
    )


# -- the tree ----------------------------------------------------------------------------------------------------------


def test_runs_calls_and_moments_stand_where_their_lineage_says() -> None:
    heard = outline(
        start(),
        tool_start(1, "ask", "t1"),
        start(1, "sub", parent_invocation_id="r", parent_call_id="t1"),
        request(1, "c1", run="sub"),
        DomainEvent(time_ns=at(1), name="found", invocation_id="sub", parent_call_id="llm:c1", data={"n": 2}),
        response(2, 1.0, "c1", run="sub"),
        end(2, 1.0, "sub"),
        tool_end(3, "ask", 2.0, "t1"),
        end(4, 4.0),
    )
    assert drawn(heard) == (
        "✓ agent r                                              4.00s\n"
        "└─✓ tool ask                                           2.00s\n"
        "  └─✓ agent sub                                        1.00s\n"
        "    └─✓ chat m                                         1.00s\n"
        "      └─• found  n=2"
    )


def test_what_goes_on_has_a_spinner_and_its_time_so_far() -> None:
    heard = outline(start(), request(1.5, "c"))
    assert [drawn(heard, 40, now=now) for now in (2.0, 2.125)] == [
        "⠼ agent r                          2.00s\n└─⠼ chat m                         0.50s",
        "⠴ agent r                          2.12s\n└─⠴ chat m                         0.62s",
    ]


def test_every_outcome_has_its_own_sign_and_says_why() -> None:
    heard = outline(
        start(),
        tool_end(1, "a", 0.5, "1", success=False, error_type="lib.errors.Bad", error_message="no\nway"),
        tool_end(2, "b", 0.5, "2", success=False),
        tool_end(3, "c", 0.5, "3", success=False, outcome="cancelled", attributes={"page": 3}),
        tool_end(4, "d", 0.5, "4", success=False, outcome="interrupted"),
        end(4, None),
    )
    assert drawn(heard) == (
        "✓ agent r                                              4.00s\n"
        "├─✗ tool a  Bad: no way                                0.50s\n"
        "├─✗ tool b  error                                      0.50s\n"
        "├─⊘ tool c  cancelled  page=3                          0.50s\n"
        "└─! tool d  interrupted                                0.50s"
    )


def test_moments_say_what_they_are_about_and_heartbeats_nothing() -> None:
    moments: list[Event] = [
        CacheHit(cache_type="semantic", tokens_saved=1200),
        CacheMiss(cache_type="exact"),
        Error(component="db", message="gone"),
        ChannelMessage(channel="mail", direction="inbound"),
        DeploymentStarted(deploy_id="d1"),
        HeartbeatTick(),
    ]
    assert drawn(outline(*moments)) == (
        "• cache.hit  semantic, 1,200 tokens saved\n"
        "• cache.miss  exact\n"
        "• error  db: gone\n"
        "• channel.message  inbound mail\n"
        "• deployment.started  d1"
    )


def test_calls_without_ids_pair_in_order_tools_by_their_name() -> None:
    heard = outline(
        start(),
        request(1, model="one"),
        response(2, 1.0, model="another"),
        tool_start(3, "t", attributes={"n": 1}),
        tool_start(3, "t", attributes={"n": 2}),
        tool_start(3, "u"),
        tool_end(5, "t", 2.0),
        tool_end(6, "u", 3.0),
    )
    assert drawn(heard) == (
        "⠋ agent r                                              10.0s\n"
        "├─✓ chat one                                           1.00s\n"
        "├─✓ tool t  n=1                                        2.00s\n"
        "├─⠋ tool t  n=2                                        7.00s\n"
        "└─✓ tool u                                             3.00s"
    )


def test_an_end_without_its_start_is_dated_back_and_duplicates_count_once() -> None:
    heard = outline(start(), start(), response(5, 2.0, "c"), response(5, 2.0, "c"), end(6, 6.0), end(6, 6.0))
    [run] = heard.roots
    [call] = run.children
    assert (call.started_ns, call.seconds(0), run.spent.calls) == (at(3), 2.0, 1)
    assert (heard.totals.runs.calls, heard.totals.llm.calls) == (1, 1)


def test_a_run_inside_a_call_that_stands_alone_stands_under_it() -> None:
    alone = ToolCallStart(time_ns=T0, root_invocation_id="t", tool="alone", tool_call_id="t")
    inside = AgentStart(time_ns=T0, invocation_id="i", root_invocation_id="t", parent_call_id="t", agent="a")
    [root] = outline(alone, inside).roots
    assert (root.name, [child.name for child in root.children]) == ("alone", ["a"])


def test_events_without_any_ids_still_make_rows() -> None:
    heard = outline(AgentStart(time_ns=T0), LlmRequest(model_provider="p", model="m", messages_count=1, time_ns=T0))
    assert [(row.kind, row.name) for row in heard.roots] == [("agent", "agent"), ("llm", "chat m")]


def test_the_trace_is_the_first_that_an_event_names() -> None:
    trace = f"00-{1:032x}-{0:016x}-01"
    assert outline().trace is None
    assert outline(HeartbeatTick(), start(trace=trace), end(1, trace="other")).trace == trace


# -- the totals --------------------------------------------------------------------------------------------------------


def test_totals_are_exact_by_agent_and_model_and_what_costs_an_unknown_sum_says_so() -> None:
    heard = outline(
        start(),
        start(0, "sub", parent_invocation_id="r"),
        response(1, 0.5, "1", input_tokens=10, output_tokens=2, cache_read_input_tokens=4, cost_usd=0.1),
        response(2, 0.25, "2", input_tokens=5, output_tokens=1, cost_usd=0.2),
        response(3, 0.5, "3", run="sub", input_tokens=7, response_model="m-2026"),
        response(4, 0.5, "4", run="sub", success=False, error_type="E"),
        tool_end(5, "t", 1.0, "t", success=False, outcome="cancelled"),
        CacheHit(cache_type="c", tokens_saved=3),
        end(6, 6.0, "sub", outcome="error"),
    )
    of_run = Spent(2, 0, 0, 15, 3, 4, Decimal("0.3"), 0, 0.75)
    of_sub = Spent(1, 0, 0, 7, 0, 0, None, 1, 0.5)
    failed = Spent(1, 1, 0, 0, 0, 0, None, 0, 0.5)
    below = Spent(2, 1, 0, 7, 0, 0, None, 1, 1.0)
    everything = Spent(4, 1, 0, 22, 3, 4, Decimal("0.3"), 1, 1.75)
    assert heard.totals == Totals(
        models={("r", "m"): of_run, ("sub", "m-2026"): of_sub, ("sub", "m"): failed},
        llm=everything,
        runs=Spent(1, 1, seconds=6.0),
        tools=Spent(1, 0, 1, seconds=1.0),
        tokens_saved=3,
    )
    root = heard.roots[0]
    assert (root.spent, root.children[0].spent) == (everything, below)

    shown = console()
    view = View(heard, shown, clock=lambda: at(8))
    shown.print(view.totals())
    assert [line.rstrip() for line in printed(shown).splitlines()] == [
        "agent  model   calls  err  in  cached  out      cost   time",
        "r      m           2       15       4    3   $0.3000  0.75s",
        "sub    m-2026      1        7                      ?  0.50s",
        "sub    m           1    1                             0.50s",
        "total              4    1  22       4    3  $0.3000?  1.75s",
    ]
    assert view.sum() == "In 8.00s: 1 run (1 failed), 1 tool call (1 cancelled), 3 tokens saved"


@given(st.lists(st.floats(0, 1), max_size=30))
def test_costs_add_up_without_rounding(costs: list[float]) -> None:
    heard = outline(start(), *(response(1, 0.1, str(n), cost_usd=cost) for n, cost in enumerate(costs)))
    with localcontext(prec=60):
        assert heard.totals.llm.cost == (sum(Decimal(repr(cost)) for cost in costs) if costs else None)


@pytest.mark.parametrize(
    ("cost", "unpriced", "shown"),
    [
        (None, 0, ""),
        (None, 1, "?"),
        ("0", 0, "$0.0000"),
        ("0.00001", 0, "<$.0001"),
        ("0.0176242", 0, "$0.0176"),
        ("0.5", 2, "$0.5000?"),
        ("1234.5", 0, "$1,234.50"),
    ],
)
def test_an_unknown_cost_is_never_shown_as_zero(cost: str | None, unpriced: int, shown: str) -> None:
    assert dollars(Spent(cost=None if cost is None else Decimal(cost), unpriced=unpriced)) == shown


@pytest.mark.parametrize(
    ("duration", "shown"),
    [
        (0.0, "0.00s"),
        (9.994, "9.99s"),
        (9.996, "10.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (125.4, "2m05s"),
        (3600, "1h00m"),
    ],
)
def test_durations_are_short(duration: float, shown: str) -> None:
    assert seconds(duration) == shown


# -- on a terminal -----------------------------------------------------------------------------------------------------

STORY: tuple[Event, ...] = (
    start(),
    tool_start(1, "a_tool_with_quite_a_long_name", "t", attributes={"page": "宽字符" * 9}),
    start(1, "sub", parent_invocation_id="r", parent_call_id="t"),
    response(2, 0.5, "1", run="sub", model="a-model-with-quite-a-long-name", input_tokens=123_456, cost_usd=12.5),
    tool_end(3, "a_tool_with_quite_a_long_name", 2.0, "t", success=False, error_type="E", error_message="long " * 30),
    DomainEvent(time_ns=at(3), name="something_happened", invocation_id="r", data={"key": "value " * 20}),
)


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60, 79, 80, 100, 111, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = console(width)
    view = View(outline(*STORY), shown, clock=lambda: at(10))
    shown.print(view.tree())
    shown.print(view.totals())
    shown.print(view.sum())
    assert max(cell_len(line) for line in printed(shown).splitlines()) <= width
    assert len(view.tree().plain.splitlines()) == 6


def test_a_tree_that_is_too_high_shows_its_newest_lines() -> None:
    heard = outline(start(), *(tool_start(n, f"t{n}", str(n)) for n in range(9)))
    lines = View(heard, console(), clock=lambda: at(10)).tree(height=5).plain.splitlines()
    assert [line[:21].rstrip() for line in lines] == [
        "✓ ok  ✗ error  ⊘ canc",
        "… 7 lines above",
        "├─ ⠋ tool t6",
        "├─ ⠋ tool t7",
        "└─ ⠋ tool t8",
    ]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    shown = console(44, encoding="ascii")
    heard = outline(start(), tool_end(1, "tool_é", 1.0, "1"), tool_start(1, "b", "2"), end(2, 2.0))
    shown.print(View(heard, shown, clock=lambda: at(10)).tree())
    assert printed(shown).splitlines() == [
        "+ ok  x error  - cancelled in out cost  time",
        "+ agent r                              2.00s",
        "|-+ tool tool_?                        1.00s",
        "`-| tool b                             9.00s",
    ]


def test_control_characters_of_others_never_reach_the_terminal() -> None:
    shown = console()
    heard = outline(
        start(attributes={"k": "\x1b[2J\a"}), tool_end(1, "\x1b]0;x\a", 1.0, success=False, error_message="\r")
    )
    shown.print(View(heard, shown, clock=lambda: at(1)).tree())
    assert not {char for char in printed(shown) if not char.isprintable()} - {"\n"}


def test_without_a_terminal_the_tree_is_printed_once_at_the_end() -> None:
    shown = console(60)
    heard = outline(start())
    with View(heard, shown).watched():
        assert printed(shown) == ""
        heard(end(1, 1.0))
    assert printed(shown) == (
        "✓ ok  ✗ error  ⊘ cancelled  • event        in out cost  time\n"
        "✓ agent r                                              1.00s\n"
    )


def test_on_a_terminal_it_is_live_and_is_left_there_whole_even_after_an_interruption() -> None:
    shown = console(60, height=5, terminal=True)
    heard = outline(start(), *(tool_start(n, f"t{n}", str(n)) for n in range(9)))
    with pytest.raises(KeyboardInterrupt), View(heard, shown).watched():
        raise KeyboardInterrupt
    live, _, left = printed(shown).rpartition("✓ ok")
    assert "lines above" in live
    assert [f"t{n}" in left for n in range(9)] == [True] * 9


def test_colours_say_the_same_as_the_signs() -> None:
    heard = outline(start(), tool_end(1, "t", 1.0, "1", success=False, error_type="E"), request(1, "c"))
    shown = console(30, terminal=True)
    shown.print(View(heard, shown, clock=lambda: at(5)).tree())
    said = printed(shown).replace("\x1b[0m", "/").replace("\x1b", "").splitlines()[1:]
    assert [" ".join(line.split()) for line in said] == [
        "[36m⠋ /[2magent /[1mr/ [36m5.00s/",
        "[2m├─/[1;31m✗ /[2mtool /t[1;31m E/ 1.00s",
        "[2m└─/[36m⠋ /chat m [36m4.00s/",
    ]


def test_importing_the_package_and_the_model_loads_no_rich() -> None:
    code = "import sys, otel_agentbus, otel_agentbus.telemetry.outline; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_row_knows_those_above_it() -> None:
    top = Row("agent", "a", 0)
    below = Row("tool", "t", 0, parent=top)
    assert list(below.up()) == [below, top]
