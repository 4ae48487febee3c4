"""`otel-agentbus tail`: what it prints into a pipe and on a terminal, and how it follows and ends."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from otel_agentbus.cli import journals
from otel_agentbus.cli.lines import Lines
from otel_agentbus.cli.tail import Wanted
from otel_agentbus.events import AgentStart, DomainEvent, Error, Event, LlmResponse, ToolCall, UnknownEvent

from .bridging import at
from .looking import PLANNER, looking_around, on_a_terminal, record, run, started, story

TOLD = """\
2023-11-14 22:13:20.000 n-7f3a planner            agent.start    claude-sonnet-4-5
2023-11-14 22:13:20.000 n-7f3a planner            llm.request    claude-sonnet-4-5  1 message
2023-11-14 22:13:22.000 n-7f3a planner          ✓ llm.response   claude-sonnet-4-5  2.00s  \
1,200 in, 800 cached, 40 out  $0.0125
2023-11-14 22:13:22.000        -                • deployment.started  prompts-7
2023-11-14 22:13:22.000 n-7f3a planner            tool.start     ask
2023-11-14 22:13:22.000 n-7f3a   searcher         agent.start    qwen3:8b
2023-11-14 22:13:22.000 n-7f3a   searcher       • cache.hit      prompt, 100 tokens saved
2023-11-14 22:13:22.000 n-7f3a   searcher         tool.start     search  mirror=eu
2023-11-14 22:13:22.500 n-7f3a   searcher         llm.request    qwen3:8b  3 messages
2023-11-14 22:13:23.000 n-7f3a   searcher       ✓ llm.response   qwen3:8b  0.50s  300 in, 20 out
2023-11-14 22:13:27.000 n-7f3a   searcher       ✗ tool.end       search  5.00s  Unreachable: no answer
2023-11-14 22:13:27.000 n-7f3a   searcher       ⊘ agent.end      5.00s  cancelled
2023-11-14 22:13:28.000 n-7f3a planner          ✓ tool.end       ask  6.00s
2023-11-14 22:13:29.000 n-7f3a planner          • answer_found   score=87
2023-11-14 22:13:30.000 n-7f3a planner          ✓ agent.end      10.0s
2023-11-14 22:13:40.000 n-9c21 planner            agent.start
2023-11-14 22:13:40.000 n-9c21 planner            tool.start     wait
2023-11-14 22:13:41.000 n-9c21 planner            llm.request    claude-sonnet-4-5  1 message
2023-11-14 22:13:42.000 n-9c21 planner          ✗ llm.response   claude-sonnet-4-5  1.00s  RateLimited: 429
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    with looking_around(tmp_path) as directory:
        yield directory


def lines_with(shown: str, *words: str) -> list[str]:
    return [line for line in shown.splitlines(keepends=True) if any(word in line for word in words)]


def test_in_a_pipe_every_event_is_a_whole_line_that_is_understood_by_itself(journal: Path) -> None:
    done = run("tail", journal, "--no-follow", width=40)
    assert (done.exit_code, done.output) == (0, TOLD)


