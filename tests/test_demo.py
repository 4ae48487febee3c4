"""`otel-agentbus demo`: what its program emits, what people see of it, and what is said of the export."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from otel_agentbus import testing
from otel_agentbus.cli import app, demo, standins
from otel_agentbus.cli.demo import HastyLoop
from otel_agentbus.cli.scenario import QUESTION, Newsroom, first_of
from otel_agentbus.events import AgentEnd, Event, LlmResponse, ToolCall, name_of
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.console import View
from otel_agentbus.telemetry.origin import read_origin
from otel_agentbus.telemetry.outline import Outline
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.usage import usage_of

from .receivers import HttpReceiver, Reply, closed_port, forget_environment

TREE = """
    invoke_agent planner
    ├─ chat gpt-5-mini
    ├─ execute_tool research
    │  └─ invoke_agent researcher
    │     ├─ chat claude-haiku-4-5
    │     ├─ chat claude-haiku-4-5
    │     ├─ execute_tool search
    │     ├─ execute_tool search
    │     ├─ execute_tool read_page
    │     ├─ execute_tool read_page
    │     ├─ execute_tool read_page
    │     └─ chat claude-haiku-4-5
    ├─ invoke_agent writer
    │  └─ chat claude-sonnet-4-5
    └─ chat gpt-5-mini
"""

#: What the demo prints, with the times that its program takes (the README shows the same).
SHOWN = """\
Three agents answer: Can sodium-ion batteries replace lithium on the grid?

✓ ok  ✗ error  ⊘ cancelled  • event                      in  out     cost   time
✓ agent planner                                      15,766  906  $0.0176  2.37s
├─ ✓ chat gpt-5-mini                                    846  152  $0.0004  0.28s
├─ ✓ tool research                                                         1.24s
│  └─ ✓ agent researcher                             11,342  604  $0.0118  1.24s
│     ├─ • cache.hit  semantic, 1,850 tokens saved
│     ├─ ✗ chat claude-haiku-4-5  RateLimited: 429, try again              0.09s
│     ├─ ✓ chat claude-haiku-4-5                      1,930  118  $0.0013  0.24s
│     ├─ ✓ tool search  mirror=eu                                          0.16s
│     ├─ ⊘ tool search  cancelled  mirror=us                               0.16s
│     ├─ ✓ tool read_page  page=costs                                      0.21s
│     ├─ ✓ tool read_page  page=cold                                       0.32s
│     ├─ ✗ tool read_page  Unreachable: no answer  page=trials             0.26s
│     ├─ • sources_ranked  found=3 kept=2
│     └─ ✓ chat claude-haiku-4-5                      9,412  486  $0.0106  0.37s
├─ ✓ agent writer                                     1,268   86  $0.0051  0.64s
│  ├─ ✓ chat claude-sonnet-4-5  first_chunk=0.14s     1,268   86  $0.0051  0.64s
│  ├─ • budget_threshold_hit  question: $0.01732 of $0.02, 87%
│  └─ • draft_ready  words=55
├─ ✓ chat gpt-5-mini                                  2,310   64  $0.0003  0.21s
└─ • turn.complete

agent       model              calls  err      in  cached  out     cost   time
planner     gpt-5-mini             2        3,156   2,304  216  $0.0007  0.49s
researcher  claude-haiku-4-5       3    1  11,342   2,816  604  $0.0118  0.70s
writer      claude-sonnet-4-5      1        1,268           86  $0.0051  0.64s
total                              6    1  15,766   5,120  906  $0.0176  1.83s

