"""The summary of a bus: asked for at any time, and printed once when it closes, however the process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from otel_agentbus import Settings, agent
from otel_agentbus.testing import capture

ROOT = Path(__file__).parent.parent
TITLE = "What was used, by agent and model"

PRELUDE = """
import multiprocessing, os, signal, sys
import otel_agentbus as agentbus

def work(name):
    with agentbus.agent(name) as run, run.llm("m") as call:
        call.record(input_tokens=3, output_tokens=1, cost_usd=0.5)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that asks for a summary at its end."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={**inherited, "PYTHONPATH": str(ROOT), "AGENTBUS_SUMMARY": "1", "COLUMNS": "80", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def agents(stderr: str) -> list[list[str]]:
    """The agents in each table that was printed."""
    found: list[list[str]] = []
    for line in stderr.splitlines():
        if line == TITLE:
            found.append([])
        elif line.startswith("agent-"):
            found[-1].append(line.split()[0])
    return found


def test_a_summary_has_all_that_was_emitted_before_it_was_asked_for() -> None:
    with capture() as captured:
        for number in range(500):
            with agent("a") as run, run.llm("m") as call:
                call.record(input_tokens=3, cost_usd=0.5)
            total = captured.bus.summary().total
            assert (total.calls, total.input, total.cost) == (number + 1, 3 * (number + 1), (number + 1) / 2)


def test_the_table_is_printed_once_at_the_end_of_the_process() -> None:
    done = run("agentbus.connect(); work('agent-a'); agentbus.connect(); work('agent-b')")
    assert done.returncode == 0
    assert (done.stdout, agents(done.stderr)) == ("", [["agent-a", "agent-b"]])
    assert done.stderr.splitlines()[-1] == "2 runs, 0 tool calls."


def test_the_table_is_printed_where_the_last_use_ends_and_once_for_each_bus() -> None:
    code = """
    for name in ("agent-a", "agent-b"):
        with agentbus.connect() as bus:
            with agentbus.connect():
                work(name)
            print("open", file=sys.stderr)
        print("closed", file=sys.stderr)
        bus.close()
    """
    done = run(code)
    said = [line.split()[0] for line in done.stderr.splitlines() if line.split()[0] in ("open", "closed", "total")]
    assert said == ["open", "total", "closed"] * 2
    assert agents(done.stderr) == [["agent-a"], ["agent-b"]]


def test_nothing_is_printed_unless_asked_for_or_where_nothing_happened() -> None:
    assert run("agentbus.connect(); work('agent-a')", AGENTBUS_SUMMARY="0").stderr == ""
    assert run("agentbus.connect()").stderr == ""
    assert run("agentbus.connect(); work('agent-a')", OTEL_SDK_DISABLED="true").stderr == ""


@pytest.mark.parametrize("how", ["raise SystemExit(3)", "raise ValueError", "sys.stderr.close(); sys.exit(3)"])
def test_the_way_a_program_ends_is_its_own(how: str) -> None:
    code = f"agentbus.connect(); work('agent-a'); {how}"
    done, plain = run(code), run(code, AGENTBUS_SUMMARY="0")
    assert done.returncode == plain.returncode != 0
    assert agents(done.stderr) == ([] if "close" in how else [["agent-a"]])


def test_a_program_that_is_interrupted_ends_by_the_signal_and_says_what_it_used() -> None:
    done = run("agentbus.connect(); work('agent-a'); os.kill(os.getpid(), signal.SIGINT); signal.pause()")
    assert done.returncode == -signal.SIGINT
    assert agents(done.stderr) == [["agent-a"]]


def test_a_reader_that_is_gone_changes_nothing() -> None:
    code = "r, w = os.pipe(); os.dup2(w, 2); os.close(r); agentbus.connect(); work('agent-a'); print('out')"
    done, plain = run(code), run(code, AGENTBUS_SUMMARY="0")
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout) == (0, "out\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_says_what_it_used_itself() -> None:
    code = """
    agentbus.connect()
    work("agent-parent")
    context = multiprocessing.get_context("fork")
    for target, arguments in ((print, ("idle",)), (work, ("agent-child",))):
        child = context.Process(target=target, args=arguments)
        child.start()
        child.join()
        assert child.exitcode == 0
    """
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert agents(done.stderr) == [["agent-child"], ["agent-parent"]]


def test_budgets_are_said_below_the_table(tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text('[[budget]]\nname = "daily"\nusd = 0.4\nwindow = "1d"\n')
    done = run("agentbus.connect(); work('agent-a')", AGENTBUS_BUDGETS=str(file))
    assert done.stderr.splitlines()[-1] == "Budgets used: daily 125% (used up)."


def test_a_captured_program_prints_nothing_of_its_own_accord(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTBUS_SUMMARY", "1")
    assert Settings().summary
    with capture(), agent("agent-a"):
        pass
    assert capsys.readouterr().err == ""
