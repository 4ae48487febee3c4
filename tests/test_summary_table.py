"""How a summary looks: on wide and narrow terminals, in a pipe, and where nothing can be printed."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from otel_agentbus.telemetry.summary import AgentRow, SummaryData, SummaryRow
from otel_agentbus.telemetry.summary_table import compact, latency, print_summary, table

from .test_console import console, printed

CLAUDE = SummaryRow(
    *("researcher", "anthropic", "claude-sonnet-4-5-20250929"),
    calls=40,
    input=1_250_140,
    output=32_480,
    cached=1_120_000,
    cost=1.484,
    p50=2.77,
    p95=4.64,
)
MINI = SummaryRow(
    "researcher", "openai", "gpt-5-mini", calls=1, input=123, output=4, cost=0.00002, p50=0.041, p95=0.041
)
WRITER = SummaryRow(
    *("writer", "openai", "gpt-5-mini"),
    calls=2,
    errors=1,
    input=1234,
    output=420,
    cost=0.0021,
    reasons={"no_usage": 1},
    p50=0.1,
    p95=2.5,
)
LOCAL = SummaryRow(
    *("writer", "ollama", "llama-4:70b"),
    calls=1,
    input=1_234_567,
    output=420,
    saved=0.04,
    reasons={"unknown_model": 1},
    p50=75.0,
    p95=75.0,
)
TOLD_TWICE = SummaryRow("writer", "openai", "gpt-5-mini-2025-08-07", duplicates=3)
TOTAL = SummaryRow(
    *(None, None, None),
    calls=44,
    errors=1,
    input=2_486_064,
    output=33_324,
    cached=1_120_000,
    cost=1.48612,
    saved=0.04,
    reasons={"no_usage": 1, "unknown_model": 1},
    duplicates=3,
    p50=2.7,
    p95=4.7,
)
RAN = AgentRow("writer", {"ok": 2, "error": 1, "cancelled": 1}, tools=3, tool_errors=1)
DATA = SummaryData((CLAUDE, WRITER, MINI, TOLD_TWICE, LOCAL), (AgentRow("researcher", {"ok": 1}), RAN), TOTAL)


def drawn(data: SummaryData = DATA, width: int = 100, **options: Any) -> str:
    return "\n".join(line.plain for line in table(data, width, **options).split("\n"))


def test_a_wide_table_has_all_numbers_to_the_last_unit() -> None:
    assert (
        drawn(width=120)
        == """\
agent       model                       calls  err         in     out     cached      cost  unpriced    p50    p95
researcher  claude-sonnet-4-5-20250929     40       1,250,140  32,480  1,120,000     $1.48            2.77s  4.64s
researcher  gpt-5-mini                      1             123       4              <$.0001             41ms   41ms
writer      gpt-5-mini                      2    1      1,234     420             $0.0021?         1  0.10s  2.50s
writer      llama-4:70b                     1       1,234,567     420                    ?         1  1m15s  1m15s
total                                      44    1  2,486,064  33,324  1,120,000    $1.49?         2  2.70s  4.70s"""
    )


def test_a_table_of_100_columns_has_smaller_gaps() -> None:
    assert (
        drawn(width=100)
        == """\
agent      model                  calls err        in    out    cached     cost unpriced   p50   p95
researcher claude-sonnet-4-5-202…    40     1,250,140 32,480 1,120,000    $1.48          2.77s 4.64s
researcher gpt-5-mini                 1           123      4            <$.0001           41ms  41ms
writer     gpt-5-mini                 2   1     1,234    420           $0.0021?        1 0.10s 2.50s
writer     llama-4:70b                1     1,234,567    420                  ?        1 1m15s 1m15s
total                                44   1 2,486,064 33,324 1,120,000   $1.49?        2 2.70s 4.70s"""
    )


def test_a_table_of_90_columns_has_shorter_numbers() -> None:
    assert drawn(width=90).splitlines()[:2] == [
        "agent      model                    calls err    in   out cached     cost unpr   p50   p95",
        "researcher claude-sonnet-4-5-20250…    40     1.25M 32.5k  1.12M    $1.48      2.77s 4.64s",
    ]


def test_a_table_of_80_columns_has_the_models_below_their_agents() -> None:
    assert (
        drawn(width=80)
        == """\
agent/model               calls err    in   out cached     cost unpr   p50   p95
researcher
  claude-sonnet-4-5-2025…    40     1.25M 32.5k  1.12M    $1.48      2.77s 4.64s
  gpt-5-mini                  1       123     4         <$.0001       41ms  41ms
writer
  gpt-5-mini                  2   1 1,234   420        $0.0021?    1 0.10s 2.50s
  llama-4:70b                 1     1.23M   420               ?    1 1m15s 1m15s
total                        44   1 2.49M 33.3k  1.12M   $1.49?    2 2.70s 4.70s"""
    )


def test_a_table_of_60_columns_has_the_numbers_below_the_names() -> None:
    assert (
        drawn(width=60)
        == """\