In 2.37s: 3 runs, 6 tool calls (1 failed, 1 cancelled), 1,850 tokens saved
"""
NOWHERE = "Nothing left this process. Set OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 to export it, too."


class LoopClock(testing.FakeClock):
    """The time of a loop that does not wait, for the blocks: what takes 0.2 s in the script takes that, at once."""

    loop: asyncio.AbstractEventLoop

    def make_loop(self) -> asyncio.AbstractEventLoop:
        self.loop = HastyLoop()
        return self.loop

    def __call__(self) -> int:
        return self.now_ns + round(self.loop.time() * 1e9)


@pytest.fixture
def told() -> Iterator[tuple[testing.Captured, Outline]]:
    """The demo's program, run once in its own times."""
    clock = LoopClock()
    with (
        asyncio.Runner(loop_factory=clock.make_loop) as runner,
        testing.capture(fake_clock=clock, capture_content="NO_CONTENT", budgets=[Newsroom.BUDGET]) as seen,
    ):
        outline = Outline(seen.bus.accounting.prices)
        seen.bus.subscribe(outline)
        runner.run(Newsroom(seen.bus).answer(QUESTION))
        yield seen, outline


def environment(**settings: str) -> dict[str, str]:
    """The variables of the tests' process without what would change the output, and with these."""
    mine = ("OTEL_", "AGENTBUS_", "COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_", "GITHUB_ACTIONS")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(mine)}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1", **settings}


def run_piped(*options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "otel_agentbus", "demo", *options],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def without_times(shown: str) -> str:
    return re.sub(r"\d\.\d\ds", "0.00s", shown)


# -- the program -------------------------------------------------------------------------------------------------------


def test_the_program_makes_one_tree_with_the_sub_agent_inside_the_tool_call(
    told: tuple[testing.Captured, Outline],
) -> None:
    told[0].assert_tree(TREE)


def test_the_program_emits_the_same_events_each_time(told: tuple[testing.Captured, Outline]) -> None:
    def said(event: Event) -> str:
        if isinstance(event, (AgentEnd, LlmResponse, ToolCall)) and event.outcome != "ok":
            return f"{name_of(event)} {event.outcome}"
        return name_of(event)

    chat = ["llm.request", "llm.response"]
    assert [said(event) for event in told[0].events] == [
        *("agent.start", *chat, "tool.start", "agent.start", "cache.hit"),
        *("llm.request", "llm.response error", *chat),
        *("tool.start", "tool.start", "tool.end", "tool.end cancelled"),
        *("tool.start", "tool.start", "tool.start", "tool.end", "tool.end error", "tool.end"),
        *("sources_ranked", *chat, "agent.end", "tool.end"),
        *("agent.start", *chat, "budget_threshold_hit", "draft_ready", "agent.end"),
        *(*chat, "turn.complete", "agent.end"),
    ]


def test_the_totals_are_exact(told: tuple[testing.Captured, Outline]) -> None:
    totals = told[1].totals
    seconds = {who: round(spent.seconds, 6) for who, spent in totals.models.items()}
    assert seconds == {
        ("planner", "gpt-5-mini"): 0.49,
        ("researcher", "claude-haiku-4-5"): 0.7,
        ("writer", "claude-sonnet-4-5"): 0.64,
    }
    spent = totals.llm
    assert (spent.calls, spent.errors, spent.unpriced) == (6, 1, 0)
    assert (spent.input, spent.cached, spent.output, spent.cost) == (15_766, 5_120, 906, Decimal("0.0176242"))
    assert (totals.runs.calls, totals.tools.calls, totals.tools.errors, totals.tools.cancelled) == (3, 6, 1, 1)
    assert totals.tokens_saved == 1_850


def test_the_totals_are_those_of_the_exported_metrics_and_of_the_root_span(
    told: tuple[testing.Captured, Outline],
) -> None:
    seen, outline = told
    spent = outline.totals.llm
    attributes = dict(seen.span("invoke_agent planner").attributes or {})
    names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "llm_calls")
    assert [attributes[f"agentbus.usage.{name}"] for name in names] == [spent.input, spent.output, spent.cached, 6]
    assert attributes["agentbus.usage.cost_usd"] == pytest.approx(float(spent.cost or 0))
    cost = sum(seen.metric("agentbus.cost.spent").values())
    assert cost == pytest.approx(float(spent.cost or 0))