def test_the_journal_of_the_environment_is_the_one_that_is_meant(journal: Path) -> None:
    assert run("tail", "-n", AGENTBUS_JOURNAL=str(journal)).output == TOLD


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("--event", "llm.*"), ("llm.",)),
        (("--event", "*.end", "--event", "answer_*"), (".end", "answer_found")),
        (("--agent", "sea*"), ("searcher",)),
        (("--agent", "searcher", "--event", "tool.*"), ("search  ",)),
        (("--since", "2023-11-14T22:13:41"), ("n-9c21 planner            llm", "429")),
    ],
)
def test_events_are_chosen_by_name_agent_and_time(
    journal: Path, options: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    shown = run("tail", journal, "-n", *options).output
    assert shown.splitlines(keepends=True) == lines_with(TOLD, *kept)


def test_a_glob_is_of_the_whole_name_and_several_are_alternatives() -> None:
    event = AgentStart(agent="planner")
    chosen = {
        globs: Wanted(*globs)(event)
        for globs in (((), ()), (("agent",), ()), (("agent.*",), ("p*",)), (("x", "agent.start"), ()), ((), ("P*",)))
    }
    assert list(chosen.values()) == [True, False, True, True, False]
    assert not Wanted((), ("*x",))(Error(component="c", message="m"))


ANSWERED = {
    40: "22:13:29 • answer_found score=87",
    60: "22:13:29 • answer_found score=87",
    80: "22:13:29 n-7f3a planner      • answer_found  score=87",
    120: "22:13:29.000 n-7f3a planner          • answer_found   score=87",
    200: "22:13:29.000 n-7f3a planner          • answer_found   score=87",
}

# -- on a terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_on_a_terminal_each_event_has_one_line_with_its_signs_in_colour(journal: Path, width: int) -> None:
    shown = on_a_terminal("tail", journal, "-n", width=width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    day, *lines = plain.splitlines()
    assert day == "2023-11-14"
    assert len(lines) == len(TOLD.splitlines())
    assert max(map(cell_len, lines)) <= width
    assert re.search(r"\x1b\[1;31m ?✗", shown)
    assert [line for line in lines if "answer_found" in line] == [ANSWERED[width]]


def test_no_color_is_obeyed_and_lines_are_cut_all_the_same(journal: Path) -> None:
    shown = on_a_terminal("tail", journal, "-n", width=60, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "22:13:22 ✓ llm.response claude-sonnet-4-5 2.00s 1,200 in, 8…\n" in plain


def test_where_there_is_no_unicode_signs_are_ascii() -> None:
    lines = Lines(None, "ascii")

    def plain(event: Event) -> str:
        return "".join(said for said, _ in lines.line(event))

    bad = LlmResponse(time_ns=at(0), model_provider="p", model="môdel", duration=0.01, success=False, **PLANNER)
    shown = [plain(event).split(" ", 3)[3] for event in (bad, Error(time_ns=at(0), component="c", message="m"))]
    assert shown == [
        "planner          x llm.response   m?del  10ms  error",
        "      -                * error          c: m",
    ]


def test_nothing_that_others_say_breaks_a_line_or_reaches_the_terminal() -> None:
    lines = Lines(None)
    told: list[Event] = [
        DomainEvent(time_ns=at(0), name="a\nb", data={"k": "\x1b[2J\r" + "x" * 10_000}),
        UnknownEvent(name="agent.paused", fields={"why": "lunch"}),
        ToolCall(time_ns=10**30, tool="\x07", duration=float("inf"), success=True, agent="名" * 30),
    ]
    for event in told:
        line = "".join(said for said, _ in lines.line(event))
        assert line.isprintable()
        assert len(line) < 700
    assert "".join(said for said, _ in lines.line(told[1])).endswith("agent.paused   why=lunch")


# -- following ---------------------------------------------------------------------------------------------------------


def test_what_is_written_meanwhile_is_shown_at_once_until_it_is_interrupted(tmp_path: Path) -> None:
    told = story()
    recorder = record(tmp_path, told[:2])
    with started("tail", tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = [process.stdout.readline() for _ in told[:2]]
        for event in told[2:]:
            recorder(event)
            shown.append(process.stdout.readline())  # each, before the next one is written
        process.send_signal(signal.SIGINT)
        rest, said = process.stdout.read(), process.stderr.read()
    recorder.close()
    assert "".join(shown) == TOLD
    assert (rest, said, process.returncode) == ("", "", 130)


def test_a_reader_that_leaves_ends_it_though_nothing_more_is_written(journal: Path) -> None:
    with started("tail", journal) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == TOLD.splitlines(keepends=True)[0]
        process.stdout.close()
        said = process.stderr.read()
    assert (said, process.returncode) == ("", 0)


# -- nothing to look at ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["tail", "-n"], ["tail"], ["tree", "--journal"], ["stats"]])
def test_where_there_is_no_journal_a_sentence_says_so(tmp_path: Path, command: list[str]) -> None:
    with looking_around(tmp_path):
        (tmp_path / "empty").mkdir()
        missing, empty = run(*command, tmp_path / "none"), run(*command, tmp_path / "empty")
        unnamed = run(*(word for word in command if word != "--journal"))
    assert (missing.exit_code, empty.exit_code, unnamed.exit_code) == (2, 2, 2)
    assert missing.stdout + empty.stdout + unnamed.stdout == ""
    assert missing.stderr == f"There is no journal in {tmp_path}/none: that is no directory.\n"
    following = f"There is no journal at {tmp_path}/empty: nothing was written there yet.\n"
    assert empty.stderr == (following if command == ["tail"] else f"The journal {tmp_path}/empty holds no events.\n")
    assert unnamed.stderr == "Which journal? Name its directory, or set AGENTBUS_JOURNAL.\n"


@pytest.mark.parametrize("command", [["tail", "-n"], ["tree", "--journal"], ["stats"]])
def test_a_journal_that_cannot_be_read_says_why(
    journal: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Iterator[Event]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(journals, "read_events", refused)
    done = run(*command, journal)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"The journal {journal} cannot be read: Permission denied.\n"


@pytest.mark.parametrize("said", ["yesterday", "1y", "2023-13-01", "-1h", ""])
def test_a_time_that_is_none_is_refused(journal: Path, said: str) -> None:
    done = run("tail", journal, "-n", "--since", said, width=200)
    assert done.exit_code == 2
    assert f"{said!r} is no time; write 90s, 1h, 7d, 2026-11-21 or 2026-11-21T16:30" in done.stderr