agent/model
      calls err    in   out cached     cost unpr   p50   p95
researcher
  claude-sonnet-4-5-20250929
         40     1.25M 32.5k  1.12M    $1.48      2.77s 4.64s
  gpt-5-mini
          1       123     4         <$.0001       41ms  41ms
writer
  gpt-5-mini
          2   1 1,234   420        $0.0021?    1 0.10s 2.50s
  llama-4:70b
          1     1.23M   420               ?    1 1m15s 1m15s
total    44   1 2.49M 33.3k  1.12M   $1.49?    2 2.70s 4.70s"""
    )


def test_a_small_table_takes_no_more_room_than_it_needs() -> None:
    one = SummaryRow("planner", "openai", "gpt-5", calls=1, input=120, output=40, cost=0.5, p50=1.0, p95=1.0)
    data = SummaryData((one,), (), SummaryRow(None, None, None, calls=1, input=120, output=40, cost=0.5))
    assert (
        drawn(data, width=80)
        == """\
agent    model  calls  err   in  out  cached     cost  unpriced    p50    p95
planner  gpt-5      1       120   40          $0.5000            1.00s  1.00s
total               1       120   40          $0.5000"""
    )


def test_a_model_of_several_providers_is_shown_with_its_provider() -> None:
    rows = (
        SummaryRow("a", "openai", "gpt-5", calls=1),
        SummaryRow("a", None, "gpt-5", calls=1),
        SummaryRow(None, None, None, calls=1),
    )
    shown = [line.split()[:2] for line in drawn(SummaryData(rows, (), TOTAL)).splitlines()]
    assert shown == [["agent", "model"], ["a", "openai/gpt-5"], ["a", "-/gpt-5"], ["-", "-"], ["total", "44"]]


names = (
    st.none() | st.text(max_size=40) | st.sampled_from(["名" * 40, "a\nb\tc\x1b[31m", "\u202e", "x" * 128, "👩‍👩‍👧"])
)
numbers = st.integers(0, 10**12)
rows = st.builds(
    SummaryRow,
    *(names, names, names),
    calls=numbers,
    errors=numbers,
    input=numbers,
    output=numbers,
    cached=numbers,
    cost=st.none() | st.floats(0, 1e9),
    reasons=st.dictionaries(st.sampled_from(["no_usage", "unknown_model"]), st.integers(1, 10**6)),
    p50=st.none() | st.floats(0, 1e7),
    p95=st.none() | st.floats(0, 1e7),
)


@given(st.lists(rows, max_size=5), rows, st.integers(80, 200), st.sampled_from(["utf-8", "ascii", "latin-1", "none"]))
def test_no_line_is_wider_than_its_place(found: list[SummaryRow], sum_: SummaryRow, width: int, encoding: str) -> None:
    lines = drawn(SummaryData(tuple(found), (), sum_), width, encoding=encoding).split("\n")
    assert max(map(cell_len, lines)) <= width
    assert len(lines) >= 2 + sum(bool(each.calls) for each in found)
    if encoding != "utf-8":
        "\n".join(lines).encode("latin-1" if encoding == "latin-1" else "ascii")


@given(st.integers(0, 10**15))
def test_a_count_in_short_is_right_to_half_a_hundredth(count: int) -> None:
    shown = compact(count)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}.get(shown[-1], 1)
    assert len(shown) <= 5
    assert float(shown.rstrip("kMGTP").replace(",", "")) * scale == pytest.approx(count, rel=0.005)


def test_latencies_are_shown_as_people_say_them() -> None:
    shown = [latency(found) for found in (None, 0.0, 0.0042, 0.0994, 0.0996, 1.5, 12.34, 75.0)]
    assert shown == ["", "0ms", "4ms", "99ms", "0.10s", "1.50s", "12.3s", "1m15s"]


# -- printed ----------------------------------------------------------------------------------------------------------
def told(data: SummaryData, **options: Any) -> str:
    stream = io.StringIO()
    print_summary(data, stream, **options)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def below(data: SummaryData, **options: Any) -> list[str]:
    """What is said below the table."""
    return told(data, **options).splitlines()[1 + len(drawn(data, 120).splitlines()) :]


def test_a_summary_is_printed_with_what_its_table_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert told(DATA, budgets={"per-run": 0.4, "daily": 1.12}) == (
        f"What was used, by agent and model\n{drawn(width=80)}\n"
        "5 runs (1 failed, 1 cancelled), 3 tool calls (1 failed), $0.0400 saved by cached\n"
        "answers, 3 told twice and counted once.\n"
        "No price for 1 call (unknown_model): `otel-agentbus prices MODEL` says what is\n"
        "known; AGENTBUS_PRICES may name a file of your own prices. No tokens were told\n"
        "of 1 call (no_usage), so what they cost is unknown.\n"
        "Budgets used: per-run 40%, daily 112% (used up).\n"
    )


def test_each_reason_for_a_missing_price_has_its_remedy() -> None:
    def of(**reasons: int) -> str:
        total = SummaryRow(None, None, None, calls=9, reasons=reasons)
        return " ".join(line.strip() for line in below(SummaryData((total,), (), total))[1:])

    assert of(no_price_source=2) == (
        "No price for 2 calls (no_price_source): install otel-agentbus[prices] for the public list; "
        "AGENTBUS_PRICES may name a file of your own prices."
    )
    assert of(unknown_model=1, unknown_provider=2) == (
        "No price for 3 calls (2 unknown_provider, 1 unknown_model): `otel-agentbus prices MODEL` says what is known; "
        "AGENTBUS_PRICES may name a file of your own prices."
    )
    assert of(invalid_usage=1) == "No price for 1 call (invalid_usage): their token counts or costs cannot be true."
    assert of(no_usage=3) == "No tokens were told of 3 calls (no_usage), so what they cost is unknown."
    assert of() == ""


def test_a_row_for_the_rest_is_explained() -> None:
    rest = SummaryRow("other", "other", "other", calls=7, folded=True)
    line = "There were too many names for a table: those that came later are summed up in `other`."
    assert line in below(SummaryData((rest,), (), rest))
    assert line in below(SummaryData((MINI,), (AgentRow("other", {}, tools=7, folded=True),), MINI))
    assert line not in below(SummaryData((MINI,), (), MINI))


def test_nothing_is_printed_where_nothing_has_happened() -> None:
    assert told(SummaryData((), (), SummaryRow(None, None, None)), budgets={"daily": 0.0}) == ""


def test_without_model_calls_there_is_no_table() -> None:
    data = SummaryData((), (AgentRow("a", {"ok": 1}),), SummaryRow(None, None, None))
    assert told(data) == "What was used, by agent and model\n1 run, 0 tool calls.\n"


def test_a_share_beyond_all_sense_takes_no_more_room() -> None:
    shares = {"a": 9.98, "b": 1e308, "c": float("inf"), "d": 0.0}
    used = "Budgets used: a 998% (used up), b >999% (used up), c >999% (used up), d 0%."
    assert below(DATA, budgets=shares)[-1] == used


def test_no_name_can_write_anything_but_text_to_a_terminal() -> None:
    name = "\x1b[31mred\x1b]0;title\x07\nline\r\x9b2J\u202e"
    row = SummaryRow(name, name, name, calls=1, reasons={name: 1})
    other = SummaryRow(name, "openai", name, calls=1)
    said = told(SummaryData((row, other), (AgentRow(name, {"ok": 1, name: 2}),), row), budgets={name: 0.5})
    assert all(char.isprintable() for line in said.split("\n") for char in line)
    assert "red ]0;title" in said.split("\n")[-2]
    assert "50%" in said


def test_sums_that_lack_dropped_events_say_so() -> None:
    def of(dropped: int) -> str:
        return below(DATA, dropped=dropped)[1]

    assert of(12_345) == "12,345 events were dropped before they were counted: these sums are too low."
    assert of(1) == "1 event was dropped before it was counted: these sums are too low."
    assert below(DATA, dropped=0) == below(DATA)
    nothing = SummaryData((), (), SummaryRow(None, None, None))
    assert told(nothing, dropped=2) == (
        "What was used, by agent and model\n0 runs, 0 tool calls.\n"
        "2 events were dropped before they were counted: these sums are too low.\n"
    )


def test_dropped_events_are_told_in_red(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    print_summary(DATA, stream, dropped=3)
    assert "\x1b[31m3 events were dropped" in stream.getvalue()


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in told(DATA)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    print_summary(DATA, stream)
    assert "\x1b[31m" in stream.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_an_encoding_that_lacks_a_sign_gets_another(encoding: str) -> None:
    data = SummaryData((SummaryRow("名前", None, "x" * 128, calls=1),), (), TOTAL)
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, write_through=True)
    print_summary(data, stream)
    lines = buffer.getvalue().decode(encoding).splitlines()
    assert lines[2].split()[:2] == ["??", "x" * 39]


def test_the_table_fits_a_rich_console() -> None:
    shown = console(80)
    shown.print(table(DATA, 80))
    assert printed(shown).rstrip("\n") == drawn(width=80)


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


class Odd(io.StringIO):
    encoding = "no such encoding"


def test_a_stream_that_cannot_be_written_to_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    print_summary(DATA, closed)
    print_summary(DATA, Broken())
    odd = Odd()
    print_summary(DATA, odd)
    assert odd.getvalue() == told(DATA)
    monkeypatch.setattr(sys, "stderr", None)
    print_summary(DATA)


def test_it_goes_to_standard_error_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", pieces.append)
    print_summary(DATA)
    assert pieces == [told(DATA)]
    assert capsys.readouterr().out == ""