def test_the_trace_is_named_by_the_events(told: tuple[testing.Captured, Outline]) -> None:
    seen, outline = told
    origin = read_origin(outline.trace)
    root = seen.span("invoke_agent planner")
    assert origin is not None
    assert root.context is not None
    assert (origin.trace_id, origin.sampled) == (root.context.trace_id, True)


def test_the_writer_that_is_left_early_is_cancelled_and_not_failed() -> None:
    async def impatient(room: Newsroom) -> None:
        async with asyncio.timeout(0.2):
            await room.answer(QUESTION)

    clock = LoopClock()
    with asyncio.Runner(loop_factory=clock.make_loop) as runner, testing.capture(fake_clock=clock) as seen:
        with pytest.raises(TimeoutError):
            runner.run(impatient(Newsroom(seen.bus)))
        assert [(name_of(e), e.outcome) for e in seen.events if isinstance(e, (AgentEnd, LlmResponse))] == [
            ("llm.response", "cancelled"),
            ("agent.end", "cancelled"),
        ]


async def test_the_first_answer_wins_and_a_failure_is_one() -> None:
    async def fail() -> str:
        raise standins.Unreachable("none")

    async def wait() -> str:
        await asyncio.Event().wait()
        return "never"

    async def answer() -> str:
        return "now"

    assert await first_of(wait(), answer()) == "now"
    with pytest.raises(ExceptionGroup):
        await first_of(wait(), fail())


async def test_a_model_that_refuses_for_good_is_given_up() -> None:
    async def refuse() -> Any:
        raise standins.RateLimited("429")

    with testing.capture() as seen:
        with pytest.raises(standins.RateLimited, match="given up"):
            await Newsroom(seen.bus).ask(refuse)
        assert [event.outcome for event in seen.events if isinstance(event, LlmResponse)] == ["error"] * 3


def test_the_program_runs_alone_as_an_example() -> None:
    command = [sys.executable, "-m", "otel_agentbus.cli.scenario"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.stderr, done.returncode) == (standins.REPORT.text, "", 0)


# -- what people see ---------------------------------------------------------------------------------------------------


def test_what_is_printed_in_the_times_of_the_script() -> None:
    clock = LoopClock()
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False)
    with (
        pytest.MonkeyPatch.context() as patch,
        testing.capture(fake_clock=clock, budgets=[Newsroom.BUDGET]) as seen,
    ):
        outline = Outline(seen.bus.accounting.prices)
        patch.setattr(demo, "HastyLoop", clock.make_loop)
        assert demo.perform(seen.bus, outline, console, fast=True)
    assert file.getvalue() == SHOWN


def test_every_moment_of_the_run_can_be_drawn() -> None:
    clock = LoopClock()
    console = Console(file=io.StringIO(), width=80, highlight=False)
    frames: list[str] = []
    with (
        asyncio.Runner(loop_factory=clock.make_loop) as runner,
        testing.capture(fake_clock=clock, budgets=[Newsroom.BUDGET]) as seen,
    ):
        outline = Outline(seen.bus.accounting.prices)
        view = View(outline, console, clock=clock)
        seen.bus.subscribe(outline)
        seen.bus.subscribe(lambda _: frames.append(view.tree().plain))
        runner.run(Newsroom(seen.bus).answer(QUESTION))
    assert len(frames) == len(seen.events)
    assert {len(line) for frame in frames for line in frame.splitlines() if line.endswith("s")} == {80}
    running = re.sub("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]", "~", frames[11]).splitlines()[1:]
    assert running == [
        "~ agent planner                                       2,776  270  $0.0017  0.67s",
        "├─ ✓ chat gpt-5-mini                                    846  152  $0.0004  0.28s",
        "└─ ~ tool research                                                         0.39s",
        "   └─ ~ agent researcher                              1,930  118  $0.0013  0.39s",
        "      ├─ • cache.hit  semantic, 1,850 tokens saved",
        "      ├─ ✗ chat claude-haiku-4-5  RateLimited: 429, try again              0.09s",
        "      ├─ ✓ chat claude-haiku-4-5                      1,930  118  $0.0013  0.24s",
        "      ├─ ~ tool search  mirror=eu                                          0.00s",
        "      └─ ~ tool search  mirror=us                                          0.00s",
    ]


def test_piped_it_prints_the_final_tree_once_in_plain_text() -> None:
    done = run_piped("--fast")
    assert (done.returncode, done.stderr) == (0, "")
    assert without_times(done.stdout) == without_times(SHOWN) + NOWHERE.replace("4318 to", "4318\nto") + "\n"


def test_in_a_narrow_pipe_no_line_is_longer_than_that() -> None:
    done = run_piped("--fast", COLUMNS="60")
    assert max(map(len, done.stdout.splitlines())) <= 60
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "otel_agentbus", "demo", "--fast"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_an_interruption_leaves_what_was_there_marked_as_cancelled() -> None:
    ours, theirs = pty.openpty()
    settings = environment(TERM="xterm", COLUMNS="100", LINES="40")
    command = [sys.executable, "-m", "otel_agentbus", "demo"]
    with subprocess.Popen(command, env=settings, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True) as process:
        os.close(theirs)
        shown, interrupted = b"", False
        for part in iter(lambda: _part(ours), b""):
            shown += part
            if b"mirror=us" in shown and not interrupted:
                process.send_signal(signal.SIGINT)
                interrupted = True
        os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    left = text.rpartition("• event")[2]
    assert process.returncode == 130
    assert re.findall(r"⊘ (.*?) {2}", left)[:4] == [
        "agent planner",
        "tool research",
        "agent researcher",
        "tool search",
    ]
    assert "(interrupted)" in left
    assert "Traceback" not in text


def _part(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so where the other end is closed
        return b""


# -- the export --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    forget_environment(monkeypatch)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("AGENTBUS_EXIT_TIMEOUT", "0.5")
    return monkeypatch


def said_after_the_tree(*options: str, code: int = 0) -> list[str]:
    done = CliRunner().invoke(app, ["demo", "--fast", *options])
    assert done.exit_code == code, done.output
    return done.output.rpartition("tokens saved\n")[2].splitlines()


def test_with_an_endpoint_it_exports_and_says_where_the_trace_is(clean: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        trace, exported, link = said_after_the_tree("--jaeger", "http://jaeger.test/")
    [request] = receiver.of("/v1/traces")
    [resource] = request.message.resource_spans
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    [trace_id] = {span.trace_id.hex() for span in spans if span.name == "invoke_agent planner"}
    service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
    assert (len(spans), service) == (20, "agentbus-demo")  # five of them of what happens around the agents
    assert [trace, exported, link] == [
        f"Trace {trace_id}",
        f"Exported by our own pipeline, otlp to {receiver.url}/v1/traces",
        f"http://jaeger.test/trace/{trace_id}",
    ]
    assert receiver.of("/v1/metrics")


@pytest.mark.parametrize(
    "variables", [{"OTEL_SERVICE_NAME": "mine"}, {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine"}]
)
def test_a_service_name_of_the_environment_stays(clean: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, text in variables.items():
        clean.setenv(name, text)
    assert demo.named() == Settings()


def test_a_refused_export_is_said_plainly(clean: pytest.MonkeyPatch) -> None:
    refused = {path: Reply(400) for path in ("/v1/traces", "/v1/metrics")}
    with HttpReceiver(refused) as receiver:
        clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        trace, trouble = said_after_the_tree()
    assert re.fullmatch("Trace [0-9a-f]{32}", trace)
    way = f"our own pipeline, otlp to {receiver.url}/v1/traces"
    assert trouble == (
        f"NOT EXPORTED: 20 spans were refused or lost on their way ({way}). `otel-agentbus doctor` says why."
    )


def test_an_endpoint_that_does_not_answer_is_said_plainly_and_only_once() -> None:
    with closed_port() as port:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
        done = run_piped("--fast", COLUMNS="300", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("NOT EXPORTED")


def test_metrics_that_are_refused_are_said_beside_a_trace_that_arrived(clean: pytest.MonkeyPatch) -> None:
    with HttpReceiver({"/v1/metrics": Reply(404)}) as receiver:
        clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        said = said_after_the_tree()
    assert said[1:] == [
        f"Exported by our own pipeline, otlp to {receiver.url}/v1/traces",
        f"http://localhost:16686/trace/{said[0].removeprefix('Trace ')}",
        "THE METRICS WERE NOT EXPORTED: see `otel-agentbus doctor`.",
    ]


def test_a_trace_that_the_sampler_left_out_has_no_link(clean: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        clean.setenv("OTEL_TRACES_SAMPLER", "always_off")
        said = said_after_the_tree()
    assert said[1:] == ["OTEL_TRACES_SAMPLER left this trace out: it was not sent."]


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, NOWHERE),
        ({"OTEL_TRACES_EXPORTER": "none"}, "Nothing left this process (not exported: OTEL_TRACES_EXPORTER is none)."),
        ({"OTEL_SDK_DISABLED": "true"}, "Nothing left this process (off: OTEL_SDK_DISABLED is true)."),
    ],
)
def test_without_an_export_it_says_that_and_why(
    clean: pytest.MonkeyPatch, variables: dict[str, str], sentence: str
) -> None:
    for name, text in variables.items():
        clean.setenv(name, text)
    assert said_after_the_tree() == [sentence]


def test_metrics_alone_are_exported_without_a_trace(clean: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        clean.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{receiver.url}/v1/metrics")
        assert said_after_the_tree() == ["The metrics were exported."]
    assert receiver.of("/v1/metrics")


def test_the_console_exporter_gets_a_trace_id_and_no_link(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("OTEL_TRACES_EXPORTER", "console")
    *_, trace, exported = said_after_the_tree()
    assert (trace.split()[0], exported) == ("Trace", "Exported by our own pipeline, console to stdout")


def test_an_application_s_own_provider_is_not_vouched_for(clean: pytest.MonkeyPatch) -> None:
    with testing.capture():
        trace, handed = said_after_the_tree()
    assert trace.startswith("Trace ")
    assert handed.startswith("Handed to the application's own provider (")


def test_a_wrong_setting_is_one_sentence_and_exit_code_two(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon")
    [sentence] = said_after_the_tree(code=2)
    assert sentence.startswith("OTEL_EXPORTER_OTLP_PROTOCOL is ")


def test_the_models_cost_what_their_list_says() -> None:
    book = PriceBook()
    book.load()
    dollars_per_million = {
        "gpt-5-mini": ("0.25", "0.025", "2"),
        "claude-haiku-4-5": ("1", "0.10", "5"),
        "claude-sonnet-4-5": ("3", "0.30", "15"),
    }
    for reply in (standins.PLAN, standins.QUERIES, standins.DIGEST, standins.REPORT, standins.VERDICT):
        fresh, cached, out = (Decimal(price) for price in dollars_per_million[reply.model])
        cost = (reply.tokens_in - reply.tokens_cached) * fresh + reply.tokens_cached * cached + reply.tokens_out * out
        provider = "openai" if reply.model.startswith("gpt") else "anthropic"
        call = LlmResponse(model_provider=provider, model=reply.model, duration=1.0, success=True)
        for name, value in reply.usage().items():
            setattr(call, name, value)
        assert book.charge(call, usage_of(call)) == (float(cost / 1_000_000), "priced")


def test_the_help_names_the_options() -> None:
    shown = CliRunner().invoke(app, ["demo", "--help"]).output
    assert "--fast" in shown
    assert "--jaeger" in shown
